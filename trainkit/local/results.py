"""Where a training job's results go, and what becomes of them when its hosts have ended.

OutputDataConfig.S3OutputPath   <it>/<job>/output/model.tar.gz, output.tar.gz      file:// and paths: there
CheckpointConfig.S3Uri          kept alike while the job runs (see agent)          s3://: in the output directory,
TensorBoardOutputConfig         <it>/<job>/tensorboard-output/                       unless an upload was asked for
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.contract.paths import Paths
from trainkit.errors import StorageError
from trainkit.launch.output import Console
from trainkit.local import archive, objects, verdict
from trainkit.local.objects import Place, below
from trainkit.local.request import Request
from trainkit.local.status import INTERNAL_ERROR, Status, failure_reason
from trainkit.local.training import Ended
from trainkit.local.verdict import Verdict
from trainkit.storage.commit import write_whole


@dataclass(frozen=True, slots=True)
class Places:
    """Where things go. `output` is the job's own directory, which has all that nothing else is said about."""

    output: Path
    artifacts: Path
    """The folder that model and output are put into."""
    delivered: str | None = None
    """The URL they are copied to from there."""
    checkpoints: Place | None = None
    beginning: str | None = None
    """The URL with what `checkpoints` begins with, where that is a folder that only stands for it."""
    tensorboard: Place | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a local job."""

    exit_code: int
    description: Mapping[str, Any]
    model: Place | None
    failure: str | None


def places(job: Request, *, base: Path, output: Path, upload: bool) -> Places:
    """What the request says. Paths in it are relative to `base`."""
    name = job["TrainingJobName"]

    def at(part: str, key: str) -> Place | None:
        return objects.place(job[part][key], base=base) if job.get(part) else None

    there, board = at("OutputDataConfig", "S3OutputPath"), at("TensorBoardOutputConfig", "S3OutputPath")
    checkpoints = at("CheckpointConfig", "S3Uri")
    beginning = checkpoints if isinstance(checkpoints, str) and not upload else None
    if board is not None:
        kept = isinstance(board, Path) or upload
        board = below(board, name, "tensorboard-output") if kept else output / "tensorboard"
    return Places(
        output,
        artifacts=there / name / "output" if isinstance(there, Path) and there.absolute() != output else output,
        delivered=below(there, name, "output") if isinstance(there, str) and upload else None,  # type: ignore[arg-type]
        checkpoints=output / "checkpoints" if beginning else checkpoints,
        beginning=beginning,
        tensorboard=board,
    )


class Finish:
    """Collect what the hosts left, and write down how it ended."""

    def __init__(self, job: Request, console: Console, status: Status, places: Places) -> None:
        self._job = job
        self._console = console
        self._status = status
        self._places = places

    def finish(
        self, ended: Ended, *, metrics: Mapping[str, float], trouble: Exception | None, more: Mapping[str, Any],
        lost: bool = False,
    ) -> Result:  # fmt: skip
        """`trouble` is what kept the checkpoints from being copied; `more` belongs into the description, too.

        `lost`: a host was, and it was not the job's last attempt that failed but the service that gave up.
        """
        output = self._places.output
        found = verdict.judge(ended, logs=output / "logs")
        reason = failure_reason(found.failure, found.exit_code) if found.exit_code else None
        reason = INTERNAL_ERROR if reason and lost else reason
        model = None
        try:
            if trouble:
                raise trouble
            model = self._collect([Paths(host.host.root) for host in ended.hosts])
        except (OSError, StorageError) as error:
            text = f"Artifact upload failed: {_words(error, output)}"
            self._console.say("local", f"{text}. What the hosts wrote lies in {output / 'hosts'}")
            if not found.exit_code:
                found = Verdict("Failed", StorageError.exit_code, text)
                reason = f"ClientError: {text}"
        self._status.enter(found.status)
        where = model.absolute().as_uri() if isinstance(model, Path) else model
        description = {**self._status.document(model=where, reason=reason, metrics=metrics), **more}
        try:
            if found.failure:
                write_whole(output / "failure", found.failure)
            self._status.write(description)
        except OSError as error:
            self._console.say("local", f"cannot write {_words(error, output)}")
            return Result(found.exit_code or StorageError.exit_code, description, model, found.failure)
        return Result(found.exit_code, description, model, found.failure)

    def _collect(self, roots: Sequence[Paths]) -> Place | None:
        """Merge models and outputs. Returns the model's place. Raises OSError, StorageError."""
        compress = self._job["OutputDataConfig"].get("CompressionType", "GZIP") == "GZIP"
        into = self._places.artifacts
        into.mkdir(parents=True, exist_ok=True)
        model, clashes = archive.collect([p.model for p in roots], into=into / "model", compress=compress)
        data, more = archive.collect([p.output_data for p in roots], into=into / "output", compress=compress)
        for name in [*clashes, *more]:
            self._console.say("local", f"warning: two hosts wrote {name} differently; the first host's stands")
        if self._places.delivered is None:
            return model
        for made in (model, data):
            _deliver(made, self._places.delivered)
        return below(self._places.delivered, model.name) if model else None


def _deliver(made: Path | None, url: str) -> None:
    """Copy a file, or a folder and all below it, into the folder `url`."""
    if made is None:
        return
    for path in sorted(made.rglob("*")) if made.is_dir() else [made]:
        if path.is_file():
            objects.put(path, below(url, *path.relative_to(made.parent).parts))


def _words(error: OSError | StorageError, output: Path) -> str:
    return f"{error.filename or output}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
