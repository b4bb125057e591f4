"""Streams: input, outputs and the batches between them.  Neither input nor output has to fit in memory."""
