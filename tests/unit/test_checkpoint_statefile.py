"""State files: safetensors to whoever reads them, the same state to us, and an error where a byte is not as it was."""

from __future__ import annotations

import json
import math
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_kit import VALUES, deep, nasty_structures, random_tree, real_states, same
from safetensors import safe_open

from trainkit.checkpoint import statefile
from trainkit.checkpoint.statefile import MOST_HEADER, decode, encode, measure, parse
from trainkit.checkpoint.tree import Packed, pack, unpack
from trainkit.errors import CheckpointError


def file_of(value: object) -> bytearray:
    return encode(pack(value, where="state"))


def test_random_trees_and_every_documented_value_come_back_from_their_files() -> None:
    values = [random_tree(random.Random(seed)) for seed in range(300)] + VALUES
    for value in [*values, VALUES]:
        assert same(decode(file_of(value)), value)


def test_what_training_keeps_comes_back_from_one_file() -> None:
    states = real_states()

    assert same(decode(file_of(states)), states)


def test_safetensors_reads_the_file_and_finds_every_leaf(tmp_path: Path) -> None:
    state = {
        "bf16": torch.tensor([1.5, -2], dtype=torch.bfloat16), "odd": torch.tensor([True] * 3),
        "zero": torch.zeros(0, 2), "complex": torch.tensor([1 + 2j]), "f64": torch.tensor(2.0, dtype=torch.float64),
        "blob": bytes(range(256)) * 2, "dates": np.array(["2026-11-22"], dtype="M8[D]"),
        "i2": np.array([[1, 2], [3, 4]], dtype="i2").T,
    }  # fmt: skip
    path = tmp_path / "r00000.state"
    path.write_bytes(file_of(state))

    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {f"state.{name}" for name in state}
        assert same(file.get_tensor("state.bf16"), state["bf16"])
        assert same(file.get_tensor("state.odd"), state["odd"])
        assert same(file.get_tensor("state.zero"), state["zero"])
        assert same(file.get_tensor("state.f64"), state["f64"])
        assert file.get_tensor("state.complex").view(torch.complex64).tolist() == [[1 + 2j]]
        assert file.get_tensor("state.i2").tolist() == [[1, 3], [2, 4]]
        assert file.get_tensor("state.dates").shape == (1, 8)
        assert bytes(file.get_tensor("state.blob").tolist()) == state["blob"]
        assert file.metadata()["trainkit-state"] == "1"
        assert json.loads(file.metadata()["tree"])["dict"][:2] == ["bf16", {"tensor": ["state.bf16", "bfloat16", [2]]}]


def test_every_leaf_is_aligned_to_its_elements_and_the_data_to_64() -> None:
    state = [torch.tensor([1], dtype=getattr(torch, name)) for name in ("int8", "float64", "bool", "float16", "int64")]
    state += [torch.tensor([1j], dtype=torch.complex128), torch.tensor([1j, 2j])[:1]]

    image = measure(pack(state, where=""))

    assert len(image.header) % 64 == 0
    for leaf, start, size in image.places:
        assert size == leaf.element_size()
        assert start % size == 0


def test_the_size_is_known_before_and_the_room_is_filled_exactly() -> None:
    packed = pack({"a": torch.arange(5), "b": bytes(1000), "c": np.ones(3)}, where="")
    image = measure(packed)
    room = bytearray(b"\xaa" * (image.size + 20))

    image.write_into(memoryview(room)[10:-10])

    assert room[:10] == room[-10:] == b"\xaa" * 10
    assert room[10:-10] == encode(packed)
    for size in (image.size - 1, image.size + 1):
        with pytest.raises(ValueError, match=f"needs {image.size} bytes"):
            image.write_into(memoryview(bytearray(size)))


def test_a_file_can_be_written_where_nothing_is_aligned() -> None:
    pair = torch.tensor([1.5 + 2j, 1j], dtype=torch.complex128)
    state = [
        pair,
        pair.conj(),
        pair.imag,
        pair.real[:1],
        pair[:1].conj(),
        torch.arange(3),
        np.arange(3.0),
        np.longdouble([1]),
        torch.ones(2, 3).t(),
    ]
    image = measure(pack(state, where=""))
    room = memoryview(bytearray(image.size + 1))[1:]

    image.write_into(room)

    assert same(decode(room), state)


def test_what_is_decoded_stays_when_the_buffer_is_reused() -> None:
    state = {"t": torch.ones(3), "a": np.ones(3), "b": b"b" * 300, "c": bytearray(b"c" * 300), "s": "s" * 300}
    content = file_of(state)

    found = decode(memoryview(content))
    content[:] = bytes(len(content))

    assert same(found, state)
    found["t"] += 1  # and may be written to
    found["a"] += 1
    assert decode(memoryview(bytes(file_of(state))).toreadonly())["t"].tolist() == [1, 1, 1]


def test_parsing_copies_nothing_and_shows_what_is_there_without_torch() -> None:
    code = """
import sys
from trainkit.checkpoint.statefile import parse
packed = parse(sys.stdin.buffer.read())
print(packed.structure, [(name, *leaf.form) for name, leaf in packed.leaves.items()], "torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, check=True,
        input=file_of({"w": torch.ones(2, 3)}),
    )  # fmt: skip

    assert done.stdout.decode() == (
        "{'dict': ['w', {'tensor': ['state.w', 'float32', [2, 3]]}]} [('state.w', 'F32', (2, 3), 24)] False\n"
    )
    content = file_of({"w": torch.ones(2, 3)})
    view = parse(content).leaves["state.w"].data
    content[-4:] = struct.pack("<f", 9)
    assert view[-4:] == struct.pack("<f", 9)


def test_writing_copies_each_tensor_once_and_needs_no_further_memory() -> None:
    code = """
import mmap, resource, torch
from trainkit.checkpoint.statefile import measure
from trainkit.checkpoint.tree import pack
state = {"t": torch.ones(4096, 8192), "odd": torch.ones(8192, 2048).t(), "b": bytes(32 << 20)}
room = memoryview(mmap.mmap(-1, 256 << 20))
room[:: 4096] = bytes(len(room) // 4096)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = measure(pack(state, where=""))
image.write_into(room[: image.size])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, image.size >> 20)
"""
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    grown, size = map(int, done.stdout.split())
    assert size == 224
    assert grown < 16  # MiB; the smallest leaf has 32


def test_a_structure_that_is_too_long_and_a_leaf_that_is_a_dtensor_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"67108864 is the most.*array"):
        measure(pack({"text": "x" * MOST_HEADER}, where=""))
    from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        whole = DTensor.from_local(torch.ones(2), init_device_mesh("cpu", (1,)), [Replicate()])
        packed = pack({"w": whole}, where="model")
        assert packed.leaves["model.w"] is whole
        assert unpack(packed.structure, packed.leaves)["w"] is whole
        assert packed.structure == {"dict": ["w", {"tensor": ["model.w", "float32", [2]]}]}
        with pytest.raises(CheckpointError, match=r"^model\.w is a DTensor"):
            measure(packed)
    finally:
        torch.distributed.destroy_process_group()


SAMPLE = {
    "model": {"w": torch.arange(6.0).reshape(2, 3), "h": torch.ones(3, dtype=torch.bfloat16), "e": torch.zeros(0)},
    "rng": (3, (1, 2**60, 3), None), "np": np.array(["a", "bc"]), "blob": bytes(300), "c": torch.ones(1) * 1j,
    "x": [{"k": {1, 2}}, 1e300, float("nan"), torch.float16, np.float32(1)],
}  # fmt: skip


def refused(content: bytes | bytearray | memoryview) -> str:
    with pytest.raises(CheckpointError) as error:
        decode(content)
    assert len(str(error.value)) < 400
    return str(error.value)


def test_every_truncation_and_every_appended_byte_is_an_error() -> None:
    content = bytes(file_of(SAMPLE))
    for length in range(len(content)):
        refused(content[:length])
    refused(content + b"\0")
    refused(b"")


def test_flipped_bits_in_a_header_give_another_state_or_a_checkpoint_error() -> None:
    content = file_of(SAMPLE)
    errors = 0
    flips = range(len(measure(pack(SAMPLE, where="state")).header) * 8)
    for flip in flips:
        content[flip // 8] ^= 1 << flip % 8
        try:
            decode(content)
        except CheckpointError:
            errors += 1
        content[flip // 8] ^= 1 << flip % 8
    assert errors > len(flips) / 2
    assert same(decode(content), SAMPLE)


def test_random_damage_gives_another_state_or_a_checkpoint_error() -> None:
    chance = random.Random(11)
    contents = [bytes(file_of(random_tree(chance))) for _ in range(40)]
    for content in contents:
        for _ in range(50):
            damaged = bytearray(content)
            for _ in range(chance.choice([1, 2, 8])):
                start = chance.randrange(len(damaged))
                piece = chance.choice([chance.randbytes(3), b'"', b"[", b"}", b"\0", b"9", content[:20], b""])
                damaged[start : start + chance.randrange(4)] = piece
            try:
                decode(damaged)
            except CheckpointError:
                pass


def crafted(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_tree(tree: Any, leaves: dict[str, Any] | None = None, data: bytes = b"", **metadata: Any) -> bytes:
    text = tree if isinstance(tree, str) else json.dumps(tree)
    return crafted({"__metadata__": {"trainkit-state": "1", "tree": text, **metadata}, **(leaves or {})}, data)


def u8(start: int, end: int, **changed: Any) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end], **changed}


def test_handmade_nasties_are_checkpoint_errors_that_say_what_is_wrong() -> None:
    tree = {"bytes": {"leaf": "a"}}
    both = [tree, {"bytes": {"leaf": "b"}}]
    assert decode(with_tree(tree, {"a": u8(0, 4)}, b"abcd")) == b"abcd"
    assert decode(with_tree(both, {"a": u8(2, 4), "b": u8(0, 2)}, b"abcd")) == [b"cd", b"ab"]
    nasties: list[tuple[bytes, str]] = [
        (struct.pack("<Q", 1 << 63) + b"{}", "the header would be"),
        (struct.pack("<Q", MOST_HEADER + 1) + b"{}" + bytes(MOST_HEADER), "the header would be"),
        (crafted(b"[]"), "no JSON object"), (crafted(b"{}"), "does not say"), (crafted(b" {}"), "no JSON object"),
        (crafted(b'{"\xff": 1}'), "UTF-8"), (crafted(b'{"a": NaN}'), "NaN"), (crafted(b'{"a": 1'), "no JSON"),
        (crafted(b'{"a":' + b"[" * 100_000), "too deep"), (crafted(b'{"a": ' + b"9" * 9999 + b"}"), "no JSON"),
        (crafted(b'{"__metadata__": {"trainkit-state": "1", "tree": "1"}, "a": 1, "a": 1}'), "twice"),
        (crafted({"__metadata__": []}), "does not say"),
        (crafted({"__metadata__": {"trainkit-state": 1}}), "does not say"),
        (crafted({"__metadata__": {"trainkit-state": "1"}}), "tree is no JSON"),
        (crafted({"__metadata__": {"trainkit-state": "2", "tree": "1"}}), "is of version '2'"),
        (with_tree("{"), "tree is no JSON"), (with_tree("Infinity"), "Infinity"), (with_tree("[" * 90_000), "too deep"),
        (with_tree('{"a": 1, "a": 1}'), "twice"), (with_tree({"pickle": "gASV"}), "'pickle'"),
        (with_tree(json.dumps(deep(201))), "deeper"), (with_tree(1, {}, b"x"), "1 bytes at its end"),
        (with_tree(1, other=["a"]), "does not say"),
        (with_tree(1, {"a": u8(0, 2)}, b"ab"), "does not name the leaf 'a'"),
        (with_tree(tree), "'a' is missing"), (with_tree([tree, tree], {"a": u8(0, 2)}, b"ab"), "named twice"),
        (with_tree(tree, {"a": u8(0, 9)}, b"ab"), "does not lie"),
        (with_tree(tree, {"a": u8(1, 3)}, b"abc"), "does not lie"),
        (with_tree(both, {"a": u8(0, 3), "b": u8(2, 4)}, b"abcd"), "'b' does not lie"),
        (with_tree(both, {"a": u8(0, 2), "b": u8(3, 4)}, b"abcd"), "'b' does not lie"),
        (with_tree(both, {"a": u8(0, 2), "b": u8(0, 2)}, b"ab"), "'b' does not lie"),
        (with_tree(tree, {"a": u8(0, 4, shape=[5])}, b"abcd"), "makes no sense"),
        (with_tree(tree, {"a": u8(0, 4, shape=[-2, -2])}, b"abcd"), "makes no sense"),
        (with_tree(tree, {"a": u8(0, 4, shape=[2, 2])}, b"abcd"), "lie there as U8 [2, 2]"),
        (with_tree(tree, {"a": u8(0, 4, shape=[1], dtype="F32")}, b"abcd"), "lie there as F32"),
        (with_tree(tree, {"a": u8(0, 4, dtype="PY")}, b"abcd"), "makes no sense"),
        (with_tree(tree, {"a": u8(0, 4, dtype=["U8"])}, b"abcd"), "makes no sense"),
        (with_tree(tree, {"a": u8(0, 4, data_offsets=[4, 0])}, b"abcd"), "makes no sense"),
        (with_tree(tree, {"a": u8(0, 4, data_offsets=[0, 4, 4])}, b"abcd"), "makes no sense"),
        (with_tree(tree, {"a": u8(0, 4, data_offsets=[0.0, 4.0])}, b"abcd"), "makes no sense"),
        (with_tree(tree, {"a": u8(0, 4, more=1)}, b"abcd"), "makes no sense"),
        (with_tree(tree, {"a": u8(0, 0, shape=[2**64, 0])}), "makes no sense"),
        (with_tree({"tensor": ["a", "float64", [1]]}, {"a": u8(0, 8)}, bytes(8)), "lies there as U8 [8]"),
        (with_tree({"tensor": ["a", "complex64", [1]]}, {"a": u8(0, 8)}, bytes(8)), "lies there as U8 [8]"),
        (with_tree({"array": ["a", "<U1", [1]]}, {"a": u8(0, 4, shape=[1, 4])}, b"\xff" * 4), "do not exist"),
    ]  # fmt: skip
    for content, problem in nasties:
        said = refused(content)
        assert problem in said, (content[:200], said)
        assert said.startswith("is ")
    for structure in nasty_structures():
        try:
            text = json.dumps(structure)
        except (TypeError, RecursionError):
            continue
        if json.loads(text) == structure:  # JSON itself has no tuples, nor other keys than strings
            refused(with_tree(text))


def test_any_finite_number_and_any_name_survive_json() -> None:
    chance = random.Random(2)
    numbers = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(2000)]
    numbers = [number for number in numbers if math.isfinite(number)]
    state = {"numbers": numbers, "\ud800\n": torch.ones(1), "é": torch.ones(2), '"': bytes(999)}

    assert same(decode(file_of(state)), state)


def test_the_version_is_in_the_header_and_an_image_is_a_value() -> None:
    packed = Packed(7, {})

    assert measure(packed).size == len(measure(packed).header)
    assert decode(encode(packed)) == 7
    assert parse(encode(packed)) == packed
    assert statefile.VERSION == "1"
