"""How fast kernels, exchanges and inference are, each beside what a user would take instead."""
