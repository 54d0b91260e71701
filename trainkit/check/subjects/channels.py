"""Input channels: their form, their data, and whether the script asks for the same ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from trainkit.check.facts import Facts
from trainkit.check.finding import AT_START, IN_SCRIPT, REFUSED, Finding
from trainkit.check.request import Job, at
from trainkit.contract.environ import CHANNEL_URL
from trainkit.contract.names import alias

NOT_DATA = ("code", "sm_drivers")
"""Channels that carry a job's code: SDKs name them so."""
_AWAITED = ("channel", "stream")


def form(facts: Facts) -> Iterator[Finding]:
    """What the service demands of channels beyond their shape."""
    for job in facts.trainings:
        names = Counter(str(channel.get("ChannelName")) for _, channel in job.channels)
        for name in [name for name, count in names.items() if count > 1]:
            yield Finding(
                "channel-twice", "error", f"{job.key}InputDataConfig", f"two channels are called {name!r}", REFUSED,
                "Name each differently",
            )  # fmt: skip
        for key, channel in job.channels:
            source = at(channel, "DataSource", "S3DataSource", kind=dict)
            if source is not None:
                mode = channel.get("InputMode") or at(
                    job.definition, "AlgorithmSpecification", "TrainingInputMode", kind=str
                )
                yield from _source(key, channel, source, mode=str(mode or "File"))


def _source(key: str, channel: dict[str, Any], source: dict[str, Any], *, mode: str) -> Iterator[Finding]:
    kind, uri, where = source.get("S3DataType"), source.get("S3Uri"), f"{key}.DataSource.S3DataSource"

    def wrong(code: str, where: str, what: str, remedy: str) -> Finding:
        return Finding(code, "error", where, what, REFUSED, remedy)

    if kind == "AugmentedManifestFile" and mode != "Pipe":
        yield wrong(
            "manifest-mode", f"{key}.InputMode", "an augmented manifest comes in Pipe mode only", "Set it to Pipe"
        )
    if kind == "AugmentedManifestFile" and not source.get("AttributeNames"):
        yield wrong(
            "manifest-attributes", f"{where}.AttributeNames", "an augmented manifest names its attributes",
            "List the keys of its lines that the job is to read",
        )  # fmt: skip
    if kind == "ManifestFile" and mode == "FastFile":
        yield wrong("fastfile-manifest", f"{key}.InputMode", "FastFile takes a prefix, no manifest", "Set it to File")
    if channel.get("CompressionType") == "Gzip" and mode != "Pipe":
        yield wrong(
            "gzip-mode", f"{key}.CompressionType", "Gzip goes with Pipe mode only", "Set it to None, or use Pipe"
        )
    if isinstance(uri, str) and re.search(r"[*?]|\[[^]]*\]", uri):
        yield Finding(
            "uri-wildcard", "error", f"{where}.S3Uri", f"{uri} has a wildcard, and S3 knows none",
            f"{AT_START}: no object begins with that text", "Write the prefix up to the wildcard, or a ManifestFile",
        )  # fmt: skip
    if isinstance(uri, str) and kind in ("ManifestFile", "AugmentedManifestFile") and uri.endswith("/"):
        yield wrong(
            "manifest-is-prefix", f"{where}.S3Uri", f"{uri} is a prefix, and {kind} names a file", "Name the file"
        )


def siblings(facts: Facts) -> Iterator[Finding]:
    """A prefix is a text: s3://b/train is the beginning of s3://b/train2, too."""
    for job in facts.trainings:
        uris = {}
        for key, channel in job.channels:
            source = at(channel, "DataSource", "S3DataSource", kind=dict) or {}
            uri = source.get("S3Uri")
            if isinstance(uri, str) and source.get("S3DataType") in ("S3Prefix", None):
                uris[key] = uri
        for key, uri in uris.items():
            if uri.endswith("/"):
                continue
            longer = {other for other in uris.values() if other.startswith(uri)} - {uri}
            caught = [other for other in longer if other[len(uri)] != "/"]
            name = next((str(c.get("ChannelName")) for k, c in job.channels if k == key), "")
            place = facts.places.get(name)
            caught += [f"{uri.rpartition('/')[0]}/{sibling}" for sibling in place.siblings] if place else []
            if caught:
                yield Finding(
                    "prefix-siblings", "warning", f"{key}.DataSource.S3DataSource.S3Uri",
                    f"{uri} is the beginning of {', '.join(sorted(caught)[:3])}, too",
                    "The channel gets their objects as well: the wrong data is trained on, and nothing says so",
                    f"End it with a slash: {uri}/",
                )  # fmt: skip


def data(facts: Facts) -> Iterator[Finding]:
    """Channels whose data is here to be looked at."""
    for name, place in facts.places.items():
        where = f"channel {name}"
        if not place.exists:
            yield Finding(
                "channel-missing", "error", where, f"there is no {place.path}",
                f"{AT_START}: 'No S3 objects found', once it is on S3 as little as here", "Name what is there",
            )  # fmt: skip
        elif not place.files:
            yield Finding(
                "channel-empty", "error", where, f"{place.path} holds no file",
                f"{AT_START}: 'No S3 objects found under S3 URL'", "Put data there, or name another place",
            )  # fmt: skip
        elif place.empty_files == place.files:
            yield Finding(
                "channel-hollow", "error", where, f"all {place.files} files in {place.path} are empty",
                f"{IN_SCRIPT}: it reads nothing", "Make the data again",
            )  # fmt: skip
        for job in facts.trainings:
            yield from _shares(job, name, place.files)


def _shares(job: Job, name: str, files: int) -> Iterator[Finding]:
    for key, channel in job.channels:
        source = at(channel, "DataSource", "S3DataSource", kind=dict) or {}
        sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
        if channel.get("ChannelName") == name and sharded and 0 < files < job.hosts:
            yield Finding(
                "shards-too-few", "error", f"{key}.DataSource.S3DataSource.S3DataDistributionType",
                f"{files} files are shared out among {job.hosts} hosts",
                f"{IN_SCRIPT}, on the hosts that get none, or all others wait for them in the first step",
                "Write at least as many files as hosts, or use FullyReplicated",
            )  # fmt: skip


def asked_for(facts: Facts) -> Iterator[Finding]:
    """Channels that the script wants, beside those that it gets."""
    if not facts.has_script:
        return
    wanted = [*_wanted(facts)]
    for job in facts.trainings:
        names = {str(channel.get("ChannelName")) for _, channel in job.channels}
        given = {alias(name) for name in names} | {
            name.removeprefix(CHANNEL_URL) for name in job.environment if name.startswith(CHANNEL_URL)
        }
        if job.partial and not given:
            continue  # a script alone: nobody has said yet which channels there will be
        for where, name in wanted:
            if alias(name) not in given:
                there = ", ".join(sorted(names - {*NOT_DATA})) or "none"
                yield Finding(
                    "channel-unasked",
                    "error",
                    where,
                    f"reads channel {name!r}, and the job has {there}",
                    f"{IN_SCRIPT}: KeyError, or no such file",
                    f"Name the channel {name}, or read the one that there is",
                )
        unread = sorted(name for name in names if alias(name) not in {alias(wish) for _, wish in wanted})
        for name in unread if wanted and not _reads_any(facts) else ():
            if name not in NOT_DATA:
                yield Finding(
                    "channel-unread", "note", f"{job.key}InputDataConfig", f"the script never names channel {name!r}",
                    "It is downloaded all the same, and costs time and disk", "Take it out if it is of no use",
                )  # fmt: skip
        yield from _piped(facts, job)


def _piped(facts: Facts, job: Job) -> Iterator[Finding]:
    pipes = {str(channel.get("ChannelName")) for _, channel in job.channels if channel.get("InputMode") == "Pipe"}
    for call in facts.uses.called("channel"):
        if call.values and str(call.values[0]) in pipes:
            yield Finding(
                "channel-is-pipe",
                "error",
                call.where,
                f"channel {call.values[0]!r} comes in Pipe mode, not in a folder",
                IN_SCRIPT,
                "Read it with job.stream, or set its InputMode to File or FastFile",
            )


def _reads_any(facts: Facts) -> bool:
    return facts.uses.mentions("channels", "SM_CHANNELS", "SM_INPUT_DATA_DIR", "SM_INPUT_DIR", "/opt/ml/input")


def _wanted(facts: Facts) -> Iterator[tuple[str, str]]:
    for call in facts.uses.called(*_AWAITED):
        base = call.whole.rpartition(".")[0]
        name = call.values[0] if call.values else None
        if base.endswith("job") and isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
            yield call.where, name
    for said in facts.uses.subscripts:
        if said.text.startswith("SM_CHANNEL_"):
            yield said.where, said.text.removeprefix("SM_CHANNEL_").lower()
    for said in facts.uses.texts:
        if found := re.fullmatch(r"/opt/ml/input/data/([A-Za-z0-9._-]+)(?:/.*)?", said.text):
            yield said.where, found[1]
