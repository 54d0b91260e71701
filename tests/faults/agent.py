"""The platform's agent that copies the folder of checkpoints to a bucket: file by file, in an order of its own.

It copies what is new, takes away what was deleted, leaves files alone that end in .sagemaker-ignore, and leaves markers
beside those that it copies. An object appears whole: so a copied file does too. Everything else it does at any moment.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from trainkit.checkpoint.tiers import IGNORED, UPLOADED, UPLOADING

ORDERS = ("alphabetical", "random", "small files first")


def started(folder: Path, copy: Path, order: str, dice: random.Random) -> int:
    """Begin, in a process of its own. Returns its id."""
    seed = dice.random()
    if pid := os.fork():
        return pid
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        copy.mkdir(exist_ok=True)
        _copy_for_ever(folder, copy, order, random.Random(seed))
    finally:
        os._exit(70)


def _copy_for_ever(folder: Path, copy: Path, order: str, dice: random.Random) -> None:
    while True:
        there = _files(folder)
        copied = _files(copy)
        new = sorted(there - copied)
        gone = sorted(copied - there)
        if order == "random":
            dice.shuffle(new)
            dice.shuffle(gone)
        elif order == "small files first":
            new.sort(key=lambda name: _size(folder / name))
        for name in new:
            _copy(folder / name, copy / name, dice)
        for name in gone:
            if not (folder / name).exists():
                (copy / name).unlink(missing_ok=True)
                with suppress(OSError):
                    (copy / name).parent.rmdir()
        time.sleep(dice.uniform(0, 0.02))


def _copy(source: Path, target: Path, dice: random.Random) -> None:
    marker = source.with_name(source.name + UPLOADING)
    try:
        marker.touch()
        content = source.read_bytes()
        time.sleep(dice.expovariate(1 / 0.03))
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.parent.parent / "scratch"
        scratch.write_bytes(content)
        scratch.replace(target)
        source.with_name(source.name + UPLOADED).touch()
    except OSError:
        pass  # it was deleted meanwhile
    finally:
        with suppress(OSError):
            marker.unlink()


def _files(folder: Path) -> set[str]:
    found = set()
    for directory in folder.glob("step-*"):
        with suppress(OSError):
            for path in directory.iterdir():
                if not path.name.endswith((IGNORED, UPLOADING, UPLOADED)):
                    found.add(f"{directory.name}/{path.name}")
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
