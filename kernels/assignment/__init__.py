"""Restructuring: the transportation problem of rows and workers, and projections of correlations."""
