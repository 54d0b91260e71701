"""Which of AWS's two dialects a job's script is spoken to in: by what the request shows of the client that sent it.

toolkit   what sagemaker-training-toolkit hands to a script: `--flag True`, sorted, compact JSON
json      what the drivers of the SDK's version 3 hand to it: `--flag true`, the file's order, JSON as json.dumps has it

Scripts are written for one of them, and a parser that is strict about types fails under the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

TOOLKIT, JSON = "toolkit", "json"
DRIVERS_CHANNEL = "sm_drivers"
"""The channel in which the SDK's version 3 sends what its own start script would need."""
_TOOLKITS_OWN = ("sagemaker_program", "sagemaker_submit_directory")


def choose(texts: Mapping[str, str], channels: Collection[str]) -> str:
    """The dialect of the client that sent these hyperparameters and channels.

    Only the toolkit reads where the program lies from hyperparameters, so whoever sends that expects it: version 2 of
    the SDK, which quotes every string, pipelines and operators made after it. The tuner of version 3 sends it
    (unquoted) to images that it knows nothing of; its script is written for the drivers that it sends along.
    """
    given = [texts[name] for name in _TOOLKITS_OWN if name in texts]
    if any(text.startswith('"') for text in given):
        return TOOLKIT
    return TOOLKIT if given and DRIVERS_CHANNEL not in channels else JSON
