"""`trainkit local job.json`: a training job as boto3 and the SDKs ask for it, or one trial of a tuning job, here."""

from __future__ import annotations

import argparse
import datetime
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit.cli import arguments, local_options
from trainkit.cli.local_summary import summary
from trainkit.errors import UsageError
from trainkit.launch.output import Console
from trainkit.local import members, request, requests, service, training_rules, tuning
from trainkit.local.request import Request
from trainkit.local.requests import Loaded
from trainkit.local.service import Surroundings
from trainkit.local.tuning import Objective, Trial

_OBJECTIVE = "FinalHyperParameterTuningJobObjectiveMetric"


def main(argv: Sequence[str], loaded: Loaded) -> int:
    """Run it. Returns the job's exit code: the script's own where it failed, 0 when completed or stopped."""
    given = _parser().parse_args(argv)
    file = str(loaded.file)
    loaded = loaded.named(re.sub(r"[^a-zA-Z0-9]+", "-", loaded.file.stem).strip("-")[:32].rstrip("-") or "job")
    hyperparameters = arguments.pairs(given.hp, flag="--hp", form="KEY=VALUE")
    if loaded.operation == requests.TUNING:
        table = members.TUNING
        trial = tuning.trial(loaded.request, given=hyperparameters, seed=given.seed, file=file)
    else:
        table = members.TRAINING
        if hyperparameters or given.seed is not None:
            raise UsageError(f"--hp and --seed are for tuning jobs: change HyperParameters in {file}")
        trial = Trial(training_rules.checked(loaded.request, file=file), {}, None)
    now = datetime.datetime.now()
    with arguments.output(given.output, name=f"{loaded.file.stem}-{now:%Y%m%d-%H%M%S}") as output:
        return _run(trial, training_rules.notes(loaded.request, table), given, output=output)


def _run(trial: Trial, notes: Sequence[str], given: argparse.Namespace, *, output: Path) -> int:
    job = _changed(trial.request, given)
    console = Console()

    def say(text: str) -> None:
        console.say("local", text)

    say(f"{job['TrainingJobName']}: {arguments.hosts(len(request.hosts(job)))}, output in {arguments.near(output)}")
    say(f"this machine's Python in the place of {job['AlgorithmSpecification']['TrainingImage']}")
    if notes:
        say(f"without effect here: {'; '.join(notes)}")
    if trial.values:
        say("trial with " + " ".join(f"{name}={value}" for name, value in trial.values.items()))
    objective = trial.objective

    def described(metrics: Mapping[str, float]) -> Mapping[str, Any]:
        return {_OBJECTIVE: _reached(objective, metrics)} if objective and objective.metric in metrics else {}

    around = Surroundings(
        base=given.job.absolute().parent, code="code" if given.code else None, upload=given.upload, described=described
    )
    options = local_options.of(given, output=output)
    began = time.monotonic()
    result = service.run(job, options, around, console)
    say(summary(result, output=output, took=time.monotonic() - began) + _told(objective, result.description))
    return result.exit_code


def _changed(job: Request, given: argparse.Namespace) -> dict[str, Any]:
    """The request with what the command line says otherwise."""
    changed = dict(job)
    if given.max_runtime is not None:
        changed["StoppingCondition"] = {
            **(job.get("StoppingCondition") or {}),
            "MaxRuntimeInSeconds": given.max_runtime,
        }
    if given.code:
        if not given.code.is_dir():
            raise UsageError(f"--code {given.code}: there is no such folder")
        others = [one for one in job.get("InputDataConfig") or [] if one["ChannelName"] != "code"]
        changed["InputDataConfig"] = [*others, request.channel("code", str(given.code))]
    return changed


def _reached(objective: Objective, metrics: Mapping[str, float]) -> dict[str, Any]:
    return {"MetricName": objective.metric, "Type": objective.kind, "Value": metrics[objective.metric]}


def _told(objective: Objective | None, description: Mapping[str, Any]) -> str:
    if objective is None:
        return ""
    if reached := description.get(_OBJECTIVE):
        return f"\n  objective  {objective.kind} {objective.metric}: {reached['Value']:.5g}"
    return (
        f"\n  warning: the objective {objective.metric} was not in the log, and a tuning job counts such a trial as "
        f"failed: compare what the script prints with its Regex in MetricDefinitions"
    )


def _parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(
        prog="trainkit local",
        usage="trainkit local job.json [option]...",
        description="Run a CreateTrainingJob request, or one trial of a CreateHyperParameterTuningJob request, here.",
    )
    parser.add_argument("job", type=Path, help="the request")
    parser.add_argument("--code", type=Path, metavar="DIR", help="a folder as the channel `code`, in place of its own")
    parser.add_argument(
        "--upload", action="store_true", help="write results and checkpoints to their s3:// URLs (default: to --output)"
    )
    parser.add_argument(
        "--hp", action="append", default=[], metavar="KEY=VALUE",
        help="of a tuning job: the trial's value of a tuned hyperparameter; others are drawn; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, metavar="N", help="of a tuning job: draw values with that seed (default: 0)"
    )
    local_options.add(
        parser,
        stop="StopTrainingJob after that time",
        kill="rehearse a fault, once: rank=3@step=20, host=2@30s, link=2@30s; with RetryStrategy or spot training "
        "the job starts again when a host is lost",
    )
    return parser
