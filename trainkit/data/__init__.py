"""Streams of training data: what there is, in which order it comes, and how it gets here in time."""
