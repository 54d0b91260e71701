"""The argv that a job's hyperparameters become: as AWS's own toolkit spells it, or as they were written."""

from __future__ import annotations

from collections.abc import Mapping

from trainkit.contract.hyperparameters import decode


def argv(job_texts: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, str]:
    """Name → the text that the script's parser gets. `job_texts` are all of the job's, `texts` those for the script.

    SDK v2 quotes texts as JSON, and says that it was there by `sagemaker_program`.
    """
    if "sagemaker_program" not in job_texts:
        return dict(texts)
    return {name: decode(text) if text.startswith('"') and isinstance(decode(text), str) else text
            for name, text in texts.items()}  # fmt: skip
