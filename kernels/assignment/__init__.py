"""Restructuring: owners by transportation or as parts of a hypergraph, and projections of correlations."""
