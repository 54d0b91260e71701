"""`trainkit check`: what is wrong with a job, before it costs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from trainkit.check import gather, table
from trainkit.check.facts import Facts
from trainkit.check.finding import Finding, as_data, sorted_findings
from trainkit.check.gather import Asked
from trainkit.cli import arguments

FOUND_ERRORS = 1


def main(argv: Sequence[str]) -> int:
    """Print what is found. Returns 1 where an error is among it, else 0. Raises UsageError where there is no target."""
    given = _parser().parse_args(argv)
    asked = Asked(
        target=given.target,
        code=given.code,
        image_root=given.image_root,
        channels=arguments.pairs(given.channel, flag="--channel", form="NAME=PATH"),
        hyperparameters=arguments.pairs(given.hp, flag="--hp", form="KEY=VALUE"),
    )
    facts = gather.gather(asked)
    findings = table.run(facts)
    if given.aws:
        from trainkit.check import aws

        findings += aws.run(facts)
    if given.dry_run and not any(finding.severity == "error" for finding in findings):
        from trainkit.check import dryrun

        findings += dryrun.run(facts, say=_say)
    elif given.dry_run:
        _say("no dry run: it would meet the errors below")
    findings = sorted_findings(findings)
    print(json.dumps(as_data(findings), indent=2) if given.json else _text(findings, facts))
    return FOUND_ERRORS if any(finding.severity == "error" for finding in findings) else 0


def _say(text: str) -> None:
    print(f"trainkit check: {text}", file=sys.stderr, flush=True)


def _text(findings: Sequence[Finding], facts: Facts) -> str:
    counts = {kind: sum(one.severity == kind for one in findings) for kind in ("error", "warning", "note")}
    said = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in counts.items() if count)
    return "\n".join([*map(str, findings), f"{said or 'nothing found'} · looked at {_seen(facts)}"])


def _seen(facts: Facts) -> str:
    seen = [f"{call.operation}" for call in facts.calls if not call.partial or call.key]
    seen += [f"{facts.code.script.name} and {len(facts.code.closure) - 1} of its modules"] if facts.code else []
    seen += [f"the data of {', '.join(facts.places)}"] if facts.places else []
    seen += ["an image"] if facts.image else []
    seen += [f"{len(facts.artifact.items)} files of {facts.artifact_name}"] if facts.artifact else []
    return ", ".join(seen) or "nothing"


def _parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(
        prog="trainkit check",
        description="Find the mistakes of a job before it costs. Exit code 1 where there are errors, else 0.",
    )
    parser.add_argument(
        "target",
        nargs="?",
        type=Path,
        help="a script (.py, .sh), an API request (.json), a model (.tar.gz or directory), or an image's root",
    )
    parser.add_argument("--code", type=Path, metavar="DIR", help="the script's folder (default: the target's own)")
    parser.add_argument("--image-root", type=Path, metavar="DIR", help="the image's file system, unpacked")
    parser.add_argument(
        "--channel", action="append", default=[], metavar="NAME=PATH", help="a channel's data on this machine"
    )
    parser.add_argument("--hp", action="append", default=[], metavar="KEY=VALUE", help="a hyperparameter")
    parser.add_argument("--aws", action="store_true", help="ask AWS, too, reading only: role, data, image, quotas")
    parser.add_argument("--dry-run", action="store_true", help="train two steps on two ranks here, stop, and resume")
    parser.add_argument("--json", action="store_true", help="the findings as JSON")
    return parser
