"""Trained networks from files and PyTorch modules."""
