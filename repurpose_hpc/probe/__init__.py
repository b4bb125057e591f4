"""Measurements of this machine, its links and its kernels, for forecasts.

May import runtime and all that it imports.
"""
