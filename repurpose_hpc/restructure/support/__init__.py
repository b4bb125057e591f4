"""Step 3: the neurons that every worker receives; step 4.1: the weights that it keeps."""
