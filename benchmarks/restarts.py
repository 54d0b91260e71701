"""How long after a rank is killed all ranks have done a step again, under torchrun and under trainkit.

    python benchmarks/restarts.py [--quick] [--json]

Two ranks take steps of 20 ms with an `all_reduce` on gloo; rank 0 saves its place, and who starts again goes on from
there. Now and then a rank, chosen at random, notes the time and sends itself SIGKILL. Every rank writes down when its
script's first line runs, when its process group stands, and when each step is done: seconds from the kill to the moment
at which both ranks have done a step again. A job that does no step for 120 s counts as stuck, and is ended. Contenders
take turns, and are compared within a turn, so that who else is on the machine meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from trainkit.launch.engines.base import free_port
from trainkit.launch.processes import become_reaper, kill_descendants

SCRIPT = """\
import os, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[sys.argv.index("--folder") + 1]), int(os.environ["RANK"])
times = os.open(folder / f"times-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def stamp(what, step=-1):
    os.write(times, f"{what} {step} {time.monotonic_ns()} {time.process_time_ns()}\\n".encode())
stamp("entered")
import json, signal
import torch, torch.distributed as dist
kills = json.loads((folder / "kills.json").read_text())
dist.init_process_group("gloo")
stamp("met")
place = folder / "place"
start = torch.tensor([int(place.read_text()) if rank == 0 and place.exists() else 0])
dist.broadcast(start, 0)
for step in range(int(start), kills[-1][1] + 20):
    time.sleep(0.02)
    for victim, at in kills:
        if victim == rank and at == step and not (folder / f"killed-{at}").exists():
            (folder / f"killed-{at}").touch()
            stamp("killed", step)
            os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))
    stamp("stepped", step)
    if rank == 0:
        (folder / "place.part").write_text(str(step + 1))
        (folder / "place.part").replace(place)
time.sleep(0.1)  # the other rank may still be in the last collective
os._exit(0)  # a gloo thread may abort an orderly end (benchmarks/exits.py): that is not the subject here
"""
STUCK = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to start `hosts` x `procs` ranks."""

    launcher: str  # torchrun, fork or spawn
    hosts: int
    procs: int

    def __str__(self) -> str:
        name = "torchrun" if self.launcher == "torchrun" else f"trainkit, {self.launcher}"
        if self.launcher == "torchrun":
            name += " --standalone" if self.hosts == 1 else ", static"
        return name

    def commands(self, folder: Path) -> list[list[str]]:
        """What to start, all at once. Nobody's restarts run out."""
        script = folder / "train.py"
        if self.launcher != "torchrun":
            shape = ["--hosts", str(self.hosts), "--procs", str(self.procs), "--engine", self.launcher]
            settings = ["--hp", f"folder={folder}", "--hp", "trainkit_max_restarts=1000", "--isolation", "process"]
            return [_python("trainkit.cli.main", "local", str(script), *shape, *settings, "--output", f"{folder}/out")]
        job = [f"--nproc-per-node={self.procs}", "--max-restarts=1000", str(script), "--folder", str(folder)]
        if self.hosts == 1:
            return [_python("torch.distributed.run", "--standalone", *job)]
        meeting = [f"--nnodes={self.hosts}", "--master-addr=127.0.0.1", f"--master-port={free_port(0)}"]
        return [_python("torch.distributed.run", *meeting, f"--node-rank={n}", *job) for n in range(self.hosts)]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds from one kill until the last rank's first line, its process group, and a step that all have done."""

    entered: float
    met: float
    stepped: float
    cpu: float  # seconds that the new ranks have used by then; not those of who started them


@dataclass(frozen=True, slots=True)
class Stamp:
    """A line that a rank wrote."""

    rank: int
    what: str
    step: int
    at: float
    cpu: float


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def plan_kills(count: int, dice: random.Random) -> list[tuple[int, int]]:
    """(rank, step) of each kill: a tenth of a second to one second of training lies between them."""
    step, kills = 0, []
    for _ in range(count):
        step += dice.randint(5, 50)
        kills.append((dice.randrange(2), step))
    return kills


def measure(contender: Contender, kills: Sequence[tuple[int, int]], folder: Path) -> tuple[list[Recovery | None], int]:
    """Launch it until all `kills` have happened. None for each after which it was stuck, or ended; how often stuck."""
    (folder / "train.py").write_text(SCRIPT)
    (folder / "kills.json").write_text(json.dumps(kills))
    launches: list[float] = []
    stuck = happened = 0
    while happened < len(kills):
        launches.append(time.monotonic())
        stuck += not run_once(contender, folder)
        before, happened = happened, len(list(folder.glob("killed-*")))
        if happened == before:
            raise SystemExit(f"{contender} did not come to its next kill:\n{(folder / 'log').read_text()[-4000:]}")
    stamps = read(folder)
    moments = sorted(stamp.at for stamp in stamps if stamp.what == "killed")
    # What comes after the next kill, or after a launch of ours, is no recovery from this one.
    ends = [min(filter(moment.__lt__, [*moments, *launches]), default=float("inf")) for moment in moments]
    return [recovery(stamps, since=since, until=until) for since, until in zip(moments, ends, strict=True)], stuck


def run_once(contender: Contender, folder: Path) -> bool:
    """Launch it, and come back when it has ended, or been ended because it was stuck. Returns whether by itself."""
    mine = ("SM_", "SAGEMAKER_", "TRAINKIT_", "TORCHELASTIC_", "MASTER_", "GLOO_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with (folder / "log").open("ab") as log:
        running = [
            subprocess.Popen(command, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            for command in contender.commands(folder)
        ]
        steps, since = 0, time.monotonic()
        while any(process.poll() is None for process in running) and time.monotonic() < since + STUCK:
            time.sleep(0.2)
            done = sum(stamp.what == "stepped" for stamp in read(folder))
            if done != steps:
                steps, since = done, time.monotonic()
    by_itself = all(process.poll() is not None for process in running)
    for process in running:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    kill_descendants()
    return by_itself


def read(folder: Path) -> list[Stamp]:
    """What the ranks wrote so far."""
    stamps = []
    for path in folder.glob("times-*"):
        for line in path.read_text().splitlines():
            what, step, at, cpu = line.split()
            stamps.append(Stamp(int(path.name.rpartition("-")[2]), what, int(step), int(at) / 1e9, int(cpu) / 1e9))
    return stamps


def recovery(stamps: Sequence[Stamp], *, since: float, until: float) -> Recovery | None:
    """How both ranks came back between two moments; None if they did not in time."""
    mine = [stamp for stamp in stamps if since < stamp.at < min(until, since + STUCK)]
    done: dict[int, list[Stamp]] = {}
    for stamp in mine:
        if stamp.what == "stepped":
            done.setdefault(stamp.step, []).append(stamp)
    common = [both for both in done.values() if {stamp.rank for stamp in both} == {0, 1}]
    if not common:
        return None
    first = min(common, key=lambda both: max(stamp.at for stamp in both))
    stepped = max(stamp.at for stamp in first)
    last = {stamp.what: stamp.at for stamp in sorted(mine, key=lambda stamp: stamp.at) if stamp.at <= stepped}
    cpu = sum(stamp.cpu for stamp in first)
    return Recovery(last["entered"] - since, last["met"] - since, stepped - since, cpu)


@dataclass(slots=True)
class Row:
    """What one contender did in all turns."""

    recoveries: list[Recovery | None] = field(default_factory=list)
    stuck: int = 0
    ratios: list[float] = field(default_factory=list)  # to torchrun, one a turn

    def figures(self) -> dict[str, float]:
        well = [each for each in self.recoveries if each]
        figures: dict[str, float] = {"kills": len(self.recoveries), "recovered": len(well), "stuck": self.stuck}
        for name in ("entered", "met", "stepped", "cpu"):
            if well:
                figures[name] = statistics.median(getattr(each, name) for each in well)
        if well:
            figures |= {"least": min(each.stepped for each in well), "most": max(each.stepped for each in well)}
        if self.ratios:
            figures |= {"to torchrun": statistics.median(self.ratios), "at most": max(self.ratios)}
        return {name: round(value, 3) for name, value in figures.items()}


def turn(hosts: int, rows: dict[str, Row], dice: random.Random) -> None:
    """All contenders of one shape, one after the other."""
    torchrun = None
    for launcher in ("torchrun", "fork", "spawn"):
        contender = Contender(launcher, hosts, 2 // hosts)
        row = rows.setdefault(str(contender), Row())
        with tempfile.TemporaryDirectory() as folder:
            recoveries, stuck = measure(contender, plan_kills(1 if launcher == "torchrun" else 4, dice), Path(folder))
        row.recoveries += recoveries
        row.stuck += stuck
        well = [each.stepped for each in recoveries if each]
        if launcher == "torchrun":
            torchrun = well[0] if well else None
        elif torchrun and well:
            row.ratios.append(statistics.median(well) / torchrun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn on one host, instead of five on one and on two")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=1, help="of the kills' ranks and steps")
    arguments = parser.parse_args()
    become_reaper()  # whatever a contender leaves running falls to us
    dice = random.Random(arguments.seed)
    load = os.getloadavg()[0]
    shapes: dict[int, dict[str, Row]] = {1: {}} if arguments.quick else {1: {}, 2: {}}
    for _ in range(1 if arguments.quick else 5):
        for hosts, rows in shapes.items():
            turn(hosts, rows, dice)
    figures = {
        f"{hosts} host{'s' * (hosts > 1)} x {2 // hosts}": {name: row.figures() for name, row in rows.items()}
        for hosts, rows in shapes.items()
    }
    if arguments.json:
        print(json.dumps(figures))
        return
    print(
        f"torch {metadata.version('torch')}, trainkit {metadata.version('trainkit')}, Python {sys.version.split()[0]}, "
        f"{os.cpu_count()} CPUs, load {load:.1f} to {os.getloadavg()[0]:.1f}; seconds from the kill"
    )
    show(figures)


def show(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """For people."""
    columns = (
        "kills",
        "recovered",
        "stuck",
        "entered",
        "met",
        "stepped",
        "least",
        "most",
        "cpu",
        "to torchrun",
        "at most",
    )
    for shape, rows in figures.items():
        print(f"\n{shape:22}" + "".join(f"{column:>12}" for column in columns))
        for name, row in rows.items():
            cells = (f"{row[column]:12g}" if column in row else f"{'':12}" for column in columns)
            print(f"{name:22}" + "".join(cells))


if __name__ == "__main__":
    main()
