"""WHO HAS WHAT: owners and masks, send and receive lists, one shard for each worker, all of it on disk.

May import model, io and errors.
"""
