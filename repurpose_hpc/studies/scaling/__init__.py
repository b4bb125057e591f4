"""Time of an inference against the number of ranks.

``study``: shards for every number of ranks, of a user's model or of synthetic networks; ``launches``: a
launch of the command ``point`` for every point; ``table``: the findings, on disk; ``plot``: their picture.
"""
