"""Loaders of training data from S3, ours and its peers: CPU seconds per GB, throughput, first batch, memory, requests.

    python benchmarks/streaming.py [--quick] [--rounds N] [--json]      # Ctrl-C: the rounds so far count

A server on this machine (tests/servers/s3sim.py, a process of its own) holds one data set in everybody's layout: 21,263
samples of random bytes, 512 MiB in 64 shards. Each loader reads one cold epoch of it in a process of its own, without
workers, and every byte that it gives is checked. Loaders take turns, so that what else the machine does meets all.

    clean     no delay                       3 rounds
    slow      20 ms before each answer       3 rounds, peers that shuffle in the first only
    faulty    5 % 503, 3 % of bodies cut     likewise

CPU is the client's, with the children that it waits for, imports excluded and construction of clients included: wall
time on a shared machine is a matter of who else is there. A GB is 10^9 bytes of samples.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
HELPERS = HERE / "streams"
PEERS = HERE.parent / ".venvs/streaming/bin/python"
DATA = HERE.parent / ".bench-data"
LONGEST = 240  # seconds until a run counts as hung
BUDGET = 256 * 2**20 / 1e6  # MB: job.stream's `memory`
CONDITIONS: Mapping[str, tuple[str, ...]] = {
    "clean": (), "slow": ("--latency-ms", "20"), "faulty": ("--p503", "0.05", "--pcut", "0.03"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    loader: str
    layout: str
    choices: Mapping[str, Any] = field(default_factory=dict)
    everywhere: bool = True
    """In every round of every condition; else in all of the clean ones, and in the first of the others."""
    resumed: bool = False
    quick: bool = False

    def takes_part(self, condition: str, number: int) -> bool:
        """In this round (from 0) of this condition. Bare http.client tries nothing again: it knows no faults."""
        if condition == "faulty" and self.loader == "floor":
            return False
        return condition == "clean" or not number or self.everywhere

    @property
    def peer(self) -> bool:
        """Whether it lives in the peers' environment."""
        return self.loader in ("mosaic", "litdata", "webdataset", "s3torchconnector")


CONTENDERS = (
    Contender("bytes only, http.client", "floor", "packed", quick=True),
    Contender("trainkit, Arrow packed", "trainkit", "packed", quick=True),
    Contender("trainkit, Arrow packed, at 90 %", "trainkit", "packed", resumed=True, quick=True),
    Contender("trainkit, Arrow", "trainkit", "arrow"),
    Contender("trainkit, Arrow, torch", "trainkit", "arrow", {"kind": "torch"}, everywhere=False),
    Contender("trainkit, Parquet", "trainkit", "parquet", quick=True),
    Contender("trainkit, Parquet, at 90 %", "trainkit", "parquet", resumed=True),
    Contender("trainkit, WebDataset tars", "trainkit", "tar", everywhere=False),
    Contender("trainkit, Arrow packed, boto3", "trainkit", "packed", {"fetcher": "boto3"}),
    Contender("trainkit, Parquet, boto3", "trainkit", "parquet", {"fetcher": "boto3"}, everywhere=False),
    Contender("trainkit, Arrow packed, s3fs", "trainkit", "packed", {"fetcher": "fsspec"}, everywhere=False),
    Contender("pyarrow.dataset, Arrow", "pyarrow_dataset", "arrow", {"format": "feather"}),
    Contender("pyarrow.dataset, Parquet", "pyarrow_dataset", "parquet", {"format": "parquet"}, quick=True),
    Contender("Mosaic Streaming, py1e", "mosaic", "mds", everywhere=False),
    Contender("LitData, shuffle", "litdata", "litdata", everywhere=False),
    Contender("WebDataset, pipe:curl", "webdataset", "tar", everywhere=False),
    Contender("s3torchconnector, tarfile", "s3torchconnector", "tar", everywhere=False),
)


class Size(NamedTuple):
    samples: int
    shards: int


class Run(NamedTuple):
    """One epoch, or the first batch of a resumed one (then nothing else is known)."""

    versions: str
    first: float
    """Seconds to the first batch."""
    memory: float
    """MB at the peak, above what was there after the imports."""
    requests: int
    listings: int
    disk: float
    cpu: float = math.nan
    """Seconds per GB."""
    speed: float = math.nan
    """MB/s of wall time."""
    samples: float = math.nan
    """Per CPU second."""


class RunFailed(Exception):
    """A loader did not give all samples as they are. The message says what came instead."""


class Figure(NamedTuple):
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        digits = 0 if self.median >= 100 else 2
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}–{self.most:,.{digits}f})"


class Goal(NamedTuple):
    what: str
    wanted: str
    found: str
    met: bool | None
    """None where it could not be measured."""


Results = dict[str, dict[str, list[Run | RunFailed]]]
"""Condition → contender → a run for each round it took part in."""


def main() -> None:
    options = _options()
    size = Size(2_658, 8) if options.quick else Size(21_263, 64)
    rounds = options.rounds or (1 if options.quick else 3)
    contenders = [one for one in CONTENDERS if (one.quick or not options.quick) and not _missing(one)]
    root = DATA / ("quick" if options.quick else "full")
    prepare(root, {one.layout for one in contenders} | {"check"}, size)
    load = os.getloadavg()[0]
    results = interleave(contenders, root=root, size=size, rounds=rounds, quick=options.quick)
    alone = {"quality": _order("quality"), "8": _order("scale", "8"), "4096": _order("scale", "4096")}
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}, Linux {platform.release()}",
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "rounds": rounds,
        "missing": {one.name: _missing(one) for one in CONTENDERS if _missing(one)},
        "results": {
            condition: {name: _plain(runs) for name, runs in found.items()} for condition, found in results.items()
        },
        "order": alone,
        "goals": [goal._asdict() for goal in judge(results, alone, root=root, quick=options.quick)],
    }
    print(json.dumps(report, ensure_ascii=False) if options.json else tables(report, results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="within a minute: 64 MiB, one round, ours and pyarrow")
    parser.add_argument("--rounds", type=int, help="of each condition (3; quick: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _missing(contender: Contender) -> str:
    if not contender.peer or PEERS.exists():
        return ""
    return "not installed: sh benchmarks/peers/install.sh makes .venvs/streaming"


def prepare(root: Path, layouts: set[str], size: Size) -> None:
    """The data set in these layouts, made where it is not there yet. `root` is what the server serves."""
    for layout in sorted(layouts):
        place = root / "bench" / layout
        if place.exists():
            continue
        print(f"making {place}", file=sys.stderr)
        fresh = root / f"{layout}.part"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        python = PEERS if layout in ("mds", "litdata") else Path(sys.executable)
        argv = [python, HELPERS / "samples.py", layout, fresh, str(size.samples), str(size.shards)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        place.parent.mkdir(exist_ok=True)
        fresh.rename(place)


@contextmanager
def serve(root: Path, *flags: str) -> Iterator[int]:
    """The server's port."""
    argv = [sys.executable, HERE.parent / "tests/servers/s3sim.py", root, *flags]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


def interleave(contenders: Sequence[Contender], *, root: Path, size: Size, rounds: int, quick: bool) -> Results:
    """All conditions in each round, all contenders in each condition."""
    conditions = ("clean", "slow") if quick else tuple(CONDITIONS)
    results: Results = {condition: {one.name: [] for one in contenders} for condition in conditions}
    with ExitStack() as stack:
        ports = {condition: stack.enter_context(serve(root, *CONDITIONS[condition])) for condition in conditions}
        states = {one.layout: _state(one, port=ports["clean"], size=size) for one in contenders if one.resumed}
        try:
            for number in range(rounds):
                for condition in conditions:
                    for one in contenders:
                        if one.takes_part(condition, number):
                            print(f"{number + 1}/{rounds} {condition}: {one.name}", file=sys.stderr)
                            state = states[one.layout] if one.resumed else ""
                            run = _tried(one, port=ports[condition], root=root, size=size, state=state)
                            results[condition][one.name].append(run)
        except KeyboardInterrupt:
            print("interrupted: what was measured until now counts", file=sys.stderr)
    return results


def _tried(contender: Contender, *, port: int, root: Path, size: Size, state: str) -> Run | RunFailed:
    try:
        return measure(contender, port=port, root=root, size=size, state=state)
    except RunFailed as failure:
        print(failure, file=sys.stderr)
        return failure


def _state(contender: Contender, *, port: int, size: Size) -> str:
    """The state of its stream at 90 % of the epoch."""
    with tempfile.TemporaryDirectory() as folder:
        _client(contender, port=port, size=size, folder=Path(folder), save=f"{folder}/state")
        return Path(folder, "state").read_text(encoding="ascii")


def measure(contender: Contender, *, port: int, root: Path, size: Size, state: str) -> Run:
    """Raises RunFailed."""
    _ask(port, "_reset")
    with tempfile.TemporaryDirectory(dir=DATA) as folder:  # on the disk where the data is: peers copy it
        more = {"state": state, "first": True} if state else {}
        note = _client(contender, port=port, size=size, folder=Path(folder), **more)
        disk = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 1e6
    served = _ask(port, "_stats")
    requests, listings = served.get("requests", 0), served.get("ListObjectsV2", 0)
    run = Run(note["versions"], note["first"], note["memory"], requests, listings, disk)
    if state:
        return run
    whole = json.loads((root / "bench/check/check.json").read_text(encoding="ascii"))
    if contender.loader == "floor":
        whole, note["check"] = {**whole, "samples": 0}, {**whole, "samples": 0}
    if note["check"] != whole:
        raise RunFailed(f"{contender.name}: not what was stored: {note['check']}, where {whole} was")
    per = whole["bytes"] / 1e9
    return run._replace(
        cpu=note["cpu"] / per, speed=whole["bytes"] / 1e6 / note["wall"], samples=whole["samples"] / note["cpu"]
    )


def _client(contender: Contender, *, port: int, size: Size, folder: Path, **more: Any) -> dict[str, Any]:
    """Run the loader in a process of its own. Raises RunFailed."""
    note, cache = folder / "note", folder / "cache"
    cache.mkdir()
    told = {
        "loader": contender.loader, "url": f"s3://bench/{contender.layout}/", "cache": str(cache), "note": str(note),
        "choices": dict(contender.choices), **more,
    }  # fmt: skip
    endpoint = f"http://127.0.0.1:{port}"
    environ = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        **dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "S3_ENDPOINT_URL"), endpoint),
        "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        **dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION"), "us-east-1"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "BENCH_SHARDS": str(size.shards),
    }
    if not contender.peer and "PYTHONPATH" in os.environ:
        environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
    python = PEERS if contender.peer else Path(sys.executable)
    argv = [str(python), str(HELPERS / "client.py"), json.dumps(told)]
    try:
        done = subprocess.run(
            argv, env=environ, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LONGEST,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise RunFailed(f"{contender.name}: not through after {LONGEST} s") from late
    said = done.stderr.strip().splitlines() or [""]
    if not note.exists() and "save" not in more:
        raise RunFailed(f"{contender.name} ended with {done.returncode}: {said[-1][-300:]}")
    return json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}


def _ask(port: int, what: str) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}") as answer:
        return dict(json.loads(answer.read()))


def _order(*arguments: str) -> Any:
    argv = [sys.executable, str(HELPERS / "order.py"), *arguments]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def judge(results: Results, alone: Mapping[str, Any], *, root: Path, quick: bool) -> list[Goal]:
    """The goals, each with what was found. Ratios are the median of the rounds'."""
    goals = [*_cost(results), *_time(results), *_faults(results), *_rest(results, alone, root=root)]
    # A small data set says nothing about cost: opening the client is most of it.
    return [goal._replace(met=None) for goal in goals] if quick else goals


def _cost(results: Results) -> Iterator[Goal]:
    clean = results["clean"]
    for name, *most in (
        ("trainkit, Arrow packed", 2.5, 1.9),
        ("trainkit, Arrow", 2.5, 1.9),
        ("trainkit, Parquet", 4.0, 3.0),
        ("trainkit, Arrow packed, boto3", 2.5),
        ("trainkit, Parquet, boto3", 4.0),
        ("trainkit, Arrow packed, s3fs", 3.2),
    ):
        for one, whose in zip(most, ("", " (set for obstore)"), strict=False):
            yield _at_most(f"CPU s/GB{whose}: {name}", _values(clean, name, "cpu"), one)
    bare = _ratios(clean, "trainkit, Arrow packed", "bytes only, http.client", "cpu")
    yield _at_most("CPU to bytes only, Arrow packed (stretch)", bare, 1.5)
    for peer, least, stretched in (("Mosaic Streaming, py1e", 5, 10), ("LitData, shuffle", 2, 4)):
        for ours in ("trainkit, Arrow packed", "trainkit, Parquet"):
            found = _ratios(clean, ours, peer, "samples")
            yield _at_least(f"samples per CPU second: {ours}, to {peer}", found, least)
            yield _at_least(f"samples per CPU second (set for obstore): {ours}, to {peer}", found, stretched)


def _time(results: Results) -> Iterator[Goal]:
    clean, slow = results["clean"], results["slow"]
    for name in ("trainkit, Arrow packed", "trainkit, Parquet"):
        rates = [late / soon for late, soon in _pairs(slow, name, clean, name, "speed")]
        yield _at_least(f"throughput at 20 ms to 0 ms: {name}", rates, 0.85)
        yield _at_most(f"first batch, s: {name}", _values(clean, name, "first"), 0.45)
        yield _at_most(f"first batch at 20 ms, s: {name}", _values(slow, name, "first"), 0.55)
        resumed = f"{name}, at 90 %"
        yield _at_most(f"first batch, s: {resumed}", _values(clean, resumed, "first"), 0.45)
        yield _at_most(f"first batch, resumed to fresh: {name}", _ratios(clean, resumed, name, "first"), 1.2)


def _faults(results: Results) -> Iterator[Goal]:
    for name in ("trainkit, Arrow packed", "trainkit, Parquet") if "faulty" in results else ():
        found = [soon / late for late, soon in _pairs(results["faulty"], name, results["clean"], name, "speed")]
        yield _at_most(f"5 % 503 + 3 % cut, times slower: {name}", found, 1.5)


def _rest(results: Results, alone: Mapping[str, Any], *, root: Path) -> Iterator[Goal]:
    clean = results["clean"]
    for name in ("trainkit, Arrow packed", "trainkit, Parquet"):
        yield _at_most(f"peak memory, MB: {name}", _values(clean, name, "memory"), BUDGET + 150)
    objects, blocks = _blocks(root)
    name = "trainkit, Arrow packed"
    yield _at_most(f"requests: {name}", _values(clean, name, "requests"), blocks + objects + objects // 1000 + 1)
    quality = alone["quality"]["128 MB"]
    yield _at_most("same-shard pairs to chance, 128 MB a rank", [quality["pairs"]], 5)
    yield _at_most("class χ²/df, 128 MB a rank", [quality["chi2"]], 2)
    for ranks in ("8", "4096"):
        found = alone[ranks]
        yield _at_most(f"plan, CPU s: 10⁹ samples, {ranks} ranks", [found["plan"]], 0.3)
        yield _at_most(f"seek, CPU ms: 10⁹ samples, {ranks} ranks", [found["seek_ms"]], 10)
        yield _at_most(f"plan, MB at the peak: 10⁹ samples, {ranks} ranks", [found["peak"]], 64)


def _blocks(root: Path) -> tuple[int, int]:
    """Objects of the packed Arrow layout, and their record batches."""
    import pyarrow as pa

    files = sorted((root / "bench/packed").iterdir())
    return len(files), sum(pa.ipc.open_file(file).num_record_batches for file in files)


def _at_most(what: str, values: Sequence[float], most: float) -> Goal:
    return Goal(what, f"≤ {most:g}", *_judged(values, lambda median: median <= most))


def _at_least(what: str, values: Sequence[float], least: float) -> Goal:
    return Goal(what, f"≥ {least:g}", *_judged(values, lambda median: median >= least))


def _judged(values: Sequence[float], good: Callable[[float], bool]) -> tuple[str, bool | None]:
    if not values:
        return "not measured", None
    figure = Figure.of(values)
    return str(figure), good(figure.median)


def _values(found: Mapping[str, list[Run | RunFailed]], name: str, what: str) -> list[float]:
    return [getattr(run, what) for run in found.get(name, ()) if isinstance(run, Run)]


def _ratios(found: Mapping[str, list[Run | RunFailed]], name: str, other: str, what: str) -> list[float]:
    return [one / two for one, two in _pairs(found, name, found, other, what)]


def _pairs(
    found: Mapping[str, list[Run | RunFailed]],
    name: str,
    others: Mapping[str, list[Run | RunFailed]],
    other: str,
    what: str,
) -> Iterator[tuple[float, float]]:
    """Of the same round, where both were well."""
    for one, two in zip(found.get(name, ()), others.get(other, ()), strict=False):
        if isinstance(one, Run) and isinstance(two, Run):
            yield getattr(one, what), getattr(two, what)


def _plain(runs: Sequence[Run | RunFailed]) -> list[Any]:
    return [run._asdict() if isinstance(run, Run) else str(run) for run in runs]


def tables(report: Mapping[str, Any], results: Results) -> str:
    """Markdown."""
    lines = [f"{report['date']}, {report['machine']}, load {' → '.join(map(str, report['load']))}"]
    for condition, found in results.items():
        lines += ["", f"### {condition}: {' '.join(CONDITIONS[condition]) or 'no delay, no faults'}", ""]
        lines += [
            "| | runs | CPU s/GB | MB/s | samples per CPU s | first batch s | MB above imports | requests | disk MB |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        lines += [_row(name, runs) for name, runs in found.items() if runs]
    lines += ["", *(f"{name}: {why}" for name, why in report["missing"].items())]
    failed = {
        str(run) for found in results.values() for runs in found.values() for run in runs if isinstance(run, RunFailed)
    }
    lines += sorted(failed)
    versions = {
        run.versions: name for found in results.values() for name, runs in found.items() for run in runs
        if isinstance(run, Run) and run.versions
    }  # fmt: skip
    lines += ["", *(f"{name}: {said}" for said, name in versions.items()), "", "| order | | |", "|---|---|---|"]
    lines += [f"| {name} | {json.dumps(one)} | |" for name, one in report["order"].items()]
    lines += ["", "| goal | wanted | found | |", "|---|---|---|---|"]
    met = {True: "met", False: "**not met**", None: "–"}
    lines += [
        f"| {goal['what']} | {goal['wanted']} | {goal['found']} | {met[goal['met']]} |" for goal in report["goals"]
    ]
    return "\n".join(lines)


def _row(name: str, runs: Sequence[Run | RunFailed]) -> str:
    well = [run for run in runs if isinstance(run, Run)]
    count = str(len(well)) if len(well) == len(runs) else f"{len(well)} of {len(runs)}"
    cells = [count]
    for what in ("cpu", "speed", "samples", "first", "memory", "requests", "disk"):
        values = [getattr(run, what) for run in well]
        known = values and not any(map(math.isnan, values))
        cells.append(str(Figure.of(values)) if known else "–")
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
