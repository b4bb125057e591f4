"""Time of an inference against the number of ranks.

``subject``: shards for every number of ranks, of a user's model or of synthetic ``networks``; ``job``: a
launch for every point, which is ``point``; ``table``: what was found, on disk; ``plot``; ``command``.
"""
