"""Speed of kernels, exchanges, inference and streams, each beside what a user would take instead.

May import runtime, restructure and all that they import.
"""
