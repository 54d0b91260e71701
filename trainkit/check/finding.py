"""What a check has to say, as a value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note")

REFUSED = "The API refuses the request as soon as it is sent; nothing is billed"
AT_START = "The job fails when its container starts, some 3 to 8 minutes after it was sent"
IN_SCRIPT = "The script ends as it starts, some 3 to 8 minutes after the job was sent, on every rank"


@dataclass(frozen=True, slots=True)
class Finding:
    """One of them. `code` names the kind of mistake and never changes; `where` is file:line or a key of the request.

    `then` says what will happen in the cloud, and when; an "error" ends the job or spoils its result, a "warning" may,
    a "note" is worth knowing.
    """

    code: str
    severity: Severity
    where: str
    what: str
    then: str
    remedy: str

    def __str__(self) -> str:
        head = f"{self.severity}  {self.where}: {self.what}" if self.where else f"{self.severity}  {self.what}"
        return f"{head}  [{self.code}]\n    then    {self.then}\n    remedy  {self.remedy}"


def sorted_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, each once, otherwise in the order in which they were found."""
    return sorted(dict.fromkeys(findings), key=lambda finding: ORDER.index(finding.severity))


def as_data(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """For --json."""
    return [asdict(finding) for finding in findings]
