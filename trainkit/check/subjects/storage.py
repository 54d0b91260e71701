"""Where a job's data, checkpoints and results lie: on which disk, under which prefix, beside which others."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from trainkit.check.facts import Facts
from trainkit.check.finding import AT_START, REFUSED, Finding
from trainkit.check.request import Job, at

_TAKEN = ("/opt/ml/input", "/opt/ml/model", "/opt/ml/output", "/opt/ml/code", "/opt/ml/errors")


def disk(facts: Facts) -> Iterator[Finding]:
    """What is downloaded must fit on the volume."""
    for job in facts.trainings:
        volume = at(job.resources, "VolumeSizeInGB", kind=int)
        modes = {str(c.get("ChannelName")): c.get("InputMode", "File") for _, c in job.channels}
        laid = [facts.places[name].bytes for name, mode in modes.items() if mode == "File" and name in facts.places]
        if not job.partial and volume and sum(laid) > volume << 30:
            yield Finding(
                "disk-too-small", "error", f"{job.key}ResourceConfig.VolumeSizeInGB",
                f"is {volume}, and the channels hold {sum(laid) / (1 << 30):.1f} GiB",
                f"{AT_START}, or as long after it as the download takes: no space left on device",
                "Make it larger, with room for checkpoints and model; or use FastFile, which downloads nothing before",
            )  # fmt: skip


def checkpoints(facts: Facts) -> Iterator[Finding]:
    """The checkpoint folder and its prefix."""
    by_uri: dict[str, list[str]] = defaultdict(list)
    for job in facts.trainings:
        config = at(job.definition, "CheckpointConfig", kind=dict)
        if config is None:
            continue
        key = f"{job.key}CheckpointConfig"
        local, uri = config.get("LocalPath"), config.get("S3Uri")
        if isinstance(local, str):
            yield from _local(local, f"{key}.LocalPath")
        if isinstance(uri, str):
            by_uri[uri.rstrip("/")].append(f"{key}.S3Uri")
            yield from _overlaps(job, uri, f"{key}.S3Uri")
    for uri, keys in by_uri.items():
        for key in keys[1:]:
            yield Finding(
                "checkpoints-shared",
                "error",
                key,
                f"{uri} is that of {keys[0]}, too",
                "Each job goes on from the other's checkpoints, and overwrites or deletes them",
                "Give each job a prefix of its own",
            )


def _local(path: str, key: str) -> Iterator[Finding]:
    inside = [taken for taken in _TAKEN if PurePosixPath(path).is_relative_to(taken)]
    if not path.startswith("/") or inside:
        what = f"{path} lies in {inside[0]}, which has another purpose" if inside else f"{path} is no absolute path"
        yield Finding(
            "checkpoints-path", "error", key, what, f"{REFUSED}, or the checkpoints end up in the model's archive",
            "Use /opt/ml/checkpoints",
        )  # fmt: skip


def _overlaps(job: Job, uri: str, key: str) -> Iterator[Finding]:
    for where, channel in job.channels:
        data = at(channel, "DataSource", "S3DataSource", "S3Uri", kind=str)
        if data and f"{uri.rstrip('/')}/".startswith(f"{data.rstrip('/')}/"):
            yield Finding(
                "checkpoints-in-data", "error", key, f"{uri} lies below {data}, the data of {where}",
                "The next job downloads the checkpoints as data, and reads them as samples",
                "Keep them under a prefix of their own",
            )  # fmt: skip


def outputs(facts: Facts) -> Iterator[Finding]:
    """Results below a channel's prefix are data to the next job."""
    for job in facts.trainings:
        output = at(job.definition, "OutputDataConfig", "S3OutputPath", kind=str)
        for _, channel in job.channels:
            data = at(channel, "DataSource", "S3DataSource", "S3Uri", kind=str)
            if output and data and f"{output.rstrip('/')}/".startswith(f"{data.rstrip('/')}/"):
                yield Finding(
                    "output-in-data", "warning", f"{job.key}OutputDataConfig.S3OutputPath",
                    f"{output} lies below {data}, the data of channel {channel.get('ChannelName')!r}",
                    "The next job downloads this one's models as data", "Keep results under a prefix of their own",
                )  # fmt: skip


def saving(facts: Facts) -> Iterator[Finding]:
    """What the script saves, and where to."""
    if not facts.has_script or not facts.trainings:
        return
    uses = facts.uses
    configured = {
        at(job.definition, "CheckpointConfig", "LocalPath", kind=str) or "/opt/ml/checkpoints"
        for job in facts.trainings
        if at(job.definition, "CheckpointConfig", kind=dict) is not None
    }
    texts = {text for job in facts.trainings for text in job.hyperparameters.values()}
    given = any("checkpoint" in text for text in texts)
    if (
        configured
        and not given
        and not uses.mentions("checkpoint", "checkpointer", "checkpoint_dir", "ckpt", *configured)
    ):
        yield Finding(
            "checkpoints-unused", "warning", "CheckpointConfig", "the script never names a checkpoint",
            "Nothing is ever saved there: an interrupted job begins at its first step",
            "Save with job.checkpointer, or below the LocalPath of CheckpointConfig",
        )  # fmt: skip
    restores = ("restore", "load_state_dict", "load_state", "resume", "resume_from_checkpoint", "from_pretrained",
                "load_checkpoint", "ckpt_path", "Trainer")  # fmt: skip
    spot = any(job.definition.get("EnableManagedSpotTraining") is True for job in facts.trainings)
    if spot and configured and uses.mentions("save", "checkpointer") and not uses.mentions(*restores):
        yield Finding(
            "checkpoints-never-read", "warning", facts.code.script.name if facts.code else "",
            "saves checkpoints, and never loads one",
            "After an interruption the job begins at its first step, beside the checkpoints of its last life",
            "Begin with checkpointer.restore(), or look for the newest checkpoint in the folder",
        )  # fmt: skip


_WRITERS = frozenset({
    "save", "save_pretrained", "save_file", "save_model", "save_checkpoint", "dump", "to_csv", "to_parquet", "savez",
    "savefig", "save_weights", "write_text", "write_bytes", "save_state",
})  # fmt: skip
_KEPT = ("/opt/ml/model", "/opt/ml/output", "/opt/ml/checkpoints", "/opt/ml/processing")


def vanishing(facts: Facts) -> Iterator[Finding]:
    """Files that end with the container, or that cannot be written in it."""
    if not facts.has_script:
        return
    for said in facts.uses.texts:
        if re.match(r"[A-Za-z]:\\|/Users/|/home/(?!ec2-user/SageMaker/?$)\w+/", said.text):
            yield Finding(
                "path-of-another-machine", "warning", said.where, f"{said.text!r} is a path of some other machine",
                "In the container it does not exist: FileNotFoundError, or files that nobody finds again",
                "Use a channel for what is read, and job.model_dir or job.output_dir for what is written",
            )  # fmt: skip
    for call in facts.uses.calls:
        writes = call.name in _WRITERS
        if call.name == "open":
            mode = call.named.get("mode", call.values[1] if len(call.values) > 1 else "r")
            writes = isinstance(mode, str) and bool(set(mode) & set("wax"))
        paths = [value for value in (*call.values, *call.named.values()) if isinstance(value, str)] if writes else []
        for path in [
            text
            for text in paths
            if "/" in text or re.search(r"\.(pt|pth|bin|ckpt|safetensors|pkl|onnx|h5|npz?)$", text)
        ]:
            if "://" in path:
                continue
            if path.startswith("/opt/ml/input"):
                yield Finding(
                    "input-is-read-only",
                    "error",
                    call.where,
                    f"writes to {path}, a channel",
                    "OSError in FastFile mode, which is read-only; in File mode the file ends with the container",
                    "Write below job.output_dir, or to /tmp what is needed only while the job runs",
                )
            elif not path.startswith((*_KEPT, "/dev/", "/tmp/.")) and not facts.uses.mentions("chdir"):
                yield Finding(
                    "file-vanishes", "warning", call.where, f"writes {path!r}, which is not below /opt/ml",
                    "The file ends with the container: it is in no archive, and the job says Completed",
                    "Write below job.model_dir, job.output_dir or job.checkpoint_dir",
                )  # fmt: skip


def model(facts: Facts) -> Iterator[Finding]:
    """What lands in the model's archive: nothing, or everything."""
    if not facts.has_script or not facts.trainings:
        return
    uses, script = facts.uses, facts.code.script.name if facts.code else ""
    given = any("/opt/ml/model" in text for job in facts.trainings for text in job.hyperparameters.values())
    if not given and not uses.mentions("save_model", "model_dir", "SM_MODEL_DIR", "model-dir", "/opt/ml/model"):
        yield Finding(
            "no-model", "warning", script, "never names the model's directory",
            "The job says Completed, and leaves no model: all of the training is lost",
            "job.save_model(model) at the end, or write below SM_MODEL_DIR",
        )  # fmt: skip
    found = [
        (call.where, str(call.named.get("output_dir") or ""))
        for call in uses.called("TrainingArguments", "Seq2SeqTrainingArguments", "SFTConfig", "ModelCheckpoint")
    ] + [(said.where, said.text) for said in uses.texts]
    found += [
        (f"{job.key}{job.hyperparameters_key}.{name}", text)
        for job in facts.trainings
        for name, text in job.hyperparameters.items()
        if name.replace("-", "_") in ("output_dir", "checkpoint_dir", "logging_dir")
    ]
    for where, text in found:
        named = where.rpartition(".")[2].replace("-", "_") in ("output_dir", "checkpoint_dir", "logging_dir")
        in_trainer = any(call.where == where for call in uses.called("TrainingArguments", "Seq2SeqTrainingArguments"))
        deep = re.match(r"/opt/ml/model/.*(checkpoint|ckpt|logs|runs)", text)
        if deep or ((named or in_trainer) and text.strip('"').rstrip("/") == "/opt/ml/model"):
            yield Finding(
                "checkpoints-in-model",
                "warning",
                where,
                f"{text.strip(chr(34))} puts checkpoints into the model's directory",
                "All of them are packed and uploaded at the end: model.tar.gz many times its size, hours of Uploading, "
                "or 'Artifact upload failed'",
                "Checkpoints go to /opt/ml/checkpoints, and only the final model to /opt/ml/model",
            )
