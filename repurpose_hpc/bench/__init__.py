"""Speed of kernels, exchanges and inference, each beside what a user would take instead.

May import runtime, restructure and all that they import.
"""
