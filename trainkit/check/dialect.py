"""The argv that a job's hyperparameters become, in the dialect that `train` will choose."""

from __future__ import annotations

from trainkit.check.request import Job
from trainkit.contract import dialect, dialect_json, dialect_toolkit
from trainkit.contract.hyperparameters import Hyperparameters


def spoken(job: Job) -> dict[str, str]:
    """Flag → text for each hyperparameter that reaches the script, in its order."""
    texts = Hyperparameters(job.hyperparameters).of_script.texts
    chosen = job.environment.get("TRAINKIT_DIALECT") or job.hyperparameters.get("trainkit_dialect")
    channels = [str(channel.get("ChannelName")) for _, channel in job.channels]
    is_toolkit = (chosen or dialect.choose(job.hyperparameters, channels)) == dialect.TOOLKIT
    argv = (dialect_toolkit if is_toolkit else dialect_json).arguments(texts)
    return dict(zip(argv[::2], argv[1::2], strict=True))
