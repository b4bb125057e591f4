"""Feature maps: convolutions, pools, element-wise steps and activations."""
