"""Step 1: what the calibration data say about every mixing."""
