"""Step 2: owners of all neurons; step 3.4 looks at them once more."""
