"""duckdb: opened within the memory there is, the inputs as its views, and what the table's columns are."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainkit.errors import ConfigError, DataError, Mistake, StorageError, UsageError
from trainkit.processing.features import declared, memory, remote
from trainkit.processing.features.declared import RESERVED, Features, Source
from trainkit.processing.features.kinds import KIND
from trainkit.processing.features.sql import DUCKDB
from trainkit.processing.features.tell import Tell, on_stderr, stage
from trainkit.storage.store import Entry

TABLE = f"{RESERVED}_raw"
_READERS = {"parquet": "read_parquet", "csv": "read_csv", "json": "read_json"}
_FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".csv.gz": "csv", ".tsv.gz": "csv",
    ".jsonl": "json", ".ndjson": "json", ".jsonl.gz": "json", ".ndjson.gz": "json", ".json": "json", ".json.gz": "json",
}  # fmt: skip
_GROWS, _PACKED = 2, 8
"""How many times as large as its files a table may be in memory, roughly; and of files that are packed."""
ROWS = 64 << 10  # of a batch
_ENDS = 64 << 10  # bytes at each end of a file that stand for it: of Parquet, its footer


@dataclass(frozen=True, slots=True)
class Input:
    """One input as it lies: files of one format, by their paths below its folder."""

    format: str
    files: tuple[Path, ...]
    fingerprint: str
    bytes: int
    objects: Mapping[str, Entry] = field(default_factory=dict)
    """Those of a URL, by their paths; `files` is then empty until they are `here`."""

    def described(self) -> dict[str, Any]:
        files = len(self.objects or self.files)
        return {"format": self.format, "files": files, "bytes": self.bytes, "fingerprint": self.fingerprint}


def find(features: Features, folders: Mapping[str, Path | str]) -> dict[str, Input]:
    """The inputs that a definition names, by the names of its tables; a URL is a str.

    Raises ConfigError, UsageError, StorageError, DataError.
    """
    named = {name: one.input if isinstance(one, Source) else one for name, one in features.tables.items()}
    lacking = sorted({one for one in named.values() if one not in folders})
    if lacking:
        raise UsageError(
            f"features.py reads the input{'s' * (len(lacking) > 1)} {', '.join(lacking)}, and given are "
            f"{', '.join(sorted(folders)) or 'none'}: add --input {lacking[0]}=DIR"
        )
    return {name: _input(name, folders[one]) for name, one in features.tables.items() for one in [named[name]]}


def is_empty(folder: Path) -> bool:
    """Whether a host's share of an input has no file with something in it."""
    return not any(one.stat().st_size for one in _visible(folder))


@contextmanager
def here(found: Mapping[str, Input], *, spill: Path | None, tell: Tell = on_stderr) -> Iterator[Mapping[str, Input]]:
    """The inputs with files that can be read: what lies at URLs is fetched, and away afterwards."""
    away = {name: one.objects for name, one in found.items() if one.objects}
    with remote.fetched(away, spill=spill, tell=tell) as now:
        for name, files in now.items():
            if _fingerprint({path: _end(file) for path, file in files.items()}) != found[name].fingerprint:
                raise DataError(f"the input {name} changed while it was fetched: start again when it is whole")
        yield {name: replace(one, files=tuple(now.get(name, {}).values()) or one.files) for name, one in found.items()}


def _visible(folder: Path) -> list[Path]:
    every = [folder] if folder.is_file() else sorted(one for one in folder.rglob("*") if one.is_file())
    return [one for one in every if not _hidden(one.relative_to(folder).parts)]


def _hidden(parts: Sequence[str]) -> bool:
    return any(not part or part[0] in "._" for part in parts)


def _input(name: str, place: Path | str) -> Input:
    if isinstance(place, str) and remote.is_url(place):
        entries = remote.look(name, place)
        entries = {at: one for at, one in entries.items() if one.size and (at == "." or not _hidden(at.split("/")))}
        format_, order = _of_one_format(name, {path: one.url for path, one in entries.items()})
        ends = remote.ends([entries[path] for path in order], _ENDS)
        digest = _fingerprint({path: (entries[path].size, end) for path, end in zip(order, ends, strict=True)})
        objects = {path: entries[path] for path in order}
        return Input(format_, (), digest, sum(one.size for one in objects.values()), objects)
    folder = Path(place)
    if not folder.exists():
        raise StorageError(f"the input {name}: there is no {folder}. Compare the path, letter by letter")
    files = {one.relative_to(folder).as_posix(): one for one in _visible(folder) if one.stat().st_size}
    format_, order = _of_one_format(name, {path: str(one) for path, one in files.items()})
    known = {path: _end(files[path]) for path in order}
    bytes_ = sum(size for size, _ in known.values())
    return Input(format_, tuple(files[path] for path in order), _fingerprint(known), bytes_)


def _of_one_format(name: str, files: Mapping[str, str]) -> tuple[str, list[str]]:
    """(the format, the paths in the order of their UTF-8 bytes). Raises DataError where there is no or another one."""
    by_format: dict[str, list[str]] = {}
    for path, file in files.items():
        by_format.setdefault(_format(file), []).append(path)
    if len(by_format) != 1 or "" in by_format:
        shown = ", ".join(files[found[0]] for found in by_format.values()) or "nothing but empty files"
        raise DataError(f"the input {name} must be files of one format, {', '.join(_FORMATS)}; there is {shown}")
    ((format_, paths),) = by_format.items()
    return format_, sorted(paths, key=str.encode)


def _format(path: str) -> str:
    name = path.lower()
    return next((format_ for end, format_ in _FORMATS.items() if name.endswith(end)), "")


def _end(file: Path) -> tuple[int, bytes]:
    """(size, both ends) of a file."""
    size = file.stat().st_size
    with file.open("rb") as content:
        head = content.read(_ENDS)
        content.seek(max(0, size - _ENDS))
        return size, head + content.read()


def _fingerprint(ends: Mapping[str, tuple[int, bytes]]) -> str:
    """Of names, sizes, and both ends of each file: a gigabyte need not be read to be known again."""
    digest = hashlib.sha256()
    for path, (size, both) in ends.items():
        name = path.encode()
        digest.update(b"%d %d %b" % (len(name), size, name) + hashlib.sha256(both).digest())
    return digest.hexdigest()


@contextmanager
def opened(*, limit: int | None = None, threads: int | None = None, spill: Path | None = None) -> Iterator[Any]:
    """A connection that keeps to the memory there is (`limit` bytes for the whole process) and spills to a folder."""
    try:
        import duckdb
    except ImportError as missing:
        raise UsageError('features need duckdb: pip install "trainkit[features]"') from missing
    folder = tempfile.mkdtemp(prefix="trainkit-features-", dir=spill)
    bytes_ = memory.for_engine(limit or memory.granted())
    settings: dict[str, Any] = {
        "memory_limit": f"{bytes_ // 2**20}MiB", "temp_directory": folder, "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    } | ({"threads": str(threads)} if threads else {})  # fmt: skip
    try:
        connection = duckdb.connect(config=settings)
        try:
            yield connection
        finally:
            connection.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def room(limit: int | None) -> int:
    """Bytes of the engine's that a joined table may be kept in: a quarter, since the passes need the rest."""
    return memory.for_engine(limit or memory.granted()) // 4


def asked(connection: Any, sql: str, doing: str) -> Any:
    """Run a statement; what duckdb says about it becomes a DataError that names what was being done."""
    import duckdb

    try:
        return connection.execute(sql)
    except duckdb.Error as error:
        raise DataError(f"{doing}: {error}") from error


def arriving(connection: Any, sql: str, doing: str) -> Iterator[Any]:
    """The rows of a SELECT as Arrow's batches, an empty one first, while duckdb makes the next; errors as `asked`'s."""
    import duckdb
    import pyarrow as pa

    try:
        reader = connection.sql(sql).to_arrow_reader(ROWS)
        yield empty(reader.schema)
        yield from reader
    except (duckdb.Error, pa.ArrowInvalid) as error:
        raise DataError(f"{doing}: {error}") from error


def empty(schema: Any) -> Any:
    """A batch without rows."""
    import pyarrow as pa

    return pa.RecordBatch.from_pylist([], schema=schema)


def prepare(
    connection: Any, features: Features, inputs: Mapping[str, Input], *, room: int = 0, tell: Tell = on_stderr
) -> dict[str, str]:
    """Make the views; returns column → kind of those that are used. Raises ConfigError before any row is read.

    Tables of text that fit into `room`, bytes, are read and joined once and kept, in place of once for each pass.
    """
    for name, one in inputs.items():
        paths = ", ".join(DUCKDB.string(os.fspath(file)) for file in one.files)
        source = features.tables[name]
        options = ", union_by_name = true" if one.format != "parquet" else ""
        if one.format == "csv" and isinstance(source, Source):
            options += f", nullstr = [{', '.join(map(DUCKDB.string, source.nulls))}]"
        options += ", format = 'newline_delimited'" if one.format == "json" else ""
        sql = f"CREATE VIEW {DUCKDB.quoted(name)} AS SELECT * FROM {_READERS[one.format]}([{paths}]{options})"
        asked(connection, sql, f"the input {name}")
    try:
        asked(connection, f"CREATE VIEW {TABLE} AS {features.table.strip().rstrip(';')}", "the table's SQL")
        described = asked(connection, f"DESCRIBE {TABLE}", "the table's SQL").fetchall()
    except DataError as error:
        raise ConfigError([Mistake("features.py", "table", None, str(error), "Correct the SQL")]) from error
    types = {row[0]: row[1] for row in described}
    found = _wrong(features, types) + _wrong_checks(connection, features)
    if found:
        raise ConfigError(found)
    if _worth_holding(inputs, room):
        with stage("joining the tables", rows=0, done=lambda: connection.query_progress() / 100, tell=tell):
            asked(connection, f"CREATE TEMP TABLE {RESERVED}_held AS SELECT * FROM {TABLE}", "the table's SQL")
        asked(connection, f"CREATE OR REPLACE VIEW {TABLE} AS SELECT * FROM {RESERVED}_held", "the table's SQL")
    return {name: KIND[types[name]] for name in _used(features)}


def _worth_holding(inputs: Mapping[str, Input], room: int) -> bool:
    """Whether the joined table is kept: where text would be parsed for each pass, and as long as it fits, roughly.

    For Parquet alone it was measured to save nothing, and to cost its memory.
    """
    text = any(one.format != "parquet" for one in inputs.values())
    packed = any(file.name.endswith(".gz") for one in inputs.values() for file in one.files)
    return text and sum(one.bytes for one in inputs.values()) * (_PACKED if packed else _GROWS) <= room


def _used(features: Features) -> tuple[str, ...]:
    split = (features.split.column,) if features.split else ()
    return tuple(dict.fromkeys([*features.kept, *split, *(one.column for one in features.transforms)]))


def _wrong(features: Features, types: Mapping[str, str]) -> list[Mistake]:
    found = []
    wants = [("key", features.key, declared.ANY), ("target", features.target, declared.ANY)]
    wants += [("split", features.split.column, declared.WORD)] if features.split else []
    wants += [(f'{one.kind}("{one.column}")', one.column, one.takes) for one in features.transforms]
    for key, column, takes in wants:
        if not column:
            continue
        if column not in types:
            has = ", ".join(types)
            found.append(Mistake("features.py", key, column, "is no column of the table", f"It has {has}"))
        elif KIND.get(types[column]) not in takes:
            fits = ", ".join(name for name, kind in KIND.items() if kind in takes)
            problem = f"is of type {types[column]}, which does not fit"
            found.append(Mistake("features.py", key, column, problem, f"CAST it in the SQL to one of {fits}"))
    found += [
        Mistake("features.py", "table", name, f"begins with {RESERVED}, which is ours", "Rename the column")
        for name in types if name.lower().startswith(RESERVED)
    ]  # fmt: skip
    clock = [(one, part) for one in features.transforms if isinstance(one, declared.TimeParts) for part in one.parts]
    found += [
        Mistake("features.py", f'TimeParts("{one.column}")', part, "is no part of a DATE", "CAST it to TIMESTAMP")
        for one, part in clock if part in declared.CLOCK and types.get(one.column) == "DATE"
    ]  # fmt: skip
    return found


def _wrong_checks(connection: Any, features: Features) -> list[Mistake]:
    found = []
    for check in features.checks:
        try:
            asked(
                connection,
                f"EXPLAIN SELECT coalesce(CAST(({check.condition}) AS BOOLEAN), false) FROM {TABLE}",
                "Check",
            )
        except DataError as error:
            found.append(Mistake("features.py", "Check", check.condition, str(error), "Correct the condition"))
    return found
