"""A job's metrics, read from its log as the service reads them: the last value that each regular expression finds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_OWN_LINE = re.compile(r"trainkit\.metric (.*)")
_PAIR = re.compile(r"([A-Za-z_][\w.:/-]*)=(\S+)")


class Metrics:
    """Reads lines and keeps each metric's last value.

    `definitions` are the request's MetricDefinitions; None: whatever `job.log` has written, which needs none.
    """

    def __init__(self, definitions: Sequence[Mapping[str, Any]] | None) -> None:
        self._found = None if definitions is None else [(one["Name"], re.compile(one["Regex"])) for one in definitions]
        self.values: dict[str, float] = {}

    def read(self, data: bytes) -> None:
        """Whole lines of the log."""
        if self._found == []:
            return
        for line in data.decode("utf-8", "replace").splitlines():
            if self._found is None:
                if own := _OWN_LINE.search(line):
                    self._keep(_PAIR.findall(own[1]))
            else:
                self._keep([(name, match[1]) for name, regex in self._found if (match := regex.search(line))])

    def _keep(self, found: Sequence[tuple[str, str]]) -> None:
        for name, text in found:
            try:
                self.values[name] = float(text)
            except (ValueError, TypeError):  # a word, or a group that took no part
                continue
