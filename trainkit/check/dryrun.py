"""Trains two steps on two ranks, here, from a slice of the data; stops, starts again, and looks at what came of it.

    slice of each channel ─▶ run 1: steps 0 to 2, checkpoint, model ─▶ run 2: does it begin at 2? ─▶ metrics, artifact

The script's own loop is job.steps, and its checkpoints are job.checkpointer's: what uses neither can be started, but
not stopped in time, nor seen to resume, and that is said.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainkit.check import artifact, slices
from trainkit.check.facts import Facts
from trainkit.check.facts import local as local_path
from trainkit.check.finding import Finding
from trainkit.check.request import Job, at, objects
from trainkit.check.subjects import serving
from trainkit.contract.environ import CHANNEL_URL
from trainkit.contract.rehearsal import SPAN, STEPS
from trainkit.errors import StorageError

RANKS, STEP_COUNT = 2, 2
PATIENCE = 25
"""Seconds of one run."""
_LATER = "The same happens in the cloud, some 3 to 8 minutes after the job was sent, on every rank"


@dataclass(frozen=True, slots=True)
class Ran:
    """One run. `spans` are the (first, last) of each loop of job.steps."""

    exit_code: int
    status: str
    log: str
    failure: str

    @property
    def spans(self) -> list[tuple[int, int]]:
        return [(int(first), int(last)) for first, last in SPAN.findall(self.log)]


def run(facts: Facts, *, say: Callable[[str], None]) -> list[Finding]:
    """Rehearse the first training job. What could not be rehearsed is a note."""
    job = next(iter(facts.trainings), None)
    if job is None or facts.code is None or facts.code.entry is None:
        return [_note("dry-run", "no dry run: it needs a training script of Python on this machine", "Name --code DIR")]
    with tempfile.TemporaryDirectory(prefix="trainkit-dry-") as scratch:
        root = Path(scratch)
        try:
            spec = _spec(facts, job, root)
        except (StorageError, OSError) as error:
            return [_note("dry-run-data", f"no dry run: {error}", "Name a sample here: --channel NAME=PATH")]
        say(f"{RANKS} ranks train {STEP_COUNT} steps")
        first = _once(spec, root)
        if first.exit_code or first.status != "Completed":
            return [*_failed(first, where="")]
        say("again, as after an interruption")
        second = _once(spec, root)
        return [
            *resumed(facts, first, second), *(_failed(second, where=" in its second run") if second.exit_code else ()),
            *_metrics(job, first), *_model(root / "out"),
        ]  # fmt: skip


def _note(code: str, what: str, remedy: str) -> Finding:
    return Finding(code, "note", "", what, "What was not rehearsed is seen in the cloud first", remedy)


def _spec(facts: Facts, job: Job, root: Path) -> dict[str, object]:
    sources: dict[str, str | Path] = {
        str(channel["ChannelName"]): uri
        for _, channel in job.channels
        if (uri := at(channel, "DataSource", "S3DataSource", "S3Uri", kind=str))
        and channel.get("ChannelName") != "code"
    }
    by_variable = {name: url for name, url in job.environment.items() if name.startswith(CHANNEL_URL)}
    sources |= {name: place.path for name, place in facts.places.items()}
    channels = {name: str(_sliced(where, root / "slices" / name)) for name, where in sources.items()}
    named = {name: str(_sliced(url, root / "slices" / name)) for name, url in by_variable.items()}
    assert facts.code
    return {
        "script": str(facts.code.script), "channels": channels, "hyperparameters": dict(job.hyperparameters),
        "environment": {
            **job.environment, **named, STEPS: str(STEP_COUNT), "TRAINKIT_PROCS": str(RANKS),
            "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "0"),
        },
        "output": str(root / "out"), "seconds": PATIENCE,
        "name": str(job.definition.get("TrainingJobName") or "dry-run"),
    }  # fmt: skip


def _sliced(where: str | Path, into: Path) -> Path:
    path = where if isinstance(where, Path) else local_path(where)
    return slices.cut(path if path is not None else str(where), into=into)


def _once(spec: Mapping[str, object], root: Path) -> Ran:
    file, output = root / "spec.json", Path(str(spec["output"]))
    file.write_text(json.dumps(spec), encoding="utf-8")
    argv = [sys.executable, "-m", "trainkit.check.rehearse", str(file)]
    ended = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    try:
        described = json.loads((output / "describe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        described = {}
    failure = output / "failure"
    text = failure.read_text(encoding="utf-8", errors="replace") if failure.exists() else ""
    return Ran(ended.returncode, str(described.get("SecondaryStatus", "")), ended.stdout + ended.stderr, text)


def _failed(ran: Ran, *, where: str) -> Iterator[Finding]:
    if ran.status == "MaxRuntimeExceeded" or not ran.exit_code:
        what = f"was not over after {PATIENCE} s{where}: its loop is not job.steps, or a step takes long"
        yield _note("dry-run-unended", what, "for step, batch in job.steps(batches): …")
        return
    said = (ran.failure.strip() or ran.log.strip()[-400:] or "it said nothing").split("\n\n")[0]
    yield Finding(
        "dry-run-failed", "error", "", f"the script fails{where} (exit code {ran.exit_code}): {said}", _LATER,
        "trainkit local with the same script shows the whole log",
    )  # fmt: skip


def resumed(facts: Facts, first: Ran, second: Ran) -> Iterator[Finding]:
    """Whether the second run begins where the first one ended."""
    if not first.spans:
        yield _note("dry-run-steps", "resuming was not rehearsed: the script does not use job.steps", "See docs/api.md")
        return
    if second.exit_code:
        return
    reached = {last for _, last in first.spans}
    began = second.spans[0][0] if second.spans else -1
    if began in reached and began > 0:
        return
    if facts.uses.mentions("checkpointer"):
        yield Finding(
            "dry-run-resume", "error", "", f"stopped after step {max(reached)}, it begins again at step {began}",
            "After an interruption, steps are trained twice or never, and the learning rate is another one",
            "job.steps(batches, start=checkpointer.restore())",
        )  # fmt: skip
    else:
        yield Finding(
            "dry-run-no-resume", "warning", "", f"stopped after step {max(reached)}, it begins again at step {began}",
            "After an interruption or a restart, all that was trained is lost", "Use job.checkpointer",
        )  # fmt: skip


def _metrics(job: Job, ran: Ran) -> Iterator[Finding]:
    listed = objects(job.definition, "AlgorithmSpecification", "MetricDefinitions")
    for index, one in listed:
        regex = one.get("Regex")
        if isinstance(regex, str) and not re.search(regex, ran.log):
            yield Finding(
                "dry-run-metric", "warning", f"{job.key}AlgorithmSpecification.MetricDefinitions[{index}].Regex",
                f"{one.get('Name')!r}: no line of the rehearsal's log matches {regex!r}",
                "If none of a whole run does, the metric stays empty, and a tuning job on it fails",
                "Log the metric in the first steps, too; docs/metrics.md has the regex",
            )  # fmt: skip


def _model(output: Path) -> Iterator[Finding]:
    """The artifact, as its checks see it."""
    found = next((path for path in (output / "model.tar.gz", output / "model") if path.exists()), None)
    if found is None:
        yield Finding(
            "dry-run-no-model", "error", "", "it ends without a model", "The job says Completed, and leaves no model",
            "job.save_model(model) at the end",
        )  # fmt: skip
        return
    facts = Facts(artifact=artifact.read(found), artifact_name=found.name)
    yield from (finding for finding in serving.artifact(facts) if finding.severity != "note")
