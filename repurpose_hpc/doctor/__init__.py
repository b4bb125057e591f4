"""What a job runs on (``facts``), and what would go wrong (``findings``)."""
