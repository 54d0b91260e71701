"""Streams of training data: what there is, in which order it comes, and how it gets here in time."""

MEMORY = 256 << 20
"""Bytes of data that a stream holds on each rank, by default."""
