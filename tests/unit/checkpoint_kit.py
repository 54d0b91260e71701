"""Trees for the tests of trees and state files, exact comparison, and structures that nobody could have packed."""

from __future__ import annotations

import math
import random
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch
from test_data_stream import Storage, streams
from torch import nn

from trainkit.data.stream import Stream


def same(one: Any, other: Any) -> bool:
    """Whether both are of one type and value: order, sign of zero, dtypes and shapes included; NaN is NaN."""
    if isinstance(one, torch.nn.Parameter) or isinstance(other, torch.nn.Parameter):  # come back as plain tensors
        return same(one.data, other.data)
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and _bits(one) == _bits(other)
    if isinstance(one, np.ndarray | np.generic) and not isinstance(one, str | bytes):
        return one.dtype == other.dtype and one.shape == other.shape and _numbers(one) == _numbers(other)
    if isinstance(one, dict):
        factories = (getattr(one, "default_factory", None), getattr(other, "default_factory", None))
        return factories[0] is factories[1] and same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and same(sorted(one, key=_order), sorted(other, key=_order))
    if isinstance(one, list | tuple | deque):
        if isinstance(one, deque) and one.maxlen != other.maxlen:
            return False
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float | complex):
        return repr(one) == repr(other)
    return bool(one == other)


def _order(item: object) -> str:
    return f"{type(item).__name__} {item!r}"


def _bits(tensor: torch.Tensor) -> bytes:
    whole = tensor.detach().resolve_conj().resolve_neg().reshape(-1).clone(memory_format=torch.contiguous_format)
    return whole.view(torch.uint8).numpy().tobytes()


def _numbers(array: Any) -> list[str]:
    return [repr(number) for number in np.asarray(array).ravel().tolist()]


def random_tree(chance: random.Random, depth: int = 0) -> Any:
    """Any supported thing, and any supported thing within it."""
    if depth > 4 or chance.random() < 0.4:
        return chance.choice(_SIMPLE)(chance)
    items = [random_tree(chance, depth + 1) for _ in range(chance.randrange(5))]
    keys = {_text(chance): None} | {_key(chance): None for _ in items}
    pairs = list(zip(keys, items, strict=False))
    kind = chance.randrange(8)
    if kind < 3:
        return [items, tuple(items), deque(items, chance.choice([None, 5, 2**40]))][kind]
    if kind < 6:
        return [dict, OrderedDict, lambda given: defaultdict(chance.choice([int, list, None]), given)][kind - 3](pairs)
    return set(keys) if kind == 6 else frozenset(keys)


def _text(chance: random.Random) -> str:
    letters = 'ab.~/\\"\n\0é𐀀\ud800\udc00'
    return "".join(chance.choice(letters) for _ in range(chance.randrange(6)))


def _key(chance: random.Random) -> Any:
    kind = chance.randrange(6)
    if kind == 0:
        return (chance.randrange(3), _text(chance))
    return [None, None, True, chance.randrange(5), 0.5, chance.randbytes(2)][kind] if kind < 5 else _text(chance)


def _tensor(chance: random.Random) -> torch.Tensor:
    shape = [chance.randrange(4) for _ in range(chance.randrange(4))]
    dtypes = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint8, torch.float64]
    tensor = torch.tensor([chance.randrange(100) for _ in range(int(np.prod(shape, dtype=int)))]).reshape(shape)
    tensor = tensor.to(chance.choice(dtypes))
    return tensor.transpose(0, -1) if tensor.dim() and chance.random() < 0.3 else tensor


def _array(chance: random.Random) -> Any:
    dtype = chance.choice(["f4", ">f8", "i2", "?", "c16", "U3", "S2", "M8[s]", "m8[ns]", "u8", "f2"])
    shape = [chance.randrange(4) for _ in range(chance.randrange(3))]
    array = np.array([chance.randrange(90) for _ in range(int(np.prod(shape, dtype=int)))], dtype="i8")
    return array.astype(dtype).reshape(shape)


_SIMPLE = (
    lambda chance: None,
    lambda chance: chance.random() < 0.5,
    lambda chance: chance.randrange(-(10 ** chance.randrange(40)), 10 ** chance.randrange(1, 40)),
    lambda chance: chance.choice([chance.gauss(0, 1), float("nan"), float("inf"), -0.0, 1e-310]),
    lambda chance: complex(chance.random(), float("nan")),
    _text,
    lambda chance: chance.randbytes(chance.choice([0, 9, 256, 257, 1000])),
    lambda chance: bytearray(chance.randbytes(chance.choice([3, 400]))),
    lambda chance: chance.choice([np.float64(1.5), np.int8(3), np.str_("x\0"), np.datetime64("2026-01-01")]),
    lambda chance: chance.choice([torch.float16, torch.Size([1, 2]), torch.device("cpu")]),
    _tensor,
    _array,
)


def deep(levels: int) -> Any:
    structure: Any = []
    for _ in range(levels):
        structure = [structure]
    return structure


def nasty_structures() -> list[Any]:
    """None could have been packed. Leaves: t (float32 [2]), a (<f8 [2]), b (300 bytes), raw (8 bytes of float32)."""
    containers = ["dict", "ordered", "counter", "defaultdict", "tuple", "set", "frozenset", "deque"]
    others = ["int", "float", "complex", "str", "bytes", "bytearray", "tensor", "array", "scalar", "dtype", "size"]
    others += ["device", "list", "pickle", "__reduce__", ""]
    junk: list[Any] = [None, True, 1, -1, 1.5, "\ud800", "x", {}, {"leaf": "b", "x": 1}, {"leaf": 3}, {"leaf": "gone"}]
    junk += [{"dict": []}, deep(300), deep(100_000), object(), b"x", (1,)]
    lists: list[Any] = [["t"], ["t", "float32"], [[], [], []], [None]]
    nasty: list[Any] = [{}, {"tuple": [], "set": []}, deep(200), deep(100_000), object(), {1: 2}, {None: []}, (1,), b""]
    nasty += [{tag: content} for tag in containers + others for content in junk]
    nasty += [{tag: content} for tag in others for content in lists]
    nasty += [
        {"dict": ["a"]}, {"dict": [[], 1]}, {"dict": ["a", 1, "a", 2]}, {"dict": [1, 1, True, 2]}, {"set": [1, 1.0]},
        {"dict": [{"tuple": [[]]}, 1]}, {"set": [{"dict": []}]}, {"frozenset": [{"set": []}]},
        {"set": [{"tensor": ["t", "float32", [2]]}]}, {"dict": [{"array": ["a", "<f8", [2]]}, 0]},
        {"dict": [{"tensor": ["t", "float32", [2]]}, 0]},
        {"deque": []}, {"deque": [-1]}, {"deque": [1, 2, 3]}, {"deque": [{"int": hex(2**80)}]}, {"deque": [True]},
        {"deque": ["5"]}, {"defaultdict": []}, {"defaultdict": ["eval"]}, {"defaultdict": ["list", 1]},
        {"defaultdict": [[]]}, {"defaultdict": [{"size": []}]},
        {"int": "1_0"}, {"int": " 0x1"}, {"int": "10"}, {"int": "0xz"}, {"float": "1.0"}, {"float": "NaN"},
        {"complex": [1.0]}, {"complex": [1, 2]}, {"complex": [1.0, "nan"]}, {"complex": {"a": 1.0, "b": 2.0}},
        {"str": "zz"}, {"str": "ff"}, {"bytes": "é"}, {"bytes": "AAA"}, {"bytes": "A\nAAA"},
        {"bytes": {"leaf": "t"}}, {"bytes": {"leaf": "raw"}}, {"bytearray": {"leaf": "b"}},
        [{"bytes": {"leaf": "b"}}, {"bytes": {"leaf": "b"}}],
        *({"tensor": [name, dtype, shape]} for name, dtype, shape in [
            ("gone", "float32", [2]), ("a", "float32", [2]), ("b", "float32", [2]), ("t", "float64", [2]),
            ("t", "float32", [1, 2]), ("t", "float32", [2.0]), ("t", "float32", [True]), ("t", "float32", "2"),
            ("t", "Tensor", [2]), ("t", "__class__", [2]), ("t", ["float32"], [2]), ("raw", "float32", [3]),
            ("raw", "int32", [2]), ("raw", "float32", [-2]), ("raw", "float32", [2**40] * 80), ("raw", "qint8", [8]),
            ("raw", "float32", [0, 2**62, 2**62]), (["raw"], "float32", [2]), (None, "float32", [2]),
        ]),
        *({"array": [name, dtype, shape]} for name, dtype, shape in [
            ("a", "<f4", [2]), ("a", "<f8", [2, 1]), ("t", "<f8", [2]), ("raw", "|O", [1]), ("raw", "O", [1]),
            ("raw", "<f4,<f4", [1]), ("raw", "|V8", [1]), ("raw", "<U0", [2]), ("raw", "<U999999999999", [0]),
            ("raw", "<M8[xx]", [1]), ("raw", "<f3", [1]), ("raw", "=f4", [2]), ("raw", "<f4", [2] * 70),
            ("raw", "<f4", [2**59, 0, 2**59]), ("raw", "<f4 ", [2]), ("raw", "float32", [2]),
        ]),
        {"scalar": ["<f8", "00"]}, {"scalar": ["|O", "00" * 8]}, {"scalar": ["<U2", "00" * 8]}, {"scalar": ["U", "ff"]},
        {"scalar": ["<f8", "zz"]}, {"scalar": ["", ""]}, {"scalar": ["<M8[s]"]}, {"scalar": [1, 2]},
        {"dtype": "Tensor"}, {"dtype": "_inductor"}, {"dtype": "load"}, {"dtype": []}, {"size": [1.5]}, {"size": ["1"]},
{"device": "nowhere"}, {"device": "cuda:x"}, {"device": "cuda:9999"}, {"device": "a" * 99},
    ]  # fmt: skip
    return nasty


nan = float("nan")
VALUES: list[Any] = [
    None, True, False, 0, -1, 2**53, -(2**53), 2**53 - 1, 10**5000, -(2**127), 0.0, -0.0, 0.1, 5e-324, 1e22, 1.0,
    nan, math.inf, -math.inf, 1j, complex(-0.0, nan), complex(math.inf, -0.0), "", "a\0b", "\ud800", "\ud800\udc00",
    "𐀀", "nan", b"", b"\0\xff", bytes(256), bytes(257), bytearray(b"x"), bytearray(300), (), [], {}, set(), frozenset(),
    (1, (2, [3, ()])), {1: "int", "1": "str", (1, "a"): None, None: 0, 1.5: [], b"k": 1, frozenset({2}): 2, -0.0: 3},
    {"float": "nan"}, {"tensor": ["x", "float32", []]}, {"z": 1, "a": 2}, {nan: 1}, {True: 1, 0: 2},
    {1, "1", (1,), None, frozenset({nan})}, {np.float64(2.5), b"x"}, OrderedDict([("b", 1), ("a", [])]),
    Counter({2: 1, 1: 3}), defaultdict(list, {"a": [1]}), defaultdict(None, a=1),
    defaultdict(dict, {1: defaultdict(set)}),
    deque([1, 2]), deque([1], 5), deque(maxlen=0), deque([deque()], 2**62),
    np.float64(nan), np.float32(0.1), np.bool_(True), np.int8(-3), np.uint64(2**64 - 1), np.complex64(1 + 2j),
    np.datetime64("2026-11-22T10:00:00.123", "ms"), np.datetime64("NaT"), np.timedelta64(5, "25s"), np.str_("a\0"),
    np.str_(""), np.bytes_(b"a\0"), np.bytes_(b""), np.longdouble("0.1"), np.float16(-0.0),
    np.array(3), np.zeros((0, 3)), np.arange(6).reshape(2, 3).T, np.array([True, False]), np.array(["a", "bcd", ""]),
    np.array([b"a\0b", b""]), np.array(["2026-01-01", "NaT"], dtype="M8[D]"), np.array([1, 2], dtype=">u4"),
    np.array(["ü", "\0x"], dtype=">U2"), np.array([1, 2j]), np.array([0.1, nan], dtype=np.longdouble),
    np.float16([1, 2]), np.array([5], dtype="m8[7us]"), np.array([1], dtype=np.int8)[::-1],
    torch.float32, torch.bfloat16, torch.qint8, torch.Size([]), torch.Size([2, 0, 3]), torch.device("cpu"),
    torch.device("cuda", 1), {torch.float16: torch.Size([1])},
    torch.tensor(1.5), torch.zeros(0, 4), torch.arange(6).reshape(2, 3).t(), torch.tensor([True, False]),
    torch.tensor([1.5, nan], dtype=torch.bfloat16), torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag,
    torch.tensor([1j], dtype=torch.complex128), torch.tensor([3], dtype=torch.uint64), torch.ones(2, 3).half(),
    torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn), torch.tensor([1.0]).to(torch.float8_e5m2fnuz),
    torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), torch.ones(1).expand(3),
]  # fmt: skip


def real_states() -> list[Any]:
    """Each after a few steps, so that there is something in it."""
    states: list[Any] = []
    for make in (
        lambda given: torch.optim.AdamW(given, amsgrad=True),
        lambda given: torch.optim.SGD(given, lr=0.1, momentum=0.9),
        lambda given: torch.optim.Adafactor(given),
        lambda given: torch.optim.LBFGS(given, max_iter=3),
    ):
        model = nn.Linear(3, 2)
        optimizer = make(model.parameters())
        for _ in range(2):

            def loss(model: nn.Module = model, optimizer: Any = optimizer) -> torch.Tensor:
                optimizer.zero_grad()
                value = model(torch.ones(4, 3)).square().sum()
                value.backward()
                return value

            optimizer.step(loss)
        states += [model.state_dict(), dict(model.named_parameters()), optimizer.state_dict()]
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler
    schedulers = [
        schedule.LambdaLR(optimizer, lambda epoch: 0.9**epoch), schedule.CosineAnnealingLR(optimizer, 10),
        schedule.ReduceLROnPlateau(optimizer), schedule.OneCycleLR(optimizer, 0.1, total_steps=9),
        schedule.MultiStepLR(optimizer, [2, 3]), schedule.CyclicLR(optimizer, 0.1, 0.2),
        schedule.CosineAnnealingWarmRestarts(optimizer, 3), torch.optim.swa_utils.SWALR(optimizer, 0.05),
        schedule.ChainedScheduler([schedule.StepLR(optimizer, 2)], optimizer),
        schedule.SequentialLR(optimizer, [schedule.LinearLR(optimizer), schedule.ConstantLR(optimizer)], [1]),
    ]  # fmt: skip
    optimizer.step()
    for scheduler in schedulers:
        scheduler.step(*([1.0] if isinstance(scheduler, schedule.ReduceLROnPlateau) else []))
    states += [scheduler.state_dict() for scheduler in schedulers]
    states += [torch.amp.GradScaler("cpu").state_dict(), torch.get_rng_state(), random.Random(3).getstate()]
    states += [np.random.RandomState(3).get_state(), np.random.RandomState(3).get_state(legacy=False)]
    states += [np.random.default_rng(3).bit_generator.state, stream().state_dict()]
    return states


def stream() -> Stream:
    return streams(Storage([7, 5]), 1)[0]
