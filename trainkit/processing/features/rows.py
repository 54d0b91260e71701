"""What every transform means, for one row: the standard library and numpy's scalars. The same in SQL: sql.py."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trainkit.processing.features import declared
from trainkit.processing.features.declared import HashSplit, Transform
from trainkit.processing.features.sql import (
    LAST_SHIFT,
    LN2,
    LOWER,
    MASK,
    MAX32,
    MAX64,
    ROOT_HALF,
    ROUNDS,
    SERIES,
    UPPER,
    Fitted,
)  # fmt: skip

One = Callable[[Any], Any]
"""One value, as kinds.reader gives it, to one feature (or, of TimeParts, a tuple of them)."""

_TOKEN = re.compile("[0-9a-z\x80-\U0010ffff]+")
_LOWERED = str.maketrans(UPPER, LOWER)
_FLOATS: Mapping[str, type[np.floating[Any]]] = {"float32": np.float32, "float64": np.float64}


def number(value: Any) -> float | None:
    """As float64; None where it is missing, NaN or infinite."""
    if value is None:
        return None
    value = float(value)
    return value if abs(value) <= MAX64 else None


def log1p(x: float) -> float:
    """log(1 + x) for x > -1, in the very steps of sql.log1p."""
    m, k = math.frexp(1.0 + x)
    if m < ROOT_HALF:
        m, k = m * 2.0, k - 1
    s = x / (2.0 + x) if k == 0 else (m - 1.0) / (m + 1.0)
    z = s * s
    series = SERIES[-1]
    for term in SERIES[-2::-1]:
        series = term + z * series
    return k * LN2 + (2.0 * s) * series


def logged(value: Any) -> float | None:
    x = number(value)
    return None if x is None or x <= -1.0 else log1p(x)


def hashed(value: Any, seed: int) -> int:
    """A number below 2**32: the same in every engine, and on every machine."""
    if isinstance(value, str):
        digest = hashlib.md5(f"{seed}/{value}".encode(), usedforsecurity=False).digest()
        return int.from_bytes(digest[:4], "little")
    return _mixed(_mixed(int(value) & MASK ^ seed) ^ int(value) >> 32 & MASK)


def _mixed(h: int) -> int:
    for shift, factor in ROUNDS:
        h = (h ^ h >> shift) * factor & MASK
    return h ^ h >> LAST_SHIFT


def split_of(split: HashSplit) -> One:
    """The name of the split that a value belongs to."""

    def place(value: Any) -> str:
        if value is None:
            return split.names[0]
        h = hashed(value, split.seed)
        return split.names[sum(h >= cut for cut in split.cuts)]

    return place


def word(value: Any) -> str:
    if isinstance(value, str):
        return value
    return ("false", "true")[value] if isinstance(value, bool) else str(value)


def tokens(text: str, length: int) -> list[str]:
    return _TOKEN.findall(text.translate(_LOWERED))[:length]


def one(transform: Transform, fitted: Fitted, kind: str) -> One:
    """The transform as a function of one value."""
    match transform:
        case declared.Standardize() | declared.Log1p():
            return _scaled(transform, fitted)
        case declared.Bucketize():
            return _bucketized(transform.boundaries)
        case declared.Vocabulary() | declared.OneHot():
            return _looked_up(transform, fitted)
        case declared.Hash():
            buckets, seed = transform.buckets, transform.seed
            return lambda value: np.int32(0 if value is None else 1 + hashed(value, seed) % buckets)
        case declared.Tokens():
            return _tokenized(transform, fitted)
        case declared.TimeParts():
            return _parts(transform.parts)
        case declared.Passthrough():
            return _FLOATS.get(kind, lambda value: value) if kind == "float32" else lambda value: value


def _scaled(transform: declared.Standardize | declared.Log1p, fitted: Fitted) -> One:
    floating = _FLOATS[transform.dtype]
    most = MAX32 if transform.dtype == "float32" else MAX64
    mean, std = fitted.mean, fitted.std
    nothing, standardized = floating(0.0), isinstance(transform, declared.Standardize)
    read = logged if not standardized or transform.log1p else number  # type: ignore[union-attr]

    def scale(value: Any) -> Any:
        x = read(value)
        if x is None:
            return nothing
        if standardized:
            x = (x - mean) / std
        return floating(min(max(x, -most), most))

    return scale


def _bucketized(boundaries: tuple[float, ...]) -> One:
    from bisect import bisect_right

    def bucket(value: Any) -> Any:
        x = number(value)
        return np.int32(0 if x is None else bisect_right(boundaries, x) + 1)

    return bucket


def _looked_up(transform: declared.Vocabulary | declared.OneHot, fitted: Fitted) -> One:
    places = {value: place for place, value in enumerate(fitted.words)}
    if isinstance(transform, declared.Vocabulary):
        return lambda value: np.int32(0 if value is None else places.get(word(value), -1) + 2)

    def hot(value: Any) -> Any:
        made = np.zeros(len(places), np.int8)
        place = None if value is None else places.get(word(value))
        if place is not None:
            made[place] = 1
        return made

    return hot


def _tokenized(transform: declared.Tokens, fitted: Fitted) -> One:
    places = {value: place + 2 for place, value in enumerate(fitted.words)}
    length = transform.length

    def codes(value: Any) -> Any:
        made = np.zeros(length, np.int32)
        if value:
            found = [places.get(token, 1) for token in tokens(value, length)]
            made[: len(found)] = found
        return made

    return codes


_PART: Mapping[str, Callable[[Any], int]] = {
    "week": lambda moment: moment.isocalendar()[1],
    "dayofyear": lambda moment: moment.timetuple().tm_yday,
    "weekday": lambda moment: moment.weekday(),
    **{name: (lambda moment, name=name: getattr(moment, name)) for name in  # type: ignore[misc]
       ("year", "month", "day", "hour", "minute", "second")},
}  # fmt: skip


def _parts(names: tuple[str, ...]) -> One:
    readers = tuple(_PART[name] for name in names)
    nothing = (np.int16(-1),) * len(names)
    return lambda moment: nothing if moment is None else tuple(np.int16(read(moment)) for read in readers)
