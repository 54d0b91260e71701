"""What each launcher makes of planted faults: whether every host ends, knows the cause, and exits with its code.

    python benchmarks/faults.py [--quick] [--only NAME ...] [--under NAME ...] [--json]

The hosts, the script and the faults are those of tests/faults: two hosts with links of their own, two ranks each, a
training loop with gloo collectives. Who has not ended 60 s after the fault counts as still running and is killed.

cause   what SageMaker shows of the host's failure file, its first 1,024 characters, names what happened: on every host
        that lives. For a lost host or link: the other host's name or address.
place   it names the rank and its host, too (where the fault has a place)
code    every host that lives exits with the script's own code, or as if killed by the signal that killed the rank;
        where the fault is not the script's, any code but 0 will do
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from faults import case
from faults.catalogue import FAULTS, Fault
from faults.cluster import Launcher, can_limit_memory, trainkit
from peers import launchers

BOUND = 60.0  # seconds after the fault
SHOWN = 1024  # characters of the failure file that SageMaker shows
COMMAND = re.compile(r"""Command ('\[.*?\]'|"[^"]*")""")
"""A launcher's own command line, which has the hyperparameters in it and so `--rank 3`, but no finding."""
QUICK = ("exception", "sigkill", "exit-3", "host-killed")
OWN_SETTINGS = ("stall_timeout", "stall_action", "peer_wait")
"""Of a fault's settings, those that ours gets here too: what is off by default, or cannot show within BOUND."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One fault under one launcher. `place` is None where the fault has none."""

    fault: str
    launcher: str
    codes: dict[str, int | None]
    ended: bool
    seconds: float | None
    cause: bool
    place: bool | None
    code: bool
    says: dict[str, str]
    """The first line of each host's failure file."""
    failed: str = ""
    """Why it could not be tried."""

    def __str__(self) -> str:
        if self.failed:
            return "not tried"
        end = f"{self.seconds:.0f} s" if self.ended and self.seconds is not None else f"**runs on after {BOUND:.0f} s**"
        codes = "/".join("–" if code is None else str(code) for code in self.codes.values())
        right = {True: "yes", False: "**no**", None: "–"}
        return f"{right[self.cause]} · {right[self.place]} · {right[self.code]} ({codes}) · {end}"

    @property
    def good(self) -> bool:
        return self.ended and self.cause and self.place is not False and self.code


def main() -> None:
    options = _options()
    names = options.only or (QUICK if options.quick else tuple(FAULTS))
    under = options.under or (("trainkit", "torchrun") if options.quick else tuple(LAUNCHERS))
    versions = launchers.versions()
    missing = [name for name in under if not versions[name]]
    for name in missing:
        print(f"{name} is not installed: sh benchmarks/peers/install.sh", file=sys.stderr)
    under = [name for name in under if name not in missing]
    began, load = time.time(), os.getloadavg()[0]
    verdicts: list[Verdict] = []
    for name in names:
        verdicts += try_one(FAULTS[name], under)
    report = {
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}, Linux {platform.release()}",
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "minutes": round((time.time() - began) / 60, 1),
        "versions": versions,
    }
    if options.json:
        print(json.dumps({**report, "verdicts": list(map(asdict, verdicts))}, ensure_ascii=False, indent=1))
    else:
        print(", ".join(f"{name} {value}" for name, value in report.items()))
        print(table(verdicts, names, under))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute: four faults, ours and torchrun")
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--under", nargs="+", choices=LAUNCHERS, help="launchers; all by default")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every failure's first line")
    return parser.parse_args()


def ours(fault: Fault) -> Launcher:
    return trainkit(**{name: value for name, value in fault.settings.items() if name in OWN_SETTINGS})


def torchrun(fault: Fault) -> Launcher:
    wait = fault.settings.get("peer_wait")
    return launchers.torchrun(patience=int(wait) if wait else None)


LAUNCHERS: dict[str, Callable[[Fault], Launcher]] = {
    "trainkit": ours,
    "torchrun": torchrun,
    "sdk-v3": lambda fault: launchers.sdk(),
    "toolkit": lambda fault: launchers.toolkit(),
}


def try_one(fault: Fault, under: Sequence[str]) -> list[Verdict]:
    """Ours by itself, then the peers side by side: most of them do nothing but wait."""
    peers = [name for name in under if name != "trainkit"]
    verdicts = [judge(fault, name) for name in under if name == "trainkit"]
    with ThreadPoolExecutor(max(len(peers), 1)) as pool:
        verdicts += pool.map(lambda name: judge(fault, name), peers)
    for verdict in verdicts:
        print(f"{verdict.fault:24}{verdict.launcher:10}{verdict} {verdict.failed[-2000:]}", file=sys.stderr, flush=True)
    return verdicts


def judge(fault: Fault, name: str) -> Verdict:
    if fault.needs_root and not can_limit_memory():
        return untried(fault, name, "control groups need root, and version 1")
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        try:
            result = case.run(fault, LAUNCHERS[name](fault), Path(folder), within=BOUND)
        except AssertionError as problem:
            return untried(fault, name, str(problem))
    if result.left:
        print(f"{fault.name}, {name}: left behind {result.left}", file=sys.stderr)
    shown = {host: COMMAND.sub("", end.failure[:SHOWN]) for host, end in result.hosts.items()}
    codes = {host: end.code for host, end in result.hosts.items()}
    if fault.code:
        cause = all(re.search(fault.named(host), text) for host, text in shown.items())
        place = all(_names_place(text, fault.place) for text in shown.values()) if fault.place else None
    else:
        cause, place = not any(shown.values()), None
    right = {code == fault.code if fault.own_code else code not in (0, None) for code in codes.values()}
    return Verdict(
        fault.name, name, codes if result.ended else dict.fromkeys(codes), result.ended,
        round(result.seconds, 1) if result.ended else None, cause, place, result.ended and right == {True},
        {host: text.partition("\n")[0] for host, text in shown.items()},
    )  # fmt: skip


def _names_place(text: str, place: str) -> bool:
    """In any words: `rank 3 on algo-2` is also `host: algo-2`, `[rank3]`."""
    rank, _, host = place.removeprefix("rank").strip().partition(" on ")
    return bool(re.search(f"[Rr]ank[ :]*{rank}", text)) and bool(re.search(host, text))


def untried(fault: Fault, name: str, why: str) -> Verdict:
    return Verdict(fault.name, name, {}, False, None, False, None, False, {}, failed=why)


def table(verdicts: Sequence[Verdict], names: Sequence[str], under: Sequence[str]) -> str:
    """Markdown: a row per fault, a column per launcher."""
    found = {(verdict.fault, verdict.launcher): verdict for verdict in verdicts}
    head = ["cause · place · code (of each host) · end after", *under]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    lines += [
        f"| {FAULTS[name].title} | " + " | ".join(str(found[name, launcher]) for launcher in under) + " |"
        for name in names
    ]
    well = [str(sum(found[name, launcher].good for name in names)) for launcher in under]
    lines.append(f"| all of it, of {len(names)} | " + " | ".join(well) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
