"""Owners and supports -> send and receive lists -> one shard for each worker."""
