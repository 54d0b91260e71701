"""Which hyperparameters a script asked for: what it was given and never asked for is most likely misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from trainkit.contract.names import alias

_NOT_FOR_SCRIPTS = ("sagemaker_", "_")
"""What SageMaker's SDK and its tuner add to a job's own hyperparameters (`_tuning_objective_metric`)."""


class Asked:
    """The names that job.hp was asked for. `by_hp` and `all_at_once` say how the script reads its hyperparameters."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.by_hp = False
        self.all_at_once = False

    def unread(self, given: Iterable[str]) -> str:
        """`hyperparameters never read: lrr (did you mean lr?)`; "" where there are none, or nobody can know."""
        if not self.by_hp or self.all_at_once:  # it may well use argparse
            return ""
        asked = {alias(name): name for name in sorted(self.names)}
        unread = [name for name in given if alias(name) not in asked and not name.startswith(_NOT_FOR_SCRIPTS)]
        # A name that was asked for and given is not what somebody meant to write.
        free = [name for key, name in asked.items() if key not in {alias(name) for name in given}]
        shown = []
        for name in unread:
            close = difflib.get_close_matches(name, free, n=1)
            shown.append(f"{name} (did you mean {close[0]}?)" if close else name)
        return f"hyperparameters never read: {', '.join(shown)}" if shown else ""
