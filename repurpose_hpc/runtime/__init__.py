"""A rank's program: steps over local arrays, the exchange, the input and output streams."""
