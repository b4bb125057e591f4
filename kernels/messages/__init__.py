"""Messages: packing rows, their numbers in fewer bits or without zeros, and blocks in shared memory."""
