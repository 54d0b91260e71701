"""A stream as torch's DataLoader knows it. The one place in this package that imports torch by its name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from trainkit.data.stream import Stream, Workers
from trainkit.errors import DataError


class TorchStream(Stream, IterableDataset[Any]):
    """A stream that DataLoader and StatefulDataLoader take as a dataset: `DataLoader(stream, batch_size=None)`."""

    def __iter__(self) -> Iterator[Any]:
        _refuse_a_second_split()
        return super().__iter__()

    def _workers(self) -> Workers:
        info = get_worker_info()
        return Workers(0, 1) if info is None else Workers(info.id, info.num_workers)


def _refuse_a_second_split() -> None:
    """accelerate splits what a DataLoader gives among the ranks, and of a stream each rank has its own part already."""
    frame = sys._getframe(1)
    while frame.f_back:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "accelerate.data_loader" and "self" in frame.f_locals:
            kind = type(frame.f_locals["self"]).__name__
            if kind in ("IterableDatasetShard", "DataLoaderDispatcher"):
                raise DataError(
                    "accelerator.prepare would split this stream among the ranks a second time, and half of the data "
                    "would be lost: each rank has its own part already. Prepare model and optimizer only, and iterate "
                    "the stream itself"
                )
