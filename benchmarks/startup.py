"""What the harness costs around a script: CPU seconds and wall time of `train` and its peers, interleaved, in one run.

    python benchmarks/startup.py [--quick] [--rounds N] [--json]

A  a script without torch, one rank: plain `python`, our `train`, the SDK V3 drivers, the two toolkits
B  init_process_group, one all_reduce, the end; two ranks on one host: `torchrun`, and `train` with each of its engines
C  the same with one optimizer step under DDP, for which torch imports torch._dynamo: what training scripts do

Every contender sees the same container: a mount namespace in which /opt/ml is a tree made for it. Each round runs
every contender once, so that what else the machine does meets all of them; what is compared (over plain `python`, or
to `torchrun`) is compared within a round. CPU is user and system time of every process that a contender starts, to
the end of the last one: orphans come to us, and are waited for.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from ctypes import CDLL
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path("/opt/ml")
VENVS = Path(__file__).resolve().parent.parent / ".venvs"
BIN = Path(sys.executable).parent
INSIDE = "BENCH_INSIDE"
LONGEST = 300  # seconds until a run counts as hung

# The script asks the kernel for the CPU time of itself and of all that stands above it, up to us: nanoseconds for what
# runs, ticks of 10 ms for what has been waited for. The clock of process P is ~P << 3 | 2 (clock_getcpuclockid(3)).
PLAIN = """\
import os, time
now = time.time()
spent, pid = 0.0, os.getpid()
while pid != int(os.environ["BENCH_PID"]):
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    spent += time.clock_gettime(~pid << 3 | 2) + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    pid = int(fields[1])
with open(os.environ["BENCH_NOTE"], "w") as note:
    note.write(f"{now} {spent}")
"""
ALL_REDUCE = """\
import os, time
now = time.time()
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
if dist.get_rank() == 0 and total.item() == 2:
    with open(os.environ["BENCH_NOTE"], "w") as note:
        note.write(f"{now} nan")
dist.destroy_process_group()
"""
DDP_STEP = """\
import os, time
now = time.time()
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(4, 8)).sum().backward()
optimizer.step()
if dist.get_rank() == 0 and dist.get_world_size() == 2:
    with open(os.environ["BENCH_NOTE"], "w") as note:
        note.write(f"{now} nan")
dist.destroy_process_group()
"""

RESOURCES = {
    "current_host": "algo-1",
    "current_instance_type": "ml.c5.xlarge",
    "current_group_name": "homogeneousCluster",
    "hosts": ["algo-1"],
    "instance_groups": [
        {"instance_group_name": "homogeneousCluster", "instance_type": "ml.c5.xlarge", "hosts": ["algo-1"]}
    ],
    "network_interface_name": "eth0",
}
CHANNEL = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to start the script. `home` is the folder of its executables, first in its PATH."""

    name: str
    version: str
    argv: tuple[str, ...]
    home: Path = BIN
    environ: tuple[tuple[str, str], ...] = ()
    lay: Callable[[str], None] | None = None
    """Puts script and config into the empty ROOT; `lay_image` where None."""
    slow: bool = False
    missing: str = ""
    """Why it cannot run here, if it cannot."""


@dataclass(frozen=True, slots=True)
class Part:
    """Contenders that start the same script, and what each is compared with: by difference (s) or by ratio."""

    title: str
    script: str
    contenders: list[Contender]
    against: str
    compare: Callable[[float, float], float]
    columns: tuple[tuple[str, str], ...]
    goals: tuple[Goal, ...]


class Goal(NamedTuple):
    """What a contender's median must not exceed."""

    contender: str
    field: str
    most: float
    meaning: str


class RunFailed(Exception):
    """A contender did not run the script to its end. The message has its exit code and its last output."""


class Run(NamedTuple):
    """One start, in seconds: all in all, and until the script's first line (CPU nan where not asked)."""

    cpu: float
    wall: float
    first_cpu: float
    first_wall: float


@dataclass(frozen=True, slots=True)
class Figure:
    """Of some runs."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.least:.3f}–{self.most:.3f})"


def main() -> None:
    options = _options()
    if INSIDE not in os.environ:
        _enter()
    _mount_root()
    # Orphans come to us, so that we wait for them too, and count them.
    CDLL(None).prctl(36, 1, 0, 0, 0)
    load = os.getloadavg()[0]
    rows = {}
    for name, part in parts(quick=options.quick).items():
        few, many = (1, 3) if options.quick else (5, 10)
        rounds = options.rounds or (many if name == "script" else few)
        rows[name] = judge(part, interleave(part, rounds=rounds, quick=options.quick))
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}, Linux {platform.release()}",
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        **rows,
    }
    print(json.dumps(report, default=asdict, ensure_ascii=False) if options.json else tables(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: few rounds, slow contenders once")
    parser.add_argument("--rounds", type=int, help="rounds of each part (10 of A, 5 of B and C; quick: 3 and 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def _enter() -> None:
    """Start again in a mount namespace of our own: nothing that is mounted from here on is seen outside."""
    as_root = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    argv = ("unshare", *as_root, "--mount", sys.executable, *sys.argv)
    os.execvpe(argv[0], argv, {**os.environ, INSIDE: "1"})


def _mount_root() -> None:
    """Give /opt an empty folder `ml` beside what lies there: the peers know no other place."""
    stage = Path(tempfile.mkdtemp())
    _mount("-t", "tmpfs", "tmpfs", stage)
    for entry in Path("/opt").iterdir():
        if entry.name == "ml":
            continue
        place = stage / entry.name
        if entry.is_dir():
            place.mkdir()
        else:
            place.touch()
        _mount("--rbind", entry, place)
    (stage / "ml").mkdir()
    _mount("--rbind", stage, "/opt")
    subprocess.run(["umount", "--lazy", stage], check=True)
    stage.rmdir()


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def parts(*, quick: bool) -> dict[str, Part]:
    """What is measured, by its name in the JSON."""
    ranks = contenders_torch(quick=quick)
    ratios = (("CPU", "cpu"), ("CPU ratio", "cpu_compared"), ("wall", "wall"), ("wall ratio", "wall_compared"))
    least = tuple(
        Goal("trainkit fork", field, 0.6, f"{field.partition('_')[0]} over torchrun's")
        for field in ("cpu_compared", "wall_compared")
    )
    script = (
        ("CPU", "cpu"), ("CPU over plain", "cpu_compared"), ("to 1st line", "first_cpu_compared"), ("wall", "wall"),
        ("wall to 1st line", "first_wall"),
    )  # fmt: skip
    cost = Goal("trainkit train", "cpu_compared", 0.15, "CPU seconds over plain python")
    title = "two ranks on one host, gloo; ratio to torchrun of the same round"
    return {
        "script": Part(
            "A  a script without torch, one rank; over plain python of the same round", PLAIN, contenders_plain(),
            "plain python", lambda run, base: run - base, script, (cost,),
        ),
        "all_reduce": Part(
            f"B  init_process_group, all_reduce: {title}", ALL_REDUCE, ranks, "torchrun",
            lambda run, base: run / base, ratios, least,
        ),
        "ddp_step": Part(
            f"C  the same and a step under DDP: {title}", DDP_STEP, ranks, "torchrun",
            lambda run, base: run / base, ratios, least,
        ),
    }  # fmt: skip


def contenders_plain() -> list[Contender]:
    """Part A. The peers' waits for DNS are switched off by their own setting, which favours them."""
    toolkit, pytorch, sdk = VENVS / "toolkit", VENVS / "pytorch-toolkit", VENVS / "sdk-v3"
    alone = (("SM_STUDIO_LOCAL_MODE", "true"), ("AWS_REGION", "us-east-1"), ("AWS_DEFAULT_REGION", "us-east-1"))
    framework = ("SAGEMAKER_TRAINING_MODULE", "sagemaker_pytorch_container.training:main")
    drivers = f"{ROOT}/input/data/sm_drivers/sm_train.sh"
    return [
        Contender("plain python", platform.python_version(), (sys.executable, f"{ROOT}/code/train.py")),
        Contender("trainkit train", version("trainkit"), ("train",)),
        Contender(
            "SDK V3 container drivers", f"sagemaker-train {version('sagemaker-train', sdk)}",
            ("/bin/bash", "-c", f"chmod +x {drivers} && {drivers}"),
            lay=lay_sdk, missing=_missing(sdk, "sagemaker-train"),
        ),
        Contender(
            "training toolkit", f"sagemaker-training {version('sagemaker-training', toolkit)}", ("train",),
            home=toolkit / "bin", environ=alone, slow=True, missing=_missing(toolkit, "sagemaker-training"),
        ),
        Contender(
            "pytorch toolkit", f"sagemaker-pytorch-training {version('sagemaker-pytorch-training', pytorch)}",
            ("train",), home=pytorch / "bin", environ=(*alone, framework), slow=True,
            missing=_missing(pytorch, "sagemaker-pytorch-training"),
        ),
    ]  # fmt: skip


def contenders_torch(*, quick: bool) -> list[Contender]:
    """Parts B and C."""
    torch, ours = f"torch {version('torch')}", version("trainkit")
    missing = _missing(BIN.parent, "torch")
    agent = (sys.executable, "-m", "torch.distributed.run")
    script = ("--nproc-per-node", "2", f"{ROOT}/code/train.py")
    main = [
        Contender("torchrun", torch, (*agent, "--standalone", *script), missing=missing),
        Contender("trainkit fork", ours, ("train", "--procs", "2", "--engine", "fork"), missing=missing),
    ]
    if quick:
        return main
    return [
        *main,
        Contender("torchrun, static rendezvous", torch, (*agent, "--master-port", "29555", *script), missing=missing),
        Contender("trainkit spawn", ours, ("train", "--procs", "2", "--engine", "spawn"), missing=missing),
        Contender("trainkit torchrun", ours, ("train", "--procs", "2", "--engine", "torchrun"), missing=missing),
    ]


def version(distribution: str, venv: Path = BIN.parent) -> str:
    """Of what is installed in `venv`, or ""."""
    folders = [str(folder) for folder in venv.glob("lib/python*/site-packages")]
    return next((found.version for found in metadata.distributions(name=distribution, path=folders)), "")


def _missing(venv: Path, distribution: str) -> str:
    if version(distribution, venv):
        return ""
    if venv == BIN.parent:
        return f"no {distribution} beside {sys.executable}"
    return f"not installed: sh benchmarks/peers/install.sh makes .venvs/{venv.name}"


def lay_image(script: str) -> None:
    """The tree of an image that carries its script, as toolkit users build it."""
    _write("code/train.py", script)
    _write("input/config/resourceconfig.json", json.dumps(RESOURCES))
    _write("input/config/inputdataconfig.json", "{}")
    named = {"sagemaker_program": "train.py", "sagemaker_submit_directory": f"{ROOT}/code"}
    _write("input/config/hyperparameters.json", json.dumps(named))
    (ROOT / "output").mkdir()
    (ROOT / "model").mkdir()


def lay_sdk(script: str) -> None:
    """The tree that ModelTrainer(source_code=SourceCode(source_dir, entry_script)) makes: two more channels."""
    lay_image(script)
    _write("input/config/hyperparameters.json", "{}")
    _write("input/config/inputdataconfig.json", json.dumps({"code": CHANNEL, "sm_drivers": CHANNEL}))
    _write("input/data/code/train.py", script)
    package = next((VENVS / "sdk-v3").glob("lib/python*/site-packages/sagemaker/train"))
    shutil.copytree(package / "container_drivers", ROOT / "input/data/sm_drivers")
    named = {"source_dir": "src", "entry_script": "train.py"}
    _write("input/data/sm_drivers/sourcecode.json", json.dumps(named))
    _write("input/data/sm_drivers/distributed.json", "{}")
    specification = importlib.util.spec_from_file_location("templates", package / "templates.py")
    assert specification and specification.loader
    templates = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(templates)
    filled = templates.TRAIN_SCRIPT_TEMPLATE.format(
        working_dir=f"cd {ROOT}/input/data/code \n",
        install_requirements="",
        execute_driver=templates.EXECUTE_BASIC_SCRIPT_DRIVER,
    )
    _write("input/data/sm_drivers/sm_train.sh", filled)


def _write(path: str, text: str) -> None:
    file = ROOT / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def interleave(part: Part, *, rounds: int, quick: bool) -> dict[str, list[Run | RunFailed]]:
    """Runs by contender. A round that is not counted goes first, to fill caches; quick runs slow contenders once."""
    runs: dict[str, list[Run | RunFailed]] = {one.name: [] for one in part.contenders if not one.missing}
    for number in range(rounds + 1):
        for contender in part.contenders:
            once = quick and (contender.slow or rounds == 1)
            if contender.missing or (once and number != 1):
                continue
            print(f"{number}/{rounds} {contender.name}", file=sys.stderr)
            run: Run | RunFailed
            try:
                run = measure(contender, part.script)
            except RunFailed as failure:
                print(failure, file=sys.stderr)
                run = failure
            if number:
                runs[contender.name].append(run)
    return runs


def measure(contender: Contender, script: str) -> Run:
    """Start the contender in a fresh tree and wait for all it leaves behind. Raises RunFailed."""
    for entry in ROOT.iterdir():
        shutil.rmtree(entry)
    (contender.lay or lay_image)(script)
    note = ROOT / "output/note"
    environ = {
        "PATH": f"{contender.home}:{BIN}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TRAINING_JOB_NAME": "startup",
        "BENCH_PID": str(os.getpid()),
        "BENCH_NOTE": str(note),
        **dict(contender.environ),
    }
    with tempfile.TemporaryFile() as log:
        began, mark = time.time(), time.monotonic()
        first, *rest = contender.argv
        program = shutil.which(first, path=environ["PATH"])
        process = subprocess.Popen(
            [program or first, *rest], env=environ, cwd=ROOT / "code", stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip
        cpu, ended = _wait_for_all(process)
        log.seek(0)
        if process.returncode or not note.exists():
            output = log.read().decode(errors="replace")
            raise RunFailed(f"{contender.name} ended with {process.returncode}:\n{output[-2000:]}")
    first_line, first_cpu = map(float, note.read_text(encoding="ascii").split())
    return Run(cpu, ended - mark, first_cpu, first_line - began)


def _wait_for_all(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """CPU seconds of the process and of every orphan of it, and when (monotonic) the process itself ended."""

    def give_up(*_: object) -> None:
        os.killpg(process.pid, signal.SIGKILL)
        raise TimeoutError(f"{process.args!r} did not end within {LONGEST} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LONGEST)
    cpu = ended = 0.0
    try:
        while True:
            pid, status, usage = os.wait4(-1, 0)
            cpu += usage.ru_utime + usage.ru_stime
            if pid == process.pid:
                ended = time.monotonic()
                process.returncode = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        return cpu, ended
    finally:
        signal.alarm(0)


def judge(part: Part, runs: dict[str, list[Run | RunFailed]]) -> list[dict[str, Any]]:
    """A row per contender: figures in seconds, and as compared within each round; failed runs told apart."""
    rows: list[dict[str, Any]] = []
    for contender in part.contenders:
        row: dict[str, Any] = {"name": contender.name, "version": contender.version}
        rows.append(row)
        if contender.missing:
            row["missing"] = contender.missing
            continue
        own = runs[contender.name]
        row["failures"] = [str(run) for run in own if isinstance(run, RunFailed)]
        pairs = [
            (run, base)
            for run, base in zip(own, runs[part.against], strict=False)
            if isinstance(run, Run) and isinstance(base, Run)
        ]
        if not pairs:
            row["missing"] = "every run failed"
            continue
        row["runs"] = len(pairs)
        for field in Run._fields:
            values = [(getattr(run, field), getattr(base, field)) for run, base in pairs]
            if not math.isnan(values[0][0]):
                row[field] = Figure.of([value for value, _ in values])
                row[f"{field}_compared"] = Figure.of([part.compare(*value) for value in values])
    return rows


def tables(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{report['date']}, {report['machine']}, load {report['load'][0]} → {report['load'][1]}"]
    lines.append("seconds: median (least–most)")
    for name, part in parts(quick=False).items():
        lines += ["", part.title, *_table(report[name], dict(part.columns))]
        lines += [verdict for goal in part.goals for verdict in _verdict(goal, report[name])]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> list[str]:
    measured = [row for row in rows if "missing" not in row]
    cells = [["", "version", "runs", *columns]]
    for row in measured:
        cells.append([row["name"], row["version"], str(row["runs"]), *(str(row[key]) for key in columns.values())])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines += [f"{row['name']}: {row['missing']}" for row in rows if "missing" in row]
    for row in rows:
        lines += [f"a run failed: {failure.partition(':')[0]}" for failure in row.get("failures", ())]
    return lines


def _verdict(goal: Goal, rows: list[dict[str, Any]]) -> list[str]:
    row = next(row for row in rows if row["name"] == goal.contender)
    if "missing" in row:
        return []
    reached = row[goal.field].median
    return [f"goal: {goal.meaning} ≤ {goal.most}: {reached:.3f}, {'met' if reached <= goal.most else 'NOT met'}"]


if __name__ == "__main__":
    main()
