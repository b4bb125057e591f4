"""Accuracy against communication, for every method and number of workers.

``study``: restructure and measure for every point; ``table``: the findings, on disk; ``plot``: their picture.
"""
