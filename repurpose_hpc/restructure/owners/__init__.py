"""Step 2: which worker owns which neuron."""
