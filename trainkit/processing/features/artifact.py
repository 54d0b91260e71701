"""What was fitted, frozen: a folder without pickle, named by its hash.

    <sha256 of features.json>/features.json     the definition, the table's columns, statistics (floats as hex),
                                                and the SHA-256 of each file below
                              vocabulary/3.json  a list of texts: transform 3's words, in the order of their codes

Reading it takes the standard library and numpy. Every byte is compared with the hash before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainkit.contract import features as contract
from trainkit.contract.features import FILE
from trainkit.errors import DataError
from trainkit.processing.features import declared, kinds, rows
from trainkit.processing.features.declared import HashSplit, Transform
from trainkit.processing.features.sql import Fitted
from trainkit.storage import commit

FORMAT, VERSION = "trainkit-features", 1


@dataclass(frozen=True)
class Applied:
    """A fitted definition: `row` for one row, `batch` for many. Safe to share among threads."""

    hash: str
    document: Mapping[str, Any]
    transforms: tuple[Transform, ...]
    split: HashSplit | None
    fitted: tuple[Fitted, ...]

    @property
    def kinds(self) -> Mapping[str, str]:
        """Column → its type, of the columns that features are made of, and of the key, the target and the split."""
        found: Mapping[str, str] = self.document["columns"]
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row must name."""
        return tuple(dict.fromkeys(one.column for one in self.transforms))

    @property
    def numbers(self) -> tuple[str, ...]:
        """The features that are scaled numbers, in the order of the definition."""
        return tuple(one.output for one in self.transforms if isinstance(one, declared.Standardize | declared.Log1p))

    @property
    def codes(self) -> dict[str, int]:
        """How many codes each feature that is one has, 0 for missing among them: the rows of an embedding table."""
        found = {}
        for one, learnt in zip(self.transforms, self.fitted, strict=True):
            if isinstance(one, declared.Vocabulary | declared.Tokens):
                found[one.output] = len(learnt.words) + 2
            elif isinstance(one, declared.Hash):
                found[one.output] = one.buckets + 1
            elif isinstance(one, declared.Bucketize):
                found[one.output] = len(one.boundaries) + 2
        return found

    def row(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The features of one row of the joined table: numpy scalars, and arrays of lists. None is null.

        Other keys are passed over (the target is no feature). Raises DataError where a column is not named, or its
        value is not of the column's type.
        """
        made: dict[str, Any] = {}
        try:
            for column, read, name, apply in self._single:
                made[name] = apply(read(values[column]))
            for column, read, names, apply in self._several:
                made.update(zip(names, apply(read(values[column])), strict=True))
        except KeyError as missing:
            raise DataError(
                f"the row has no {missing}: it must name {', '.join(self.columns)} (None for null)"
            ) from None
        return made

    def batch(self, table: Any) -> dict[str, Any]:
        """The features of many rows: a pyarrow Table or RecordBatch, or a mapping of names to arrays.

        numpy arrays, [rows] or [rows, length]; of Passthrough a pyarrow array. The same bits as `row`.
        """
        from trainkit.processing.features import batches

        return batches.apply(self.transforms, self.fitted, self.kinds, table)

    def split_of(self, value: Any) -> str:
        """The split that a value of the split's column belongs to."""
        if self.split is None:
            return "train"
        column = self.split.column
        return str(rows.split_of(self.split)(kinds.reader(self.kinds[column], column)(value)))

    @cached_property
    def _single(self) -> tuple[tuple[Any, ...], ...]:
        return tuple(self._functions(several=False))

    @cached_property
    def _several(self) -> tuple[tuple[Any, ...], ...]:
        return tuple(self._functions(several=True))

    def _functions(self, *, several: bool) -> list[tuple[Any, ...]]:
        return [
            (one.column, kinds.reader(self.kinds[one.column], one.column), one.outputs if several else one.output,
             rows.one(one, learnt, self.kinds[one.column]))
            for one, learnt in zip(self.transforms, self.fitted, strict=True)
            if isinstance(one, declared.TimeParts) == several
        ]  # fmt: skip


def load(path: str | os.PathLike[str], *, expect: str | None = None) -> Applied:
    """Read and verify an artifact. Raises DataError where a byte is not what was saved, or it is not `expect`.

    `path` is the artifact's folder, or what carries one: an output, one of its splits, a model's folder, whose own
    manifest is then believed too.
    """
    carried = contract.carried(Path(path))
    if len(carried) != 1:
        raise DataError(f"{path} holds {len(carried) or 'no'} artifact{'s' * bool(carried)}: name the folder of one")
    ((digest, folder),) = carried.items()
    if expect is not None and expect != digest:
        raise DataError(f"{folder} has the hash {digest}, and {expect} was asked for: fit again, or find that one")
    files = contract.contents(folder)
    raw = files[FILE]
    document = json.loads(raw)
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        what = f"{document.get('format')!r}, version {document.get('version')!r}"
        raise DataError(f"{folder / FILE} is {what}, and this trainkit reads {FORMAT}, version {VERSION}: fit again")
    transforms, split = declared.restored(document["definition"])
    fitted = tuple(_learnt(files, one) for one in document["fitted"])
    return Applied(digest, document, transforms, split, fitted)


def save(
    parent: Path, *, definition: Mapping[str, Any], columns: Mapping[str, str], fitted: Sequence[Fitted],
    counted: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any], rows_fitted: int,
) -> Path:  # fmt: skip
    """Write `parent/<hash>`, whole or not at all; one that is there already is left as it is. Returns its path."""
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".artifact.", suffix=".part", dir=parent))
    try:
        described = [_written(scratch, place, *both) for place, both in enumerate(zip(fitted, counted, strict=True))]
        document = {
            "format": FORMAT, "version": VERSION, "definition": definition, "definition_sha256": digest_of(definition),
            "columns": dict(columns), "inputs": inputs, "rows_fitted": rows_fitted, "fitted": described,
        }  # fmt: skip
        raw = canonical(document)
        commit.write_whole(scratch / FILE, raw)
        final = parent / hashlib.sha256(raw).hexdigest()
        scratch.chmod(0o755)
        try:
            scratch.rename(final)
        except OSError:  # it is there: of the same hash, so load says whether it is whole
            load(final)
        commit.sync(parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


def canonical(document: Mapping[str, Any]) -> bytes:
    """JSON with one way to write it: the same values are the same bytes on every host."""
    return json.dumps(document, sort_keys=True, ensure_ascii=True, allow_nan=False, indent=1).encode()


def digest_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(document)).hexdigest()


def _written(folder: Path, place: int, learnt: Fitted, counted: Mapping[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"mean": learnt.mean.hex(), "std": learnt.std.hex(), **counted}
    if learnt.words or "words" in counted:
        name = f"vocabulary/{place}.json"
        raw = json.dumps(learnt.words, ensure_ascii=False, separators=(",", ":")).encode()
        commit.write_whole(folder / name, raw)
        described |= {"file": name, "sha256": hashlib.sha256(raw).hexdigest(), "words": len(learnt.words)}
    return described


def _learnt(files: Mapping[str, bytes], described: Mapping[str, Any]) -> Fitted:
    words = tuple(json.loads(files[described["file"]])) if "file" in described else ()
    return Fitted(float.fromhex(described["mean"]), float.fromhex(described["std"]), words)
