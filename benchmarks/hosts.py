"""How long until every rank of a local job runs its script's first line, for each isolation and number of hosts.

    python benchmarks/hosts.py [--quick] [--json]

The script imports nothing; what is measured is the command itself, staging, making the hosts, `train` on each, and
their meeting. Wall seconds from the start of `trainkit local` to the last rank's first line, by the kernel's own clock.
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
from pathlib import Path

from trainkit.errors import IsolationUnavailable
from trainkit.local import isolation

SCRIPT = "import time; print('first line', time.monotonic_ns())"


def measure(kind: str, hosts: int, folder: Path) -> float:
    """Seconds until the last of the hosts' ranks is there."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "trainkit.cli.main", "local", str(script), "--hosts", str(hosts)]
    began = time.monotonic_ns()
    done = subprocess.run(
        [*command, "--isolation", kind, "--output", str(folder / "out")], capture_output=True, text=True, check=True
    )
    lines = [int(line.split()[-1]) for line in done.stdout.splitlines() if "first line" in line]
    if len(lines) != hosts:
        raise SystemExit(f"{len(lines)} of {hosts} ranks ran:\n{done.stdout}")
    return (max(lines) - began) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 runs of two hosts instead of 20 of one, two and four")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    counts, runs = ((2,), 5) if arguments.quick else ((1, 2, 4), 20)
    samples: dict[tuple[str, int], list[float]] = {}
    for _ in range(runs):
        for kind in filter(usable, isolation.KINDS):
            for hosts in counts:
                with tempfile.TemporaryDirectory() as folder:
                    samples.setdefault((kind, hosts), []).append(measure(kind, hosts, Path(folder)))
    for (kind, hosts), seconds in samples.items():
        spread = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "runs": len(seconds)}
        figures[f"{kind}, {hosts} host{'s' * (hosts > 1)}"] = {name: round(value, 3) for name, value in spread.items()}
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; wall seconds")
    print(f"{'':22}{'median':>8}{'min':>8}{'max':>8}{'runs':>6}")
    for name, row in figures.items():
        print(f"{name:22}{row['median']:8.2f}{row['min']:8.2f}{row['max']:8.2f}{row['runs']:6.0f}")


def usable(kind: str) -> bool:
    try:
        isolation.choose(kind)[0].close()
    except IsolationUnavailable as reason:
        print(f"{kind}: not here: {reason}", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main()
