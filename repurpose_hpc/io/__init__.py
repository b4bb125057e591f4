"""Files: samples in, whole files out, lines of progress.

May import nothing of the package but errors.
"""
