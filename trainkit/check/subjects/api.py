"""Requests beside the API's own model."""

from __future__ import annotations

from collections.abc import Iterator

from trainkit.check import api
from trainkit.check.facts import Facts
from trainkit.check.finding import Finding


def requests(facts: Facts) -> Iterator[Finding]:
    """What the API would refuse for its form. Jobs that were composed here from a command line have none."""
    for call in facts.calls:
        if call.request.get("RoleArn") != COMPOSED:
            yield from api.against_the_api(call)


COMPOSED = "composed"
"""The role of a request that stands for a script and its flags."""
