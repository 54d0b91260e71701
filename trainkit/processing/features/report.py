"""What the rows are like: report.json for programs, report.html for people.

Counts, nulls, least, greatest, mean and std are of all rows; distinct values are HyperLogLog's estimate (a few per
cent); quantiles, histograms, top values and drift come from a sample of about 200,000 rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainkit.processing.features import artifact, page
from trainkit.processing.features.artifact import Applied
from trainkit.processing.features.declared import NUMBER, Features
from trainkit.processing.features.fit import Looked
from trainkit.processing.features.write import Written
from trainkit.storage import commit

BINS = 20
TOP = 20
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
LEAST_SHARE = 1e-4
"""In place of an empty bin, when shares are compared: the logarithm of nothing is none."""


def write(
    folder: Path, features: Features, applied: Applied, looked: Mapping[str, Looked], written: Mapping[str, Written]
) -> dict[str, Any]:
    """Write both files, each whole or not at all; returns what report.json says."""
    made = document(features, applied, looked, written)
    commit.write_whole(folder / "report.json", artifact.canonical(made))
    commit.write_whole(folder / "report.html", page.page(made))
    return made


def document(
    features: Features, applied: Applied, looked: Mapping[str, Looked], written: Mapping[str, Written]
) -> dict[str, Any]:
    samples = {name: _sample(one) for name, one in written.items()}
    columns = {
        name: _column(
            name, kind, {split: sample[name] for split, sample in samples.items() if sample is not None}, looked
        )
        for name, kind in applied.kinds.items()
    }
    return {
        "artifact": applied.hash,
        "rows": {name: seen.rows for name, seen in looked.items()},
        "sampled": {name: 0 if sample is None else len(sample) for name, sample in samples.items()},
        "columns": columns,
        "vocabularies": _vocabularies(features, applied, written),
        "checks": _checks(features, looked),
    }


def _sample(one: Written) -> pa.Table | None:
    return pa.Table.from_batches(one.sample).combine_chunks() if one.sample else None


def _column(
    name: str, kind: str, sampled: Mapping[str, pa.ChunkedArray], looked: Mapping[str, Looked]
) -> dict[str, Any]:
    exact = {
        split: {fact: _plain(value) for fact, value in seen.columns[name].items()} for split, seen in looked.items()
    }
    numeric = kind in NUMBER or kind in ("timestamp", "date")
    values = {split: _numbers(column, kind) if numeric else column for split, column in sampled.items()}
    if numeric:
        edges = _edges(values.get("train"))
        shares = {split: _histogram(one, edges) for split, one in values.items()}
        more: dict[str, Any] = {"edges": edges}
        if kind in NUMBER:
            for split, one in values.items():
                exact[split]["quantiles"] = _quantiles(one)
    else:
        top = _top(values.get("train"))
        shares = {split: _among(one, top) for split, one in values.items()}
        more = {"top": top}
    drift = {
        split: {"psi": _psi(shares["train"], one), "jensen_shannon": _jensen_shannon(shares["train"], one)}
        for split, one in shares.items() if split != "train" and "train" in shares
    }  # fmt: skip
    return {"kind": kind, "splits": exact, "shares": shares, "drift": drift} | more


def _numbers(column: pa.ChunkedArray, kind: str) -> Any:
    """As float64, NaN where there is none."""
    if kind in ("timestamp", "date"):
        column = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    elif kind == "boolean":
        column = column.cast(pa.int8())
    x = pc.cast(column, pa.float64(), safe=False).to_numpy()
    x = np.where(np.isfinite(x), x, np.nan)
    return x / 1e6 if kind in ("timestamp", "date") else x


def _edges(x: Any) -> list[float]:
    """Of equal bins, from the first to the last hundredth of the training rows; what is beyond is in the outer bins."""
    there = x[~np.isnan(x)] if x is not None else np.zeros(0)
    if not len(there):
        return [0.0, 1.0]
    low, high = (float(one) for one in np.quantile(there, (0.01, 0.99), method="nearest"))
    if not low < high or not math.isfinite(high - low):
        return [low, low + max(1.0, abs(low))]
    return [float(one) for one in np.linspace(low, high, BINS + 1)]


def _histogram(x: Any, edges: Sequence[float]) -> list[float]:
    """Shares of rows in each bin, and at the end of those without a number."""
    there = x[~np.isnan(x)]
    counts, _ = np.histogram(np.clip(there, edges[0], edges[-1]), edges)
    return [float(one) / max(len(x), 1) for one in (*counts, len(x) - len(there))]


def _quantiles(x: Any) -> dict[str, float]:
    there = x[~np.isnan(x)]
    return (
        {
            str(q): float(value)
            for q, value in zip(QUANTILES, np.quantile(there, QUANTILES, method="nearest"), strict=True)
        }
        if len(there)
        else {}
    )


def _top(column: pa.ChunkedArray | None) -> list[str]:
    return [value for value, _ in _counter(column).most_common(TOP)] if column is not None else []


def _among(column: pa.ChunkedArray, top: Sequence[str]) -> list[float]:
    """Shares of rows with each of the top values, with another, and with none."""
    counted, rows = _counter(column), max(len(column), 1)
    found = [counted[value] / rows for value in top]
    empty = column.null_count / rows
    return [*found, max(0.0, 1 - sum(found) - empty), empty]


def _counter(column: pa.ChunkedArray) -> Counter[str]:
    pairs = pc.value_counts(column.drop_null())
    values, counts = pairs.field("values").to_pylist(), pairs.field("counts").to_pylist()
    return Counter(
        {value: count for count, value in sorted(zip(counts, values, strict=True), key=lambda one: (-one[0], one[1]))}
    )


def _psi(p: Sequence[float], q: Sequence[float]) -> float:
    """The population stability index: below 0.1 little, above 0.25 much."""
    pairs = [(max(a, LEAST_SHARE), max(b, LEAST_SHARE)) for a, b in zip(p, q, strict=True)]
    return sum((b - a) * math.log(b / a) for a, b in pairs)


def _jensen_shannon(p: Sequence[float], q: Sequence[float]) -> float:
    """The distance, 0 (equal) to 1 (nothing in common)."""

    def to_middle(one: Sequence[float]) -> float:
        return sum(a * math.log2(a / ((b + c) / 2)) for a, b, c in zip(one, p, q, strict=True) if a > 0)

    return math.sqrt(max(0.0, (to_middle(p) + to_middle(q)) / 2))


def _vocabularies(features: Features, applied: Applied, written: Mapping[str, Written]) -> dict[str, Any]:
    found = {}
    for one, learnt in zip(features.transforms, applied.fitted, strict=True):
        if one.output in next(iter(written.values())).unknown or any(one.output in w.unknown for w in written.values()):
            rates = {}
            for split, counts in written.items():
                unknown, known = counts.unknown.get(one.output, 0), counts.known.get(one.output, 0)
                rates[split] = unknown / (unknown + known) if unknown + known else 0.0
            found[one.output] = {"words": len(learnt.words), "unknown": rates}
    return found


def _checks(features: Features, looked: Mapping[str, Looked]) -> list[dict[str, Any]]:
    rows = sum(seen.rows for seen in looked.values())
    return [
        {"condition": check.condition, "allow": check.allow,
         "failed": {name: seen.failed[place] for name, seen in looked.items()},
         "passed": sum(seen.failed[place] for seen in looked.values()) <= check.allow * rows}
        for place, check in enumerate(features.checks)
    ]  # fmt: skip


def _plain(value: Any) -> Any:
    """As JSON holds it: what is no finite number becomes its name."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
