"""What ranks send each other, and the ways in which it is carried."""
