"""Products with a block of weights: dense, in compressed sparse rows, and what goes around them."""
