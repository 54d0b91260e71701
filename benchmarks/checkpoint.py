"""What a checkpoint costs: the stall, the commit, memory, S3, restoring, a restart, planning; ours beside its peers.

    python benchmarks/checkpoint.py [--quick] [--json] [--only PART]      # Ctrl-C: what is there by then counts

Two ranks on gloo have a model sharded by FSDP2 and its AdamW: 0.6 GB in 384 tensors. Each way of saving runs in
processes of its own, in turn with the others, and every save comes right after two calibrations by all ranks at once: a
memcpy of as many bytes as the rank has, and their write and fsync to the same disk. What is reported is the ratio to
these, save by save, since both change by the minute on a shared machine; of two ranks the slower counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from trainkit.launch.engines.base import free_port
from trainkit.launch.processes import become_reaper, kill_descendants

HERE = Path(__file__).resolve().parent
HELPERS = HERE / "checkpoints"
PEERS = HERE.parent / ".venvs/checkpoints"
DATA = HERE.parent / ".bench-data"
sys.path.insert(0, str(HELPERS))
LONGEST = 400.0  # seconds of one launch
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "trainkit": "trainkit",
        "dcp": "DCP save",
        "dcp-async": "DCP async_save, as it comes",
        "dcp-reused": "DCP async_save, stager reused",
        "dcp-process": "DCP async_save, process and shared stager (torchtitan)",
        "accelerate": "accelerate save_state (DDP)",
        "rank-0": "gather, torch.save on rank 0",
        "dcp-s3": "DCP save, s3torchconnector",
    }
)


class Size(NamedTuple):
    """How much of everything: the full run's, and the quick one's."""

    blocks: int
    rounds: int
    saves: int
    long: int
    turns: int
    kills: int
    ranks: int
    tensors: int
    ways: tuple[str, ...]


FULL = Size(24, 2, 11, 100, 5, 4, 1024, 10_000, tuple(name for name in NAMES if name != "dcp-s3"))
QUICK = Size(4, 1, 5, 8, 2, 1, 128, 1_000, ("trainkit", "dcp"))


class Failed(Exception):
    """A launch did not do what it was for."""


class Figure(NamedTuple):
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}–{self.most:.2f})"


def launch(
    task: str, way: str, folder: Path, size: Size, *, ranks: int = 2, where: str = "",
    watch: Callable[[list[int]], None] | None = None, environ: Mapping[str, str] | None = None, **more: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run a task (checkpoints/rank.py) on so many ranks. What each found. Raises Failed."""
    told = {
        "task": task, "way": way, "where": where or str(folder / way), "note": str(folder / "note"),
        "folder": str(folder), "blocks": size.blocks, "saves": size.saves, "turns": size.turns, "raw": True,
        "shares": ranks if way == "accelerate" else 1, **more,
    }  # fmt: skip
    mine = ("SM_", "SAGEMAKER_", "TRAINKIT_", "TORCHELASTIC_", "MASTER_", "GLOO_", "AWS_")
    base = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    base |= {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
    }
    base |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port(0)), **(environ or {})}
    base["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *map(str, _packages())]))
    argv = [sys.executable, str(HELPERS / "rank.py"), json.dumps(told)]
    notes = [folder / f"note.{rank}" for rank in range(ranks)]
    for note in notes:
        note.unlink(missing_ok=True)
    with (folder / "log").open("w+b") as log:
        running = [
            subprocess.Popen(
                argv, env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd=folder,
            )
            for rank in range(ranks)
        ]  # fmt: skip
        until = time.monotonic() + LONGEST
        try:
            while any(one.poll() is None for one in running) and time.monotonic() < until:
                if any(one.poll() for one in running):
                    break
                if watch:
                    watch([one.pid for one in running])
                time.sleep(0.1)
            well = all(one.poll() == 0 for one in running)
        finally:
            kill_descendants()
        log.seek(0)
        said = log.read().decode(errors="replace")
    if not well:
        raise Failed(f"{task} by {way} failed: {said[-1500:]}")
    return [json.loads(note.read_text(encoding="ascii")) | {"said": said} for note in notes]


def _packages() -> list[Path]:
    return sorted(PEERS.glob("lib/python*/site-packages"))


def stalls(size: Size) -> dict[str, Any]:
    """Stall, time to commit and CPU of each way."""
    launches: dict[str, list[list[dict[str, Any]]]] = {way: [] for way in size.ways}
    failed: dict[str, str] = {}
    for number in range(size.rounds):
        for way in size.ways:
            note(f"stall {number + 1}/{size.rounds}: {NAMES[way]}")
            with scratch() as folder:
                try:
                    launches[way].append(launch("stall", way, folder, size))
                except Failed as error:
                    failed[way] = str(error)
                except KeyboardInterrupt:
                    break
    return {way: _stall(way, found) for way, found in launches.items() if found} | {
        way: {"failed": why} for way, why in failed.items() if not launches[way]
    }


def _stall(way: str, launches: list[list[dict[str, Any]]]) -> dict[str, Any]:
    saves = [list(zip(*(rank["saves"] for rank in ranks), strict=True)) for ranks in launches]
    size = sum(rank["state"] for rank in launches[0]) / (2 if way == "accelerate" else 1)

    def ratios(some: Sequence[Any], above: str, below: str) -> list[float]:
        return [max(r[above] for r in save) / max(r[below] for r in save) for save in some]

    steady = [save for one in saves for save in one[1:]]
    firsts = [one[0] for one in saves]
    median = statistics.median(max(r["stall"] for r in save) for save in steady)
    return {
        "saves": len(steady),
        "stall to memcpy": Figure.of(ratios(steady, "stall", "copy")),
        "stall ms": Figure.of([1e3 * max(r["stall"] for r in save) for save in steady]),
        "first to median": Figure.of([max(r["stall"] for r in save) / median for save in firsts]),
        "commit to raw": Figure.of(ratios(steady, "total", "raw")),
        "commit s": Figure.of([max(r["total"] for r in save) for save in steady]),
        "CPU s/GB": Figure.of([sum(r["cpu"] for r in save) / size * 1e9 for save in steady]),
        "GB": size / 1e9,
    }


def memory(size: Size) -> dict[str, Any]:
    """MB above what was there before the first save, of each rank and its writer, at the peak: shared memory once."""
    from costs import memory as of_family

    found = {}
    for way in size.ways:
        note(f"memory: {NAMES[way]}")
        samples: list[tuple[float, list[tuple[int, int]]]] = []

        def watch(pids: list[int], samples: list[Any] = samples) -> None:
            samples.append((time.monotonic(), [of_family(pid) for pid in pids]))

        with scratch() as folder:
            try:
                saves = size.long if way == "trainkit" else size.saves
                ranks = launch("series", way, folder, size, saves=saves, watch=watch)
            except Failed as error:
                found[way] = {"failed": str(error)}
                continue
        found[way] = {"saves": saves} | {
            f"rank {number}": _memory(rank, [(at, all_of[number]) for at, all_of in samples])
            for number, rank in enumerate(ranks)
        }
    return found


def _memory(rank: dict[str, Any], samples: list[tuple[float, tuple[int, int]]]) -> dict[str, float]:
    ends = rank["ends"]
    fifth = max(1, len(ends) // 5)

    def peak(since: float, until: float, which: int) -> float:
        there = [one[which] for at, one in samples if since <= at <= until]
        return max(there, default=float("nan")) - rank["before"][which]

    # After the first save: what it makes is there by then, and the two parts compare like with like.
    early, late = peak(ends[0], ends[fifth], 0), peak(ends[-fifth - 1], ends[-1], 0)
    most = peak(0.0, ends[-1], 0)
    return {
        "peak MB": most / 1e6, "peak to state": most / rank["state"], "peak RSS MB": peak(0.0, ends[-1], 1) / 1e6,
        "first fifth MB": early / 1e6, "last fifth MB": late / 1e6, "state MB": rank["state"] / 1e6,
    }  # fmt: skip


def restores(size: Size, *, quick: bool) -> dict[str, Any]:
    """Saved by n ranks, restored by m: seconds, CPU and bytes read."""
    found: dict[str, Any] = {}
    for saved in (2,) if quick else (1, 2):
        with scratch() as folder:
            made = {way: launch("make", way, folder, size, ranks=saved) for way in ("trainkit", "dcp")}
            for restored in (2,) if quick else (1, 2):
                for way in ("trainkit", "dcp"):
                    note(f"restore {saved} → {restored}: {NAMES[way]}")
                    ranks = launch("restore", way, folder, size, ranks=restored)
                    if abs(ranks[0]["sum"] - made[way][0]["sum"]) > 1e-6 * abs(made[way][0]["sum"]):
                        raise Failed(f"{way} restored something else")
                    found[f"{saved} → {restored}: {way}"] = _restore(ranks)
    return found


def _restore(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    turns = list(zip(*(rank["turns"] for rank in ranks), strict=True))
    return {
        "s": Figure.of([max(r["seconds"] for r in turn) for turn in turns]),
        "to memcpy": Figure.of([max(r["seconds"] for r in turn) / max(r["copy"] for r in turn) for turn in turns]),
        "CPU s, a rank": Figure.of([statistics.mean(r["cpu"] for r in turn) for turn in turns]),
        "read to needed": Figure.of(
            [max(r["read"] / rank["state"] for r, rank in zip(turn, ranks, strict=True)) for turn in turns]
        ),
    }


def s3(size: Size) -> dict[str, Any]:
    """Requests and seconds of a save to, and of a restoration from, a server on this machine."""
    found: dict[str, Any] = {}
    memory_disk = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    for way in ("trainkit", "dcp-s3") if _packages() else ("trainkit",):
        note(f"S3: {NAMES[way]}")
        with scratch() as folder, serve() as bucket, tempfile.TemporaryDirectory(dir=memory_disk) as near:
            environ = {
                "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket.server_port}", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.server_port}",
                "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-benchmark",
                "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
            }  # fmt: skip
            where = "s3://bench/run"
            if way == "trainkit":
                environ["TRAINKIT_CHECKPOINT_URL"] = where
                where = f"{near}/a"
            ranks = launch("stall", way, folder, size, where=where, environ=environ, raw=False, saves=5)
            saved = dict(bucket.counts)
            row = _stall(way, [ranks])
            bucket.counts.clear()
            where = f"{near}/b" if way == "trainkit" else where
            step = {"step": 4} if way != "trainkit" else {}
            read = launch("restore", way, folder, size, where=where, environ=environ, turns=1, **step)
            came = dict(bucket.counts)
            took = _restore(read)
        moved = {"bytes in", "bytes out"}
        found[way] = {
            "commit s": row["commit s"], "MB/s": row["GB"] * 1e3 / row["commit s"].median, "CPU s/GB": row["CPU s/GB"],
            "requests of 5 saves": {name: count for name, count in saved.items() if name not in moved},
            "requests of a restoration": {name: count for name, count in came.items() if name not in moved},
            "restore s": took["s"],
        }  # fmt: skip
    return found


@contextmanager
def serve() -> Iterator[Any]:
    """The server, in threads of this process, which only waits meanwhile."""
    from bucket import Bucket

    with Bucket() as bucket:
        threading.Thread(target=bucket.serve_forever, daemon=True).start()
        try:
            yield bucket
        finally:
            bucket.shutdown()


def restarts(size: Size) -> dict[str, Any]:
    """From SIGKILL to a step that all ranks have done, the state restored."""
    from restart import measure

    dice = random.Random(1)
    found: dict[str, Any] = {}
    ours, theirs = ("ours", "Ours"), ("ways", "Dcp")
    for launcher, way in (("fork", ours), ("spawn", ours), ("torchrun", theirs)):
        name = f"{launcher}, {NAMES['trainkit' if way is ours else 'dcp']}"
        note(f"restart: {name}")
        came = measure(launcher, way, kills=size.kills, blocks=size.blocks, dice=dice)
        well = [one for one in came if one]
        found[name] = {"kills": len(came), "recovered": len(well)}
        if well:
            found[name] |= {
                "stepped s": Figure.of([one.stepped for one, _ in well]),
                "met s": Figure.of([one.met for one, _ in well]),
                "restore s": Figure.of([restored for _, restored in well]),
                "CPU s": Figure.of([one.cpu for one, _ in well]),
            }
    return found


def planning(size: Size) -> dict[str, Any]:
    """CPU seconds on rank 0."""

    def run(peers: int) -> dict[str, float]:
        argv = [sys.executable, HELPERS / "planning.py", *map(str, (size.ranks, size.tensors, peers))]
        return dict(json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout))

    note("planning")
    peers = (2, 4, 8)
    return {f"trainkit, {size.ranks} ranks": run(0)} | {f"DCP, {count} ranks": run(count) for count in peers}


def note(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the disk where we are: others are often in memory."""
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=DATA, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="within a minute or two: 0.1 GB, ours and DCP")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=("stall", "memory", "restore", "s3", "restart", "planning"))
    parser.add_argument("--ways", help=f"for the stall and the memory, with commas between: {', '.join(FULL.ways)}")
    parser.add_argument("--rounds", type=int, help="launches of each way for the stall (2; quick: 1)")
    parser.add_argument("--saves", type=int, help="of each launch (11; quick: 5); the first counts apart")
    parser.add_argument("--long", type=int, help="saves of ours for the memory (100; quick: 8)")
    options = parser.parse_args()
    if strange := set((options.ways or FULL.ways[0]).split(",")) - set(NAMES):
        parser.error(f"--ways: there is no {', '.join(sorted(strange))}; there are {', '.join(NAMES)}")
    become_reaper()  # whatever a way leaves running falls to us
    size, load = QUICK if options.quick else FULL, os.getloadavg()[0]
    chosen = {name: getattr(options, name) for name in ("rounds", "saves", "long")}
    size = size._replace(**{name: value for name, value in chosen.items() if value})
    size = size._replace(ways=tuple(options.ways.split(","))) if options.ways else size
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "stall": lambda: stalls(size),
        "restore": lambda: restores(size, quick=options.quick),
        "planning": lambda: planning(size),
    }
    if not options.quick or options.only:
        parts |= {
            "memory": lambda: memory(size), "s3": lambda: s3(size), "restart": lambda: restarts(size),
        }  # fmt: skip
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}",
        "versions": {name: metadata.version(name) for name in ("trainkit", "torch", "accelerate")},
    }
    for name, part in parts.items():
        if options.only in (None, name):
            try:
                report[name] = part()
            except Failed as error:
                report[name] = {name: {"failed": str(error)}}
            except KeyboardInterrupt:
                break
    report["load"] = [round(load, 1), round(os.getloadavg()[0], 1)]
    print(json.dumps(report, ensure_ascii=False) if options.json else tables(report))


def tables(report: Mapping[str, Any]) -> str:
    """Markdown."""
    head = [f"{name} {value}" for name, value in report["versions"].items()]
    lines = [
        f"{report['date']}, {report['machine']}, load {report['load'][0]} → {report['load'][1]}; {', '.join(head)}"
    ]
    for part, rows in report.items():
        if part not in ("date", "machine", "versions", "load"):
            lines += ["", f"### {part}", ""]
            lines += _table(rows)
    return "\n".join(lines)


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    flat = {
        (name, inner): cells
        for name, row in rows.items()
        for inner, cells in ({key: value for key, value in row.items() if _is_row(value)} or {"": row}).items()
    }
    columns = list(dict.fromkeys(column for cells in flat.values() for column in cells))
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    for (name, inner), cells in flat.items():
        shown = [_cell(cells[column]) if column in cells else "–" for column in columns]
        yield f"| {NAMES.get(name, name)}{', ' * bool(inner)}{inner} | {' | '.join(shown)} |"


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and "peak MB" in value


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("\n", " ")[-200:]


if __name__ == "__main__":
    main()
