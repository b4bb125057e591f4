"""This process: threads, memory, libraries that it has loaded.

May import nothing of the package but errors.
"""
