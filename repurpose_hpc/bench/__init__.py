"""Speed of kernels, exchanges and inference, each beside what a user would take instead."""
