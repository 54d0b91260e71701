"""Spot instances, run times and warm pools: what the service demands of them together."""

from __future__ import annotations

from collections.abc import Iterator

from trainkit.check.facts import Facts
from trainkit.check.finding import REFUSED, Finding
from trainkit.check.request import Job, at

_USUAL_QUOTA = 432_000  # seconds: five days, the service's quota where nobody asked for more


def times(facts: Facts) -> Iterator[Finding]:
    for job in facts.trainings:
        yield from _spot(job)
        runtime = at(job.definition, "StoppingCondition", "MaxRuntimeInSeconds", kind=int)
        if runtime and runtime > _USUAL_QUOTA:
            yield Finding(
                "max-runtime-quota",
                "warning",
                f"{job.key}StoppingCondition.MaxRuntimeInSeconds",
                f"{runtime} s is more than five days, the usual quota",
                f"{REFUSED}, unless the account's quota was raised",
                "Ask for a higher quota (Service Quotas: longest run time), or checkpoint and take less",
            )


def _spot(job: Job) -> Iterator[Finding]:
    key = f"{job.key}StoppingCondition.MaxWaitTimeInSeconds"
    runtime = at(job.definition, "StoppingCondition", "MaxRuntimeInSeconds", kind=int)
    wait = at(job.definition, "StoppingCondition", "MaxWaitTimeInSeconds", kind=int)
    spot = job.definition.get("EnableManagedSpotTraining") is True
    if wait is not None and not spot:
        yield Finding(
            "spot-wait-without-spot", "error", key, "goes with EnableManagedSpotTraining only", REFUSED,
            "Take it out, or set EnableManagedSpotTraining to true",
        )  # fmt: skip
    if spot and wait is None:
        yield Finding(
            "spot-without-wait", "error", key, "is missing, and spot training needs it", REFUSED,
            "Set it to MaxRuntimeInSeconds plus the time that you would wait for capacity",
        )  # fmt: skip
    if spot and wait is not None and runtime is not None and wait < runtime:
        yield Finding(
            "spot-wait-too-short", "error", key, f"is {wait}, less than MaxRuntimeInSeconds ({runtime})", REFUSED,
            "It counts waiting and running together: make it the larger one",
        )  # fmt: skip
    if spot and at(job.definition, "CheckpointConfig", kind=dict) is None:
        yield Finding(
            "spot-without-checkpoints",
            "warning",
            f"{job.key}CheckpointConfig",
            "is missing in a job on spot instances",
            "An interruption, which may come at any time with two minutes' notice, throws away all that was trained",
            "Give it an S3Uri of the job's own, and save below /opt/ml/checkpoints (job.checkpointer)",
        )
    if spot and at(job.resources, "KeepAlivePeriodInSeconds", kind=int):
        yield Finding(
            "spot-warm-pool", "error", f"{job.key}ResourceConfig.KeepAlivePeriodInSeconds",
            "a warm pool cannot be of spot instances", REFUSED, "Take out one of the two",
        )  # fmt: skip
