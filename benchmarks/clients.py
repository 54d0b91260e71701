"""Whether a job ends right and its script sees what its client's users expect: trainkit beside AWS's own code.

    python benchmarks/clients.py [--quick | --drawn N] [--seed S] [--json]

The requests are those of the SDKs (tests/local_requests), and others drawn from the API's model
(tests/hosts/drawing.py) in the way of one kind of client each. `trainkit local` lays every host and starts the
container's command in it. The contenders differ in that command alone: script and judgement are the same for all. What
a contender does not claim to do is n/a. An image with the toolkit names its script; the SDK's drivers have this Python,
and its torchrun. CLIENTS_SAY=1 shows the log of every job that is not right.

own image   an Estimator or ModelTrainer without source code, or boto3: values as str() writes them
v2          a framework Estimator: values as JSON, the code an archive on S3; torchrun: with torch_distributed
v3          a ModelTrainer with source code: its start script, and Torchrun, or Trainkit with FIRST_PROCESS
tuning      a trial of version 3: the code an archive on S3, and nobody runs the drivers, though they are sent
any text    names and values as people write them, with quotes, apostrophes, dots; plain ones in the other rows
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT / "tests"), str(ROOT / "tests/interop")]  # in the place of this folder, with its hosts.py

import peers  # noqa: E402
import v3_upload  # noqa: E402
from harness import TRAINKIT, environment  # noqa: E402
from hosts.drawing import Drawn  # noqa: E402
from servers.s3 import S3Server  # noqa: E402

import trainkit  # noqa: E402
from trainkit.local import tuning  # noqa: E402
from trainkit.sagemaker import FIRST_PROCESS, bundle  # noqa: E402

REQUESTS = ROOT / "tests/local_requests"
LONGEST = 180  # seconds until a job counts as hung
KINDS = ("own image", "v2", "v3", "tuning")
OF_FILES = {
    "sdk-v2-estimator-own-image": "own image",
    "sdk-v2-pytorch-torchrun": "v2",
    "sdk-v3-trainer-own-image": "own image",
    "sdk-v3-trainer-source-code": "v3",
    "sdk-v3-tuner": "tuning",
}
SIMPLE = {"lr": [0.001, 1e-05], "batch_size": [32, 1], "optimizer": ["adam", "a-b_c"], "amp": [True, False]}
ANY = {
    "batch-size": [8], "model.lr": [0.5],
    "text": ["it's", 'say "hi"', '"quoted"', "a b", "$(id)", "ünïcode", "[1, 2]", "--x", "12345e6", "007", "true", ""],
}  # fmt: skip
FLAGS = ("true", "false")
FAILS = "WITNESS_FAILS"
WITNESS = f"""
import json, os, sys
from pathlib import Path

here, rank = os.uname().nodename, os.environ.get("RANK", "0")
channels = {{}}
for name, facts in json.loads(Path("/opt/ml/input/config/inputdataconfig.json").read_text()).items():
    place = Path(os.environ.get("SM_CHANNEL_" + name.upper()) or f"/opt/ml/input/data/{{name}}")
    if facts["TrainingInputMode"] == "Pipe":
        channels[name] = len(Path(f"{{place}}_0").read_bytes()) if os.environ.get("LOCAL_RANK", "0") == "0" else 1
    else:
        channels[name] = sum(path.is_file() for path in place.rglob("*"))
seen = {{"argv": sys.argv[1:], "env": dict(os.environ), "channels": channels}}
note = Path(os.environ["SM_OUTPUT_DATA_DIR"], f"{{here}}-{{rank}}-{{os.getpid()}}")
note.write_text(json.dumps(seen))
note.rename(note.with_suffix(".json"))  # whole, if another rank's failure ends this one
if "{FAILS}" in os.environ:
    raise ValueError("planted by the benchmark")
if rank == "0":
    Path(os.environ["SM_MODEL_DIR"], "model.bin").write_text("M")
print("loss=0.25")
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A training job's request as its client sends it, and what its users expect."""

    name: str
    kind: str
    request: dict[str, Any]
    values: dict[str, str]
    """Hyperparameters as the script shall read them."""
    distributed: bool
    procs: int = 1
    """Ranks per host."""
    fails: bool = False
    any_text: bool = False

    @property
    def row(self) -> str:
        """Of the table."""
        return self.kind + ", torchrun" * self.distributed + ", any text" * self.any_text

    @property
    def hosts(self) -> list[str]:
        resources = self.request["ResourceConfig"]
        groups = resources.get("InstanceGroups") or [resources]
        return [f"algo-{number + 1}" for number in range(sum(group["InstanceCount"] for group in groups))]

    @property
    def channels(self) -> dict[str, list[str]]:
        """The data's, each with the hosts that get it."""
        one = self.request["ResourceConfig"].get("InstanceGroups") or []
        group = [name["InstanceGroupName"] for name in one for _ in range(name["InstanceCount"])]
        found = {}
        for channel in self.request.get("InputDataConfig", []):
            wanted = channel["DataSource"]["S3DataSource"].get("InstanceGroupNames")
            own = [host for number, host in enumerate(self.hosts) if not wanted or group[number] in wanted]
            found[channel["ChannelName"]] = own
        return {name: hosts for name, hosts in found.items() if name not in ("code", "sm_drivers")}


@dataclass(frozen=True, slots=True)
class Contender:
    """`prepare` makes the request one whose container it is, in a folder; None where it does not claim the case."""

    name: str
    prepare: Callable[[Case, Path], dict[str, Any] | None]


def ours(case: Case, folder: Path) -> dict[str, Any]:
    """An image with trainkit; with the SDK's start script, its own driver and the variable that its docs advise."""
    request: dict[str, Any] = json.loads(json.dumps(case.request))
    if case.kind == "tuning":
        _sdk_drivers(case, folder)
    if case.kind == "v3":
        drivers = folder / "trainkit-driver"
        drivers.mkdir()
        bundle.lay(drivers)
        asked = {"trainkit": trainkit.__version__, "procs": case.procs}
        if case.distributed and (groups := case.request["ResourceConfig"].get("InstanceGroups")):
            asked["groups"] = [group["InstanceGroupName"] for group in groups]  # ours train apart if nobody says else
        v3_upload.lay(folder / "sm_drivers", distributed=asked, script=bundle.DRIVER, driver_dir=drivers)
        request["Environment"] = {**request.get("Environment", {}), **FIRST_PROCESS}
    return request


def toolkit(venv: str, *variables: tuple[str, str], launches: bool) -> Callable[[Case, Path], dict[str, Any] | None]:
    """An image with the toolkit of that environment; `launches`: it claims torch_distributed."""

    def prepare(case: Case, folder: Path) -> dict[str, Any] | None:
        if case.kind == "v3" or (case.distributed and (case.kind == "tuning" or not launches)):
            return None
        if case.kind == "tuning":
            _sdk_drivers(case, folder)
        request: dict[str, Any] = json.loads(json.dumps(case.request))
        home = peers.VENVS / venv / "bin"
        words = ["-u", "PYTHONPATH", f"PATH={home}:/usr/local/bin:/usr/bin:/bin", *(f"{k}={v}" for k, v in variables)]
        start = f"exec {home}/train"
        if case.kind == "own image":  # which has the script where the toolkit looks for it
            words.append("SAGEMAKER_PROGRAM=train.py")
            start = f"cp -rL /opt/ml/input/data/code /opt/ml/code && {start}"
        request["AlgorithmSpecification"] |= {
            "ContainerEntrypoint": ["/usr/bin/env"], "ContainerArguments": [*words, "sh", "-c", start],
        }  # fmt: skip
        return request

    return prepare


def drivers(case: Case, folder: Path) -> dict[str, Any] | None:
    """The SDK's own, under its start script, in an image with this Python and its torch."""
    if case.kind != "v3":
        return None
    _sdk_drivers(case, folder)
    return case.request


def _sdk_drivers(case: Case, folder: Path) -> None:
    asked = {"process_count_per_node": case.procs, "smp": None} if case.distributed else {}
    script = "torchrun_driver.py" if case.distributed else "basic_script_driver.py"
    v3_upload.lay(folder / "sm_drivers", distributed=asked, script=script)


def of_the_sdks(folder: Path, s3: S3Server) -> Iterator[Case]:
    """The requests on file, with their data in `folder` and their code where they say that it is."""
    for name, kind in OF_FILES.items():
        asked = json.loads((REQUESTS / f"{name}.json").read_text())["request"]
        if kind == "tuning":
            asked = tuning.trial(asked, given={}, seed=0, file=name).request
        sent = asked["HyperParameters"]
        values = {key: text for key, text in sent.items() if not _own(key)}
        torch = "sagemaker_torch_distributed_enabled" in sent or kind == "v3"
        yield _placed(Case(name, kind, dict(asked), values, distributed=torch), folder / name, s3)


def drawn(folder: Path, s3: S3Server, seed: int) -> Case:
    """One of any kind, on one to four hosts; every fifth has a script that fails."""
    dice = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    made = Drawn(folder / f"{seed}", seed)
    request = made.request
    request["AlgorithmSpecification"].pop("ContainerArguments", None)
    any_text = dice.random() < 0.5
    if not any_text:  # the channels' names, too, are such that a shell has variables of them
        request = json.loads(re.sub(r'"ch-(\d)"', r'"ch_\1"', json.dumps(request)))
    given = {name: dice.choice(texts) for name, texts in SIMPLE.items()}
    given |= {name: dice.choice(texts) for name, texts in ANY.items() if any_text and dice.random() < 0.7}
    spelled = {"own image": str, "v2": json.dumps}.get(
        kind, lambda one: one if isinstance(one, str) else json.dumps(one)
    )
    sent = {name: spelled(value) for name, value in given.items()}
    values = {name: str(value) for name, value in given.items()} if kind == "v2" else dict(sent)
    distributed = kind in ("v2", "v3", "tuning") and dice.random() < 0.6
    if kind in ("v2", "tuning"):
        quoted = json.dumps if kind == "v2" else str
        sent["sagemaker_program"], sent["sagemaker_submit_directory"] = quoted("train.py"), quoted("s3://code")
    if kind == "v2" and distributed:
        groups = [group["InstanceGroupName"] for group in made.groups] if len(made.groups) > 1 else []
        sent["sagemaker_torch_distributed_enabled"] = "true"
        sent |= {"sagemaker_distribution_instance_groups": json.dumps(groups)} if groups else {}
    if kind in ("v3", "tuning"):
        request["InputDataConfig"] = [*request.get("InputDataConfig", []), _channel("sm_drivers")]
    if kind == "v3":
        request["InputDataConfig"].append(_channel("code"))
        request["AlgorithmSpecification"] |= {
            "ContainerEntrypoint": [v3_upload.COMMAND[0]], "ContainerArguments": list(v3_upload.COMMAND[1:]),
        }  # fmt: skip
    request["HyperParameters"] = sent
    fails = dice.random() < 0.2
    request["Environment"] = {**request.get("Environment", {}), **({FAILS: "1"} if fails else {})}
    procs = dice.choice([1, 2]) if distributed and kind != "v2" else 1
    return _placed(Case(f"seed {seed}", kind, request, values, distributed, procs, fails, any_text), made.folder, s3)


def _own(name: str) -> bool:
    """Whether it is no hyperparameter of the user's."""
    return name.startswith("sagemaker_") or name == "_tuning_objective_metric"


def _channel(name: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": name}
    return {"ChannelName": name, "InputMode": "File", "DataSource": {"S3DataSource": source}}


def _placed(case: Case, folder: Path, s3: S3Server) -> Case:
    """The case with all that it names in `folder`, but for the code of a script mode, which is on S3."""
    from trainkit.storage import files

    request: dict[str, Any] = json.loads(json.dumps(case.request).replace("s3://data/", "data/"))
    (folder / "code").mkdir(parents=True, exist_ok=True)
    (folder / "code/train.py").write_text(WITNESS)
    if case.name in OF_FILES:
        (folder / "data/train").mkdir(parents=True)
        for number in range(4):
            (folder / f"data/train/{number}.txt").write_text(f"{number}")
    for channel in request.get("InputDataConfig", []):
        if channel["ChannelName"] in ("code", "sm_drivers"):
            channel["DataSource"]["S3DataSource"]["S3Uri"] = channel["ChannelName"]
    sent = request["HyperParameters"]
    if where := sent.get("sagemaker_submit_directory"):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            tar.add(folder / "code/train.py", "train.py")
        url = f"{s3.bucket}/{case.name.replace(' ', '-')}/sourcedir.tar.gz"
        files.put_new(url, packed.getvalue())
        sent["sagemaker_submit_directory"] = json.dumps(url) if where.startswith('"') else url
    elif case.kind == "own image":
        request["InputDataConfig"] = [*request.get("InputDataConfig", []), _channel("code")]
    values = case.values
    if case.kind == "v2" and case.name in OF_FILES:
        values = {name: str(json.loads(text)) for name, text in values.items()}
    return replace(case, request=request, values=values)


def wrong(case: Case, contender: Contender, folder: Path, s3: S3Server) -> str | None:
    """What is not as its users expect, in a word or two, or an empty text. None: not claimed."""
    with tempfile.TemporaryDirectory(prefix="clients-") as scratch:
        place = Path(scratch) / "job"
        shutil.copytree(folder, place)
        request = contender.prepare(case, place)
        if request is None:
            return None
        (place / "job.json").write_text(json.dumps(request).replace(str(folder), str(place)))
        command = [
            *TRAINKIT,
            "local",
            str(place / "job.json"),
            "--isolation",
            "namespace",
            "--output",
            f"{scratch}/out",
        ]
        try:
            ended = subprocess.run(
                command, env=environment(**s3.environ), stdin=subprocess.DEVNULL, capture_output=True,
                timeout=LONGEST, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "does not end"
        said = (ended.stdout + ended.stderr).decode(errors="replace")
        found = _judge(case, ended.returncode, Path(scratch) / "out/hosts")
        if found and os.environ.get("CLIENTS_SAY"):
            print(f"--- {case.name}, {contender.name}: {found}\n{json.dumps(request)}\n{said[-4000:]}", file=sys.stderr)
        return found


def _judge(case: Case, code: int, hosts: Path) -> str:
    seen = {
        host: [json.loads(f.read_text()) for f in (hosts / host / "output/data").glob("*.json")] for host in case.hosts
    }
    if case.fails:
        told = [path.read_text(errors="replace") for path in hosts.glob("*/output/failure")]
        if code == 0:
            return "exit code 0 of a failure"
        if not all(seen.values()):
            return "the script did not run"
        return "" if any("planted by the benchmark" in text for text in told) else "the failure file does not say why"
    if code:
        return "the job fails" if any(seen.values()) else "the script did not run"
    if not any((hosts / host / "model/model.bin").is_file() for host in case.hosts):
        return "no model"
    if not all(seen.values()):
        return "the script did not run on each host"
    if case.distributed:
        worlds = {one["env"].get("WORLD_SIZE") for ones in seen.values() for one in ones}
        ranks = sorted(int(one["env"].get("RANK", -1)) for ones in seen.values() for one in ones)
        if ranks != [*range(len(case.hosts) * case.procs)] or worlds != {str(len(ranks))}:
            return "other ranks than asked for"
    return next((found for host, ones in seen.items() for one in ones if (found := _script(case, host, one))), "")


def _script(case: Case, host: str, seen: dict[str, Any]) -> str:
    """What one script saw that is not as it should be."""
    argv, env = seen["argv"], seen["env"]
    given = {name.lstrip("-"): value for name, value in zip(argv[::2], argv[1::2], strict=False)}
    given = {name: value for name, value in given.items() if not _own(name)}
    if {**given, **_flags(given)} != {**case.values, **_flags(case.values)}:
        return "hyperparameters in argv"
    own = [name for name, hosts in case.channels.items() if host in hosts]
    expected = {
        "SM_MODEL_DIR": "/opt/ml/model", "SM_OUTPUT_DATA_DIR": "/opt/ml/output/data", "SM_INPUT_DIR": "/opt/ml/input",
        "SM_INPUT_CONFIG_DIR": "/opt/ml/input/config", "SM_CURRENT_HOST": host,
        **{f"SM_CHANNEL_{name.upper()}": f"/opt/ml/input/data/{name}" for name in own},
        # Peers disagree on a name with a dot or a hyphen: the plain ones must be there.
        **{f"SM_HP_{k.upper()}": v for k, v in case.values.items() if k.isidentifier() and v.lower() not in FLAGS},
    }  # fmt: skip
    if lost := sorted(name for name, value in expected.items() if not _alike(env.get(name), value)):
        return f"{'SM_HP_' if lost[0].startswith('SM_HP_') else 'SM_CHANNEL_' if 'CHANNEL' in lost[0] else lost[0]}"
    lists = [json.loads(env.get(name) or "null") for name in ("SM_HOSTS", "SM_CHANNELS", "SM_NUM_CPUS", "SM_NUM_GPUS")]
    if lists[0] != sorted(case.hosts) or not {*own} <= {*(lists[1] or [])} or None in lists[2:]:
        return "SM_HOSTS, SM_CHANNELS or SM_NUM_*"
    if any(env.get(name) != value for name, value in case.request.get("Environment", {}).items()):
        return "the request's Environment"
    return "" if all(seen["channels"].get(name) for name in own) else "a channel is empty"


def _alike(found: str | None, value: str) -> bool:
    """Whether it is the same text, or the same JSON: some write [1,2], and some [1, 2]."""
    try:
        return found == value or (found is not None and json.loads(found) == json.loads(value))
    except ValueError:
        return False


def _flags(values: dict[str, str]) -> dict[str, str]:
    """Those that are True or true, which nobody's parser tells apart: peers differ, and are both right."""
    return {name: text.lower() for name, text in values.items() if text.lower() in FLAGS}


def contenders() -> list[Contender]:
    framework = ("SAGEMAKER_TRAINING_MODULE", "sagemaker_pytorch_container.training:main")
    known = [
        ("toolkit", "sagemaker_training", toolkit("toolkit", launches=False)),
        ("pytorch-toolkit", "sagemaker_pytorch_training", toolkit("pytorch-toolkit", framework, launches=True)),
        ("sdk-v3", "sagemaker_train", drivers),
    ]
    found = [Contender(f"trainkit {metadata.version('trainkit')}", ours)]
    for venv, package, prepare in known:
        if (peers.VENVS / venv / "bin/python").exists():
            found.append(Contender(f"{package.replace('_', '-')} {peers.version(venv, package)}", prepare))
        else:
            print(f"{package}: not here: make bench-peers installs it", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four drawn requests: under a minute")
    parser.add_argument("--drawn", type=int, default=60, help="how many are drawn beside the SDKs' (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="the first one's")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    count = 4 if given.quick else given.drawn
    rivals = contenders()
    results: dict[str, dict[str, list[str]]] = defaultdict(lambda: {one.name: [] for one in rivals})
    with S3Server() as s3, tempfile.TemporaryDirectory(prefix="clients-") as scratch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ |= s3.environ
        s3.clean()
        folder = Path(scratch)
        cases = [*of_the_sdks(folder, s3), *(drawn(folder, s3, given.seed + n) for n in range(count))]
        with ThreadPoolExecutor(2) as pool:
            places = {case.name: folder / case.name.removeprefix("seed ") for case in cases}
            jobs = [(c, one, pool.submit(wrong, c, one, places[c.name], s3)) for c in cases for one in rivals]
            for case, contender, job in jobs:
                if (found := job.result()) is not None:
                    results[case.row][contender.name].append(found and f"{found} ({case.name})")
    if given.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{len(cases)} requests, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}; right of all\n")
    show(results, [one.name for one in rivals])


def show(results: dict[str, dict[str, list[str]]], names: list[str]) -> None:
    print("| | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for row in sorted(results):
        cells = [results[row][name] for name in names]
        print(
            f"| {row} | " + " | ".join(f"{ones.count('')} of {len(ones)}" if ones else "n/a" for ones in cells) + " |"
        )
    totals = [[found for row in results.values() for found in row[name]] for name in names]
    print("| all | " + " | ".join(f"{ones.count('')} of {len(ones)}" for ones in totals) + " |")
    for name, ones in zip(names, totals, strict=True):
        reasons = Counter(found.partition(" (")[0] for found in ones if found)
        print(f"\n{name}: " + ("; ".join(f"{reason}: {n}" for reason, n in reasons.most_common()) or "nothing wrong"))


if __name__ == "__main__":
    main()
