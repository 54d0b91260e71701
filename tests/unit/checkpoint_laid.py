"""Checkpoints of any number of ranks and hosts, laid by this process alone, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainkit.checkpoint import crc, image, manifest, own, plan, statefile, tiers, tree
from trainkit.checkpoint.__main__ import main
from trainkit.checkpoint.boxes import Box
from trainkit.checkpoint.manifest import File, Manifest
from trainkit.checkpoint.plan import Held, Holdings, Plan

NAMES = {"float32": "F32", "float64": "F64", "int64": "I64", "uint8": "U8", "bool": "BOOL", "complex128": "C128"}
Arrays = Mapping[str, np.ndarray[Any, Any]]
MODEL = {"aliases": {}, "others": {}}


def lay(
    *places: Path | str,
    step: int,
    tensors: Arrays,
    trees: Mapping[str, Any] | None = None,
    ranks: int = 1,
    sharded: Collection[str] = (),
    metrics: Mapping[str, float] | None = None,
    attempt: str | None = None,
    changed: Callable[[str, bytearray], bytearray] = lambda name, content: content,
) -> Manifest:
    """Write and commit one. As many hosts as places: each has its ranks' files, and copies of what it lacks.

    `sharded` tensors lie in rows on the ranks, the others whole on each. `changed`: a file's content, as it is to be
    written; checksums are of what is written.
    """
    host_of = tuple(rank * len(places) // ranks for rank in range(ranks))
    held = [_held(name, array, ranks if name in sharded else 0, ranks) for name, array in tensors.items()]
    made = plan.make(held, host_of=host_of, copies=len(places) > 1)
    attempt = attempt or f"{step:024x}"
    directory = manifest.directory(step, attempt)
    written: list[File] = []
    for rank in range(ranks):
        tier = tiers.of(str(places[host_of[rank]]))
        for name, start, content in _contents(made, rank, tensors, {"model": MODEL} if trees is None else trees):
            content = changed(name, content)
            sums = tier.put(directory, name, [memoryview(content)])
            written.append(File(name, len(content), crc.joined(sums, len(content)), sums, start))
    hosts = tuple(f"algo-{host + 1}" for host in range(len(places)))
    whole = Manifest(
        step=step, attempt=attempt, job="a-job", at=1_780_000_000.0, hosts=hosts, host_of=host_of,
        plan=made, files=tuple(written), metrics=metrics or {}, alike=tuple(trees or ("model",)),
    )  # fmt: skip
    for place in places:
        tiers.of(str(place)).put_manifest(directory, whole.text())
    return whole


def _held(name: str, array: np.ndarray[Any, Any], parts: int, ranks: int) -> Held:
    whole = Box.whole(array.shape)
    if 0 in array.shape:
        boxes: Any = ()
    elif parts:
        boxes = tuple((box, (rank,)) for rank, box in enumerate(whole.split(parts)))
    else:
        boxes = ((whole, tuple(range(ranks))),)
    return Held(name, NAMES[array.dtype.name], array.shape, Holdings(boxes))


def _contents(made: Plan, rank: int, tensors: Arrays, trees: Mapping[str, Any]) -> list[tuple[str, int, bytearray]]:
    contents = []
    for copies in (False, True):
        picture = image.of(made, rank, copies=copies)
        if picture.slots:
            content = bytearray(picture.header)
            for slot in picture.slots:
                content += tensors[slot.name][slot.box.within(Box.whole(tensors[slot.name].shape))].tobytes()
            contents.append((image.file_name(rank, copies=copies), len(picture.header), content))
    return [*contents, (image.state_name(rank), 0, states(trees))]


def states(trees: Mapping[str, Any]) -> bytearray:
    """A state file. A tree.Packed among the trees stands for what only torch could have packed."""
    packed = {name: one for name, one in trees.items() if isinstance(one, tree.Packed)}
    laid = own.measure({name: None if name in packed else one for name, one in trees.items()})
    if not packed:
        content = bytearray(laid.size)
        laid.write_into(memoryview(content))
        return content
    images = {
        name: bytes(statefile.encode(packed.get(name) or tree.pack(one, where=name))) for name, one in trees.items()
    }
    index, data = {}, b""
    for name, content_of in images.items():
        index[name] = [len(data), len(content_of)]
        data += content_of.ljust(-(-len(content_of) // 64) * 64)
    text = json.dumps(index).encode()
    return bytearray(len(text).to_bytes(8, "little") + text + data)


def resealed(place: Path, whole: Manifest, **changes: Any) -> None:
    """Write its manifest anew, with other things in it."""
    (place / whole.directory / manifest.FILE).write_text(replace(whole, **changes).text())


def arrays(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """A model of every size that makes a difference."""
    rng = np.random.default_rng(seed)
    return {
        "model.embed": rng.random((1000, 130), dtype=np.float32),
        "model.layer.weight": rng.random((7, 5), dtype=np.float32),
        "model.layer.bias": rng.random(5),
        "model.count": np.array(7 + seed),
        "model.none": np.empty((0, 3), dtype=np.float32),
        "model.mask": rng.random(11) < 0.5,
        "optimizer.state.embed.exp_avg": rng.random((1000, 130), dtype=np.float32),
    }


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def call(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `trainkit checkpoint …`, in this process."""
    code = 0
    try:
        main([str(one) for one in argv])
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def lines(text: str, word: str) -> Sequence[str]:
    return [line for line in text.splitlines() if word in line]
