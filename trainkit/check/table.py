"""All the static checks, in the order in which a job would meet their mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trainkit.check.facts import Facts
from trainkit.check.finding import Finding, sorted_findings
from trainkit.check.subjects import (
    api,
    arguments,
    channels,
    cluster,
    environment,
    images,
    metrics,
    processing,
    regions,
    script,
    serving,
    storage,
    times,
    tuning,
)

Check = Callable[[Facts], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    api.requests,
    environment.algorithm, times.times, tuning.tuning, cluster.groups, regions.regions, processing.processing,
    channels.form, channels.siblings, channels.data, storage.disk, storage.checkpoints, storage.outputs,
    metrics.definitions, metrics.objective,
    images.image, images.matches,
    environment.ours, environment.names, environment.secrets, environment.isolation,
    script.there, script.compiles, script.imported, script.shadows, script.entry,
    arguments.arguments, arguments.asked, channels.asked_for,
    cluster.distribution, cluster.device, cluster.workers, environment.waits,
    storage.saving, storage.vanishing, storage.model,
    serving.artifact,
)  # fmt: skip


def run(facts: Facts) -> list[Finding]:
    """What they find, the worst first."""
    return sorted_findings(finding for check in CHECKS for finding in check(facts))
