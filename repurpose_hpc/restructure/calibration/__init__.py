"""Steps 1 and 5: what the calibration data say about every mixing, and their way through the networks."""
