"""Circumstances of a job (``facts``), and what would go wrong (``findings``)."""
