"""Circumstances of a job (``facts``), and what would go wrong (``findings``).

May import runtime and all that it imports.
"""
