"""Typed trees: what goes in comes out, of the same type; what cannot is refused with its path."""

from __future__ import annotations

import collections
import copy
import datetime
import enum
import fractions
import functools
import itertools
import json
import pathlib
import random
import subprocess
import sys
from collections import OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from checkpoint_kit import VALUES, nasty_structures, random_tree, real_states, same
from torch import nn

from trainkit.checkpoint.leaves import Form, Stored
from trainkit.checkpoint.tree import DEPTH, pack, unpack
from trainkit.errors import CheckpointError


def round_trip(value: object) -> Any:
    packed = pack(value, where="state")
    return unpack(json.loads(json.dumps(packed.structure, allow_nan=False)), packed.leaves)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_each_documented_value_comes_back_with_its_type(value: object) -> None:
    assert same(round_trip(value), value)
    assert same(round_trip({"deep": [(value,)]}), {"deep": [(value,)]})


def test_hundreds_of_random_trees_come_back() -> None:
    for seed in range(400):
        tree = random_tree(random.Random(seed))
        assert same(round_trip(tree), tree), seed


def test_the_comparison_of_these_tests_sees_small_differences() -> None:
    pairs = [
        (1, True),
        (0.0, -0.0),
        (1, 1.0),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (deque(maxlen=1), deque()),
    ]
    pairs += [
        (np.float32(1), np.float64(1)),
        (torch.ones(1), torch.ones(1, 1)),
        (np.ones(1), [1.0]),
        ({}, OrderedDict()),
    ]
    pairs += [(defaultdict(int), defaultdict(list)), (torch.zeros(1), -torch.zeros(1)), (b"", bytearray())]

    assert not any(same(one, other) for one, other in pairs)


def test_leaves_are_the_objects_themselves_under_the_names_of_their_paths() -> None:
    weight, moment, array = torch.ones(2), nn.Parameter(torch.ones(1)), np.ones(1)
    state = {
        "optimizer": {"state": {"layers.0.weight": {"exp_avg": weight}, 0: {"exp_avg": moment}}},
        "cuda": [1, array],
        "blob": bytes(257),
    }

    leaves = pack(state, where="").leaves

    assert list(leaves) == [
        "optimizer.state.layers.0.weight.exp_avg", "optimizer.state.0.exp_avg", "cuda[1]", "blob"
    ]  # fmt: skip
    assert [leaf is given for leaf, given in zip(leaves.values(), (weight, moment, array), strict=False)] == [True] * 3
    assert list(pack(weight, where="").leaves) == ["value"]
    assert list(pack([weight], where="job.rng").leaves) == ["job.rng[0]"]


def test_names_of_leaves_are_unique_printable_and_short() -> None:
    one = torch.ones(1)
    keys: list[Any] = [
        1,
        "1",
        1.5,
        "1.5",
        True,
        "1~2",
        "__metadata__",
        "\n",
        "\ud800",
        "k" * 9999,
        "k" * 9998,
        b"x",
        (1,),
    ]
    state = dict.fromkeys(keys, one) | {"a.b": one, "a": {"b": one}}

    names = list(pack(state, where="").leaves)

    assert len(names) == len(set(names)) == len(keys) + 1  # 1 and True are one key
    assert names[:2] == ["1", "1~2"]
    assert "__metadata__" not in names
    assert all(name.isprintable() and len(name) < 200 and name.encode() for name in names)
    assert {"a.b", "a.b~2"} <= set(names)


def test_structures_are_alike_in_every_process_whatever_the_order_of_a_set() -> None:
    code = "from trainkit.checkpoint.tree import pack; print(pack({str(i) for i in range(99)}, where='').structure)"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip

    assert len(said) == 1


class Point(NamedTuple):
    x: int


class Colour(enum.IntEnum):
    RED = 1


class Scheduler:
    def state_dict(self) -> dict[str, Any]:
        return {}


class Words(str):
    pass


REFUSED: list[tuple[Any, str, str]] = [
    ({"lr_lambdas": [lambda epoch: epoch]}, "scheduler.lr_lambdas[0] is a function", "leave it out"),
    ({"inner": Scheduler()}, "scheduler.inner is a", "state_dict()"),
    ({"at": (Point(1),)}, "scheduler.at[0] is a", "_asdict()"),
    ({"c": Colour.RED}, "Colour", "int(…)"),
    ({"v": Words("2.13")}, "Words", "str(…)"),
    ({"t": datetime.datetime(2026, 1, 1)}, "scheduler.t is a datetime.datetime", "strings"),
    ({"p": pathlib.PurePosixPath("/")}, "scheduler.p is a pathlib.PurePosixPath", "strings"),
    ({"f": fractions.Fraction(1, 3)}, "fractions.Fraction", "numbers"),
    ({"f": functools.partial(int)}, "functools.partial", "leave it out"),
    ({"c": collections.ChainMap()}, "collections.ChainMap", "dict"),
    ({"d": defaultdict(lambda: 0)}, "scheduler.d is a defaultdict", "dict(…)"),
    ({"m": memoryview(b"x")}, "memoryview", "convert"),
    ({"r": range(3)}, "range", "lists"),
    ({Point(1): 1}, "scheduler has a key that is a", "tuple"),
    ({"a": {Colour.RED: 1}}, "scheduler.a has a key", "number"),
    ({"a": {(1, torch.ones(1)): 1}}, "scheduler.a has a key that is a torch.Tensor", "number"),
    ({"a": {torch.ones(1)}}, "scheduler.a has a key that is a torch.Tensor", "number"),
    ({"o": np.array([None])}, "scheduler.o holds object", "tolist()"),
    ({"o": np.zeros(2, dtype=[("a", "i4")])}, "scheduler.o holds", "tolist()"),
    ({"o": np.void(b"x")}, "scheduler.o holds", "tolist()"),
    ({"o": np.ma.array([1], mask=[True])}, "MaskedArray", "plain array"),
    ({"o": [np.ones(1).view(np.recarray)]}, "scheduler.o[0] is a numpy.rec", "plain array"),
    ({"s": torch.ones(2, 2).to_sparse()}, "scheduler.s is a tensor of layout torch.sparse_coo", "to_dense()"),
    ({"q": torch.empty(2, dtype=torch.bits8)}, "scheduler.q is a tensor of torch.bits8", "integers"),
    ({"q": torch.ones(2, device="meta")}, "scheduler.q is a tensor on the meta device", "filled"),
    ({"q": torch.ones(2).as_subclass(type("Own", (torch.Tensor,), {}))}, "Own", "tensors it is made of"),
    ({"q": nn.UninitializedParameter()}, "UninitializedParameter", "tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "problem", "remedy"), REFUSED)
def test_what_cannot_come_back_is_refused_with_its_path_and_what_to_do(value: Any, problem: str, remedy: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        pack(value, where="scheduler")

    assert problem in str(refused.value)
    assert remedy in str(refused.value)
    assert str(refused.value).startswith("scheduler")


def nested(depth: int, kind: str = "list") -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = {"list": lambda inner: [inner], "dict": lambda inner: {"k": inner}, "tuple": lambda inner: (inner,)}[
            kind
        ](value)
    return value


def test_circles_and_bottomless_states_are_refused_and_200_levels_are_not() -> None:
    for kind in ("list", "dict", "tuple"):
        assert round_trip(nested(DEPTH, kind)) == nested(DEPTH, kind)
        for depth in (DEPTH + 1, 5000):
            with pytest.raises(CheckpointError, match=f"the {DEPTH + 1}st container within another"):
                pack(nested(depth, kind), where="")
    circle: dict[str, Any] = {"a": [1]}
    circle["a"].append(circle)
    with pytest.raises(CheckpointError, match=r"^s\.a\[1\] contains itself"):
        pack(circle, where="s")
    key: Any = ()
    for _ in range(3000):
        key = (key,)
    with pytest.raises(CheckpointError, match=r"deep|within another"):
        pack({key: 1}, where="")
    twice = [1]
    assert round_trip([twice, twice]) == [[1], [1]]


def test_what_optimizers_schedulers_scalers_and_generators_return_comes_back() -> None:
    for state in real_states():
        assert same(round_trip(state), state)


def test_a_structure_that_pack_could_not_have_made_is_a_checkpoint_error_and_nothing_else() -> None:
    tensor, array = torch.ones(2), np.ones(2)
    given = {"t": tensor, "a": array, "b": b"x" * 300, "raw": Stored(Form("F32", (2,), 8), memoryview(bytes(8)))}
    for structure in nasty_structures():
        try:
            unpack(structure, given)
        except CheckpointError as refused:
            assert len(str(refused)) < 300
        else:
            pytest.fail(f"{structure!r:.200} was taken")


def test_a_leaf_that_is_given_must_be_what_the_structure_says() -> None:
    structure = {"tensor": ["w", "float32", [2]]}
    tensor = torch.ones(2)
    assert unpack(structure, {"w": tensor, "more": 1}) is tensor
    wrong = [tensor.double(), tensor[:1], tensor.to_sparse(), tensor.to("meta"), np.ones(2, "f4"), b"x" * 8, None, "w"]
    for leaf in [*wrong, Stored(Form("F32", (2,), 8), memoryview(bytes(4))), memoryview(bytes(8))]:
        with pytest.raises(CheckpointError, match=r"float32 \[2\]"):
            unpack(structure, {"w": leaf})


def test_random_changes_to_structures_give_a_value_or_a_checkpoint_error() -> None:
    chance = random.Random(7)
    spare: list[Any] = [
        None,
        True,
        -1,
        2**70,
        1e308,
        "",
        "nan",
        "0x",
        "\ud800",
        [],
        {},
        {"dict": []},
        [[]],
        "__class__",
    ]
    for seed in range(300):
        packed = pack(random_tree(random.Random(seed)), where="s")
        for _ in range(10):
            structure = json.loads(json.dumps(packed.structure))
            spoil(structure, chance, spare)
            try:
                unpack(structure, packed.leaves)
            except CheckpointError:
                pass


def spoil(structure: Any, chance: random.Random, spare: list[Any]) -> None:
    """Change one place of it."""
    nodes = [structure]
    for node in nodes:
        inner = node.values() if type(node) is dict else node if type(node) is list else ()
        nodes += [item for item in inner if type(item) in (dict, list)]
    node = chance.choice(nodes)
    if type(node) is dict and node:
        tag = chance.choice(list(node))
        content = node.pop(tag)
        tags = ["dict", "tensor", "array", "scalar", "deque", "set", "int", "str", "bytes", "size", "device", "dtype"]
        node[chance.choice([tag, *tags])] = copy.deepcopy(chance.choice([content, *spare]))
    elif type(node) is list and node:
        index = chance.randrange(len(node))
        action = chance.randrange(3)
        if action == 0:
            del node[index]
        elif action == 1:
            node.insert(index, copy.deepcopy(chance.choice(node)))
        else:
            node[index] = copy.deepcopy(chance.choice(spare))


def test_packing_and_unpacking_plain_states_imports_neither_torch_nor_numpy() -> None:
    code = """
import sys
from trainkit.checkpoint import statefile
from trainkit.checkpoint.tree import pack
state = {"step": 7, "rng": (3, tuple(range(9)), None), "blob": bytes(999)}
assert statefile.decode(statefile.encode(pack(state, where=""))) == state
print([name for name in ("torch", "numpy") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"


def test_paths_are_cheap_in_wide_states() -> None:
    state = {"params": {f"layers.{i}.weight": {"step": i, "exp_avg": b"x" * 257} for i in range(10_000)}}

    packed = pack(state, where="optimizer")

    assert len(packed.leaves) == 10_000
    assert list(itertools.islice(packed.leaves, 1)) == ["optimizer.params.layers.0.weight.exp_avg"]
