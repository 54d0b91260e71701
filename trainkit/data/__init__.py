"""Streams of training data: what there is, in which order it comes, and how it gets here in time."""

from trainkit.data.memory import before_arrow

MEMORY = 256 << 20
"""Bytes of data that a stream holds on each rank, by default."""

before_arrow()  # the one thing that this import does: once pyarrow is there, it is too late
