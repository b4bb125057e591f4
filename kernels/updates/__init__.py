"""Fine-tuning: steps of optimisers."""
