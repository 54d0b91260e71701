"""What a transform costs in threads, in processes=2, and in torch's DataLoader with two workers: CPU of all of them.

    python benchmarks/streams/transforms.py [--rounds N] [--json]

Each run reads one shuffled epoch from local Parquet in a process of its own and checks what came. CPU is that of the
process and all that it started, as the kernel counts it when they have ended; the process's own imports are excluded,
and those of workers are not. Runs take turns.

    tokens    60,000 texts of 300 words, looked up word by word in Python: a column of lists comes back
    pixels    20,000 rows of 24 KiB, scaled to floats by numpy: four times as many bytes come back as went
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

WAYS = ("threads", "processes=2", "DataLoader, 2 workers")
ROWS = {"tokens": 60_000, "pixels": 20_000}


class Run(NamedTuple):
    cpu: float
    wall: float


def tokens(table: Any) -> Any:
    """A tokenizer's inner loop, in Python."""
    import pyarrow as pa

    known: dict[str, int] = {}
    rows = [[known.setdefault(word, len(word)) for word in text.split()] for text in table["text"].to_pylist()]
    return pa.table({"tokens": pa.array(rows, pa.list_(pa.int64()))})


def pixels(table: Any) -> dict[str, Any]:
    import numpy as np

    images = np.stack([np.frombuffer(data, np.uint8) for data in table["image"].to_pylist()])
    return {"image": (images.astype(np.float32) - 127.5) / 127.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--client", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        client(*options.client)
        return
    found: dict[str, dict[str, list[Run]]] = {what: {way: [] for way in WAYS} for what in ROWS}
    with tempfile.TemporaryDirectory() as folder:
        for what in ROWS:
            prepare(Path(folder), what)
        for _ in range(options.rounds):
            for what, ways in found.items():
                for way, runs in ways.items():
                    runs.append(measure(Path(folder), what, way))
    print(json.dumps(found) if options.json else table(found))


def prepare(folder: Path, what: str) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    if what == "tokens":
        words = np.array([f"word{number}" for number in range(30_000)])
        texts = [" ".join(row) for row in words[random.zipf(1.3, (ROWS[what], 300)) % len(words)]]
        data, group = pa.table({"text": texts}), 500
    else:
        images = [random.bytes(24 * 1024) for _ in range(ROWS[what])]
        data, group = pa.table({"image": pa.array(images, pa.binary())}), 40
    pq.write_table(data, folder / f"{what}.parquet", row_group_size=group, use_dictionary=False)


def measure(folder: Path, what: str, way: str) -> Run:
    argv = [sys.executable, __file__, "--client", str(folder), what, way]
    began = time.perf_counter()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{what}, {way}: ended with {process.returncode} after {time.perf_counter() - began:.0f} s")
    note: Mapping[str, float] = json.loads(said)
    return Run(used.ru_utime + used.ru_stime - note["imports"], note["wall"])


def client(folder: str, what: str, way: str) -> None:
    """One epoch. Everything that it will need is imported first."""
    import pyarrow.parquet  # noqa: F401
    from torch.utils.data import DataLoader

    import trainkit
    import trainkit.data.formats.parquet
    import trainkit.data.open
    import trainkit.data.processes
    import trainkit.data.torch

    spent = time.process_time()
    began = time.perf_counter()
    choices: dict[str, Any] = {"processes": int(way[-1])} if way.startswith("processes") else {}
    stream = trainkit.job().stream(
        f"{folder}/{what}.parquet", batch_size=64, shuffle=True, tail="exact", transform=globals()[what], **choices
    )
    stream.set_epoch(0)
    loader: DataLoader[Any] = DataLoader(stream, batch_size=None, num_workers=2)  # type: ignore[arg-type]
    batches = loader if way.startswith("DataLoader") else stream
    rows = 0
    for batch in batches:
        rows += len(batch["tokens"].offsets) - 1 if what == "tokens" else len(batch["image"])
    assert rows == ROWS[what], rows
    print(json.dumps({"wall": time.perf_counter() - began, "imports": spent}))


def table(found: Mapping[str, Mapping[str, list[Run]]]) -> str:
    """Markdown."""
    lines = ["| | | CPU s | to threads | samples/s | samples per CPU s |", "|---|---|---|---|---|---|"]
    for what, ways in found.items():
        for way, runs in ways.items():
            ratios = [one.cpu / other.cpu for one, other in zip(runs, ways["threads"], strict=True)]
            cells = (
                spread([one.cpu for one in runs], 1), spread(ratios, 2),
                spread([ROWS[what] / one.wall for one in runs], 0), spread([ROWS[what] / one.cpu for one in runs], 0),
            )  # fmt: skip
            lines.append(f"| {what} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


if __name__ == "__main__":
    main()
