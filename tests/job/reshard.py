"""Saves on some numbers of ranks and restores on others, every kind to every kind: reshard.py FOLDER PLAN.

PLAN: {"save": {"4": ["fsdp", …]}, "restore": {"3": […]}, "shape": {"width": 7, "blocks": 2}}
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import checkpoint_zoo as zoo
import ranks
import torch

from trainkit.checkpoint import crc, image, tiers
from trainkit.checkpoint.checkpointer import Checkpointer, Setup
from trainkit.checkpoint.holdings import Holders
from trainkit.checkpoint.manifest import Manifest
from trainkit.checkpoint.restoring import Restorer
from trainkit.checkpoint.retain import Retention
from trainkit.checkpoint.schedule import Schedule
from trainkit.checkpoint.subjects import of
from trainkit.checkpoint.world import World


def world(rank: int, number: int) -> World:
    return World.meet(rank=rank, ranks=number, hosts=("host-0",), host_rank=0)


def save(rank: int, number: int, *, folder: Path, kinds: list[str], shape: dict[str, int]) -> dict[str, float]:
    """Train a little, save, and note what is to come back, now and a step later. Returns the seconds of each save."""
    seconds = {}
    for kind in kinds:
        given, said = zoo.objects(kind, number, seed=5, **shape), []
        place = folder / f"{number}-{kind}"
        setup = Setup(job="j", places=(str(place),), schedule=Schedule(every=1), retention=Retention(last=2))
        made = Checkpointer(given, setup, world(rank, number), say=said.append)
        assert made.restore() == 0
        note(given, place.with_suffix(".truth"), rank)
        began = time.monotonic()
        assert made.save(zoo.STEPS - 1), said
        seconds[kind] = round(time.monotonic() - began, 2)
        made.close()
        zoo.step(given)
        note(given, place.with_suffix(".after"), rank)
    return seconds


def note(given: dict[str, Any], path: Path, rank: int) -> None:
    facts = zoo.facts(given)
    if rank == 0:
        torch.save(facts, path)


def restore(
    rank: int, number: int, *, folder: Path, saved: list[str], kinds: list[str], shape: dict[str, int]
) -> dict[str, Any]:
    """Restore all of them into each kind, into models of other values, and compare."""
    found: dict[str, Any] = {"wrong": [], "excess": [], "cases": 0, "read": 0, "needed": 0, "seconds": 0.0}
    here = world(rank, number)
    for kind in kinds:
        for source in saved:
            name = f"{source} -> {number}-{kind}"
            given, said = zoo.objects(kind, number, seed=6, **shape, steps=0), []
            restorer = Restorer(here, of(given), Holders(rank=rank, ranks=number), said.append)
            began = time.monotonic()
            restored = restorer.restore([tiers.of(str(folder / source))])
            found["seconds"] += time.monotonic() - began
            assert restored is not None and restored.manifest.step == zoo.STEPS, (source, said)
            truth = torch.load(folder / f"{source}.truth", weights_only=False)
            found["wrong"] += [f"{name}: {one}" for one in zoo.differences(truth, zoo.facts(given))][:4]
            needed, most = zoo.needed(given), bound(restored.manifest, zoo.needed(given), ranks=number)
            if restored.bytes_read > most:
                found["excess"].append(f"{name}: {restored.bytes_read} bytes for {needed}, and {most} are the most")
            found["cases"] += 1
            found["read"] += restored.bytes_read
            found["needed"] += needed
            zoo.step(given)
            if source == f"{number}-{kind}":
                later = torch.load(folder / f"{source}.after", weights_only=False)
                found["wrong"] += [f"{name}, later: {one}" for one in zoo.differences(later, zoo.facts(given))][:4]
    return found


def bound(whole: Manifest, needed: int, *, ranks: int) -> float:
    """Bytes: a fiftieth more than is needed, two blocks for each range, and one rank's own states.

    A range is what one piece in a file and one box in memory have in common. Pieces that are cut along another
    dimension than the box touch every block of the file: those are needed, too.
    """
    states = next(file.size for file in whole.files if file.name == image.state_name(0))
    ranges = sum(len(whole.plan.layouts[tensor.layout].pieces) for tensor in whole.plan.tensors)
    return 1.02 * needed + states + ranges * 2 * crc.BLOCK


def main(folder: Path, plan: dict[str, Any]) -> None:
    result: dict[str, Any] = {"save": {}, "restore": {}}
    shape = plan.get("shape", {})
    for number, kinds in plan["save"].items():
        work = partial(save, folder=folder, kinds=kinds, shape=shape)
        result["save"][number] = ranks.run(int(number), work)
    saved = [f"{number}-{kind}" for number, kinds in plan["save"].items() for kind in kinds]
    for number, kinds in plan["restore"].items():
        work = partial(restore, folder=folder, saved=saved, kinds=kinds, shape=shape)
        result["restore"][number] = ranks.run(int(number), work)
    for source in saved:
        shutil.rmtree(folder / source)
    (folder / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
