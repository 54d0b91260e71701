"""Run by test_loaders.py: streams in torch's loaders. `loaders.py save|restore FILE`."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

import trainkit
from trainkit.errors import DataError

KINDS = ("stream", "mixture", "packed")
job = trainkit.job()


def made(kind: str, *, batch: int = 8) -> Any:
    """The third epoch of a stream."""
    stream = job.stream("train", batch_size=batch, shuffle=True, tail="exact")
    if kind == "mixture":
        other = job.stream("train", batch_size=batch, shuffle=True, seed=5)
        return job.mixture({"a": (stream, 0.6), "b": (other, 0.4)}, until=11)
    if kind == "packed":
        return job.stream("train", batch_size=3, shuffle=True).packed("ids", length=7, batch_size=2, tail="pad")
    stream.set_epoch(2)
    return stream


def told(batches: Any) -> Iterator[list[int]]:
    for batch in batches:
        yield batch["id" if "id" in batch else "tokens"].reshape(-1).tolist()


def save(file: Path) -> None:
    """All batches of an epoch, and the state after each: alone, and by loaders."""
    found: dict[tuple[str, int], Any] = {}
    for kind in KINDS:
        alone = list(told(made(kind)))
        assert list(told(DataLoader(made(kind), batch_size=None, num_workers=2))) == alone, kind
        for workers in (0, 2):
            loader = StatefulDataLoader(made(kind), batch_size=None, num_workers=workers)
            seen, states = [], []
            for batch in told(loader):
                seen.append(batch)
                states.append(loader.state_dict())
            assert seen == alone, (kind, workers)
            found[kind, workers] = (alone, states)
    file.write_bytes(pickle.dumps(found))
    persistent()


def restore(file: Path) -> None:
    found = pickle.loads(file.read_bytes())
    for (kind, workers), (alone, states) in found.items():
        for stop, state in enumerate(states, 1):
            if workers and 2 < stop < len(alone) - 2:
                continue  # to start workers takes a while
            dataset = made(kind)
            loader = StatefulDataLoader(dataset, batch_size=None, num_workers=workers)
            loader.load_state_dict(state)
            if stop < len(alone) or workers:
                assert list(told(loader)) == alone[stop:], (kind, workers, stop)
            if not workers and kind != "packed" and stop == len(alone):
                assert len(list(told(loader))) == len(alone), "behind the last batch begins the next epoch"
        refuse(kind, workers, states[3])


def refuse(kind: str, workers: int, state: dict[str, Any]) -> None:
    """Loaders with another number of workers, and of batches that are dealt out otherwise."""
    for other in {0, 2, 3} - {workers} if kind == "stream" else ():
        loader = StatefulDataLoader(made(kind), batch_size=None, num_workers=other)
        loader.load_state_dict(state)
        try:
            next(iter(loader))
        except DataError as error:
            assert "of 2 DataLoader workers, and there are 3" in str(error), error
        except AssertionError as error:
            assert "expected for" in str(error), error  # torchdata: one state for several processes, or for one
        else:
            raise RuntimeError(f"{kind}: a state of {workers} workers was taken by {other}")
    if workers and kind == "mixture":
        loader = StatefulDataLoader(made(kind, batch=4), batch_size=None, num_workers=workers)
        loader.load_state_dict(state)
        try:
            next(iter(loader))
        except DataError as error:
            assert "dealt out other batches" in str(error), error
        else:
            raise RuntimeError(f"{kind}: workers took up a state of other batches")


def persistent() -> None:
    """Workers that live on go through one epoch after the other, as the stream alone does, or say why they cannot."""
    for loader_kind in (DataLoader, StatefulDataLoader):
        for kind in KINDS:
            alone = made(kind)
            epochs = [list(told(alone)) for _ in range(2)]
            loader = loader_kind(made(kind), batch_size=None, num_workers=2, persistent_workers=True)
            assert [list(told(loader)) for _ in range(2)] == epochs, kind
            if loader_kind is StatefulDataLoader:
                running = told(loader)
                third = [next(running)]
                state = loader.state_dict()
                fresh = StatefulDataLoader(made(kind), batch_size=None, num_workers=2)
                fresh.load_state_dict(state)
                assert third + list(told(fresh)) == list(told(alone)), kind
        loader = loader_kind(made("stream", batch=2), batch_size=None, num_workers=2, persistent_workers=True)
        next(iter(loader))
        try:
            next(iter(loader))
        except DataError as error:
            assert "persistent_workers" in str(error)
        else:
            raise RuntimeError("an epoch was begun anew, with batches of the one before that nobody took")


{"save": save, "restore": restore}[sys.argv[1]](Path(sys.argv[2]))
print("all is well")
