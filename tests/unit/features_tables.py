"""A table that holds what goes wrong between engines, and a definition with every transform."""

from __future__ import annotations

import datetime
import random
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainkit.processing import (
    Bucketize,
    Check,
    Features,
    Hash,
    HashSplit,
    Log1p,
    OneHot,
    Passthrough,
    Standardize,
    TimeParts,
    Tokens,
    Vocabulary,
)  # fmt: skip

NUMBERS = (
    None, float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -1.0, 0.1, -0.1, 1e-300, -1e-300, 5e-324, 1e300,
    -1e300, 1.7976931348623157e308, 3.4028234663852886e38, 3.4028235677973366e38, 2.0**53 + 2, 1 - 2**-53, -1 + 2**-53,
    0.4142135623730951, 0.41421356237309503, -0.2928932188134524, 1023.0, 1022.9999999999999, 7.000000000000001,
)  # fmt: skip
WORDS = (
    None, "", "a", "A", "straße", "STRASSE", "é", "e\u0301", "日本語", "🙂", "ﬀ", "İ", "ı", "a b", "a\nb", "'", '"',
    "\\", "%", "\u0000", "x\u0000y", "null", "NaN", "\ufeff", "\u00a0", "long " * 40,
)  # fmt: skip
TEXTS = (
    None, "", " ", "the Quick brown fox", "THE quick", "naïve café №5", "日本 語 日本", "a-b_c.d/e", "one two " * 20,
    "🙂 ok", "\t\n", "x\u0000y", "İstanbul ıI", "ÀÉ àé", "1e5 0x10", "don't", "\u2028sep", "a\u00a0b",
)  # fmt: skip
TIMES = (
    None, datetime.datetime(1970, 1, 1), datetime.datetime(1969, 12, 31, 23, 59, 59, 999999),
    datetime.datetime(2024, 2, 29, 12),
    datetime.datetime(2024, 12, 30), datetime.datetime(2021, 1, 3, 23, 59), datetime.datetime(1, 1, 1),
    datetime.datetime(9999, 12, 31, 23, 59, 59), datetime.datetime(1900, 2, 28),
)  # fmt: skip
WHOLES = (None, 0, 1, -1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, -(2**63), 10, 11, 12)
RAW = ("x", "y", "f", "n", "b", "w", "t", "ts", "day")


def rows(count: int, *, seed: int) -> dict[str, list[Any]]:
    """Columns: row, x and y (float64), f (float32), n (int64), b (bool), w and t (text), ts, day."""
    chance = random.Random(seed)
    pick = chance.choice
    x = [pick(NUMBERS) if chance.random() < 0.2 else chance.gauss(3, 50) for _ in range(count)]
    y = [pick(NUMBERS) if chance.random() < 0.2 else chance.lognormvariate(0, 6) - 0.9 for _ in range(count)]
    bits = (struct.unpack("f", chance.randbytes(4))[0] for _ in range(count))  # any float32 there is
    start, span = datetime.datetime(2013, 1, 1), datetime.timedelta
    return {
        "row": list(range(count)),
        "x": x, "y": y, "f": [None if chance.random() < 0.05 else one for one in bits],
        "n": [pick(WHOLES) if chance.random() < 0.3 else chance.randrange(-(2**63), 2**63) for _ in range(count)],
        "b": [pick((None, True, False)) for _ in range(count)],
        "w": [pick(WORDS) if chance.random() < 0.7 else f"w{int(chance.paretovariate(0.7)) % 5000}"
              for _ in range(count)],
        "t": [pick(TEXTS) if chance.random() < 0.5 else f"{pick(TEXTS) or ''} w{chance.randrange(200)} Ü{pick('12')}"
              for _ in range(count)],
        "ts": [pick(TIMES) if chance.random() < 0.3 else start + span(microseconds=chance.randrange(10**15))
               for _ in range(count)],
        "day": [None if chance.random() < 0.1 else datetime.date(2000, 1, 1) + span(chance.randrange(20000))
                for _ in range(count)],
    }  # fmt: skip


SCHEMA = pa.schema(
    {"row": pa.int64(), "x": pa.float64(), "y": pa.float64(), "f": pa.float32(), "n": pa.int64(), "b": pa.bool_(),
     "w": pa.string(), "t": pa.string(), "ts": pa.timestamp("us"), "day": pa.date32()}
)  # fmt: skip


def lay(folder: Path, count: int, *, seed: int, files: int = 2) -> Path:
    """`count` rows as Parquet files."""
    folder.mkdir(parents=True)
    table = pa.table(rows(count, seed=seed), schema=SCHEMA)
    share = -(-count // files)
    for number in range(files):
        pq.write_table(table.slice(number * share, share), folder / f"{number}.parquet")
    return folder


EVERYTHING = Features(
    tables={"raw": "raw"}, table="SELECT * FROM raw", key="row", target="x",
    numeric=[
        Standardize("x", name="x_std"), Standardize("y", log1p=True, dtype="float64"), Standardize("f"),
        Standardize("b", name="b_std"), Standardize("n", dtype="float64", name="n_std"),
        Log1p("y", name="y_log", dtype="float64"), Log1p("x", name="x_log"),
        Bucketize("x", boundaries=(-10, -0.0, 0.1, 1e300), name="x_bucket"),
        Bucketize("n", boundaries=(0, 2**53), name="n_bucket"),
        Passthrough("f", name="f_raw"), Passthrough("y", name="y_raw"),
    ],
    categorical=[
        Vocabulary("w", min_count=3), Vocabulary("n", most=9), Vocabulary("b"), OneHot("w", most=7, name="w_hot"),
        OneHot("b", name="b_hot"), Hash("w", buckets=1000, name="w_hash"), Hash("n", buckets=77, seed=5, name="n_hash"),
        Hash("b", buckets=3, name="b_hash"),
    ],
    text=[Tokens("t", vocabulary=60, length=5)],
    time=[
        TimeParts("ts", parts=("year", "month", "day", "week", "dayofyear", "weekday", "hour", "minute", "second")),
        TimeParts("day", parts=("weekday", "week", "dayofyear")),
    ],
    split=HashSplit("row", train=0.7, validation=0.1, test=0.2),
    checks=[Check("row >= 0")],
)  # fmt: skip
