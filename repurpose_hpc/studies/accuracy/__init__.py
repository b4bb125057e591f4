"""Accuracy against communication, for every method and number of workers.

``job``: restructure and measure for every point; ``table``: what was found, on disk; ``plot``; ``command``.
"""
