"""The planted faults: what is done, and what each host must come to know of it.

Two hosts with two ranks each: ranks 0 and 1 on algo-1, 2 and 3 on algo-2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from faults.cluster import HOSTS, Cluster, Launcher, Outfit

STEP = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """`cause` is what the first line says, as a regular expression: one for all hosts that live to say it, or by host.

    `names` is less: what somebody who reads the first 1,024 characters must find there to know what happened, whatever
    the launcher's own words are.
    """

    name: str
    title: str
    cause: str | Mapping[str, str]
    names: str | Mapping[str, str]
    code: int
    """Of every host that lives."""
    own_code: bool = True
    """Whether that is the script's own; else it is ours, and of another launcher any but 0 is as good."""
    rank: int = -1
    place: str = ""
    """Which rank is to be blamed, on which host; a regular expression, too."""
    plant: str = "none"
    """What planted.py does at STEP, on `rank`."""
    frame: str = ""
    """Where in the script it happened, if a rank could still say so."""
    at_step: bool = False
    """Whether that rank knew the step."""
    steps: int = 1_000_000
    outfits: Mapping[str, Outfit] = field(default_factory=dict)
    strike: Callable[[Cluster], None] | None = None
    """What happens from outside, once both hosts have reached STEP."""
    relent: Callable[[Cluster], None] | None = None
    """What happens when the other hosts have ended, or never will."""
    alive: tuple[str, ...] = HOSTS
    waits: tuple[str, ...] = HOSTS
    """Hosts whose end does not wait for `relent`."""
    broken_script: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    within: float = 30.0
    """Seconds from the fault to the last host's end, on a busy machine."""
    needs_root: bool = False
    """It takes a control group."""

    def said(self, host: str) -> str:
        return self.cause if isinstance(self.cause, str) else self.cause[host]

    def named(self, host: str) -> str:
        return self.names if isinstance(self.names, str) else self.names[host]

    @property
    def hyperparameters(self) -> dict[str, str]:
        return {"fault": self.plant, "rank": str(self.rank), "step": str(STEP), "steps": str(self.steps)}

    def cluster(self, folder: Path, launcher: Launcher) -> Cluster:
        return Cluster(
            folder, launcher, hyperparameters=self.hyperparameters, outfits=self.outfits,
            broken_script=self.broken_script,
        )  # fmt: skip


THE_OTHER_IS_LOST = {"algo-1": r"lost algo-2: ", "algo-2": r"lost algo-1: "}
THE_OTHER = {"algo-1": r"algo-2|10\.77\.0\.2", "algo-2": r"algo-1|10\.77\.0\.1"}
LISTS_DIFFER = {
    "algo-1": r".*algo-2 came with another list of hosts: ",
    "algo-2": r"algo-1 refused algo-2: its list of hosts is not that of algo-1 ",
}
SILENT = r"(?i)no progress|stall|hang|hung|timed out"
QUICK_TO_LOSE = {"peer_timeout": "12"}
"""Seconds; a silence is reported after 10."""
IMPATIENT = {"peer_wait": "8"}
WATCHFUL = {"stall_timeout": "8", "stall_action": "act"}

IN_THE_SCRIPT = (
    Fault(
        "exception", "exception on rank 3", cause=r"ValueError: planted at step 5$", names=r"ValueError: planted",
        code=1, rank=3, place="rank 3 on algo-2", plant="raise", frame=r"planted.py:\d+ in go_wrong", at_step=True,
    ),
    Fault(
        "sigkill", "SIGKILL of rank 3",
        cause=r"killed by SIGKILL \(signal 9\): rank 3 on algo-2, step 5, exit code 137$",
        names=r"SIGKILL|[Ss]ignal 9\b|-9\b", code=137, rank=3, place="rank 3 on algo-2", plant="kill",
    ),
    Fault(
        "sigsegv", "SIGSEGV in rank 3",
        cause=r"killed by SIGSEGV \(signal 11\): rank 3 on algo-2, step 5, exit code 139$",
        names=r"SIGSEGV|[Ss]ignal 11\b|-11\b", code=139, rank=3, place="rank 3 on algo-2", plant="crash",
    ),
    Fault(
        "out-of-memory", "rank 3 is killed for memory, in a control group",
        cause=r"out of memory: the kernel killed rank 3 on algo-2, step 5, exit code 137$",
        names=r"(?i)out.?of.?memory", code=137, rank=3, place="rank 3 on algo-2", plant="memory",
        outfits={"algo-2": Outfit(memory=2 << 30)}, needs_root=True,
    ),
    Fault(
        "import-error", "import error on rank 1",
        cause=r"ModuleNotFoundError: No module named 'module_of_the_other_ranks'$",
        names=r"No module named 'module_of_the_other_ranks'", code=1, rank=1, place="rank 1 on algo-1",
        plant="import", frame=r"planted.py:\d+ in <module>",
    ),
    Fault(
        "syntax-error", "syntax error", cause=r"SyntaxError: '\(' was never closed$", names=r"SyntaxError", code=1,
        place=r"rank \d on algo-\d", frame=r"planted.py:\d+", broken_script=True,
    ),
    Fault(
        "missing-file", "a file is missing on the second host",
        cause=r"FileNotFoundError: \[Errno 2\] No such file or directory: '/opt/ml/input/data/train/rows.txt'$",
        names=r"No such file or directory: '/opt/ml/input/data/train/rows.txt'", code=1, place=r"rank [23] on algo-2",
        plant="missing", frame=r"planted.py:\d+ in train", outfits={"algo-2": Outfit(without_data=True)},
    ),
    Fault(
        "exit-3", "`sys.exit(3)` on rank 3", cause=r"exit code 3\b", names=r"(?i)exit ?code\W*3\b", code=3, rank=3,
        place="rank 3 on algo-2", plant="exit", frame=r"planted.py:\d+ in go_wrong", at_step=True,
    ),
    Fault(
        "full-disk", "full disk on the first host", cause=r"OSError: \[Errno 28\] No space left on device",
        names=r"No space left on device", code=1, rank=0, place="rank 0 on algo-1", plant="disk",
        frame=r"planted.py:\d+ in save", at_step=True, outfits={"algo-1": Outfit(tmpfs={"/opt/ml/model": "2m"})},
    ),
    Fault(
        "bus-error", "bus error from a small /dev/shm",
        cause=r"killed by SIGBUS \(signal 7\): rank 3 on algo-2, step 5, exit code 135$",
        names=r"SIGBUS|[Ss]ignal 7\b|-7\b", code=135, rank=3, place="rank 3 on algo-2", plant="bus",
        outfits={"algo-2": Outfit(tmpfs={"/dev/shm": "8m"})},
    ),
    Fault(
        "all-hang", "all ranks hang", names=SILENT, code=124, own_code=False,
        cause=r"no progress for 8 s: rank \d on algo-\d, step 5, stands in planted.py:\d+ in stuck \(and 3 more\)$",
        place=r"rank \d on algo-\d", plant="hang-all", settings=WATCHFUL, within=45,
    ),
    Fault(
        "one-hangs", "rank 3 hangs, the others wait in a collective", names=SILENT, code=124, own_code=False,
        cause=r"no progress for 8 s: rank 3 on algo-2, step 5, stands in planted.py:\d+ in stuck$", rank=3,
        place="rank 3 on algo-2", plant="hang", settings=WATCHFUL, within=45,
    ),
    Fault(
        "early-end", "rank 3 ends early with 0",
        cause=r"rank 3 on algo-2 ended with exit code 0 in step 5, while others still trained$",
        names=r"[Rr]ank[ :]*3\b", code=1, own_code=False, rank=3, place="rank 3 on algo-2", plant="early",
    ),
)  # fmt: skip
AROUND_IT = (
    Fault(
        "host-killed", "the second host is killed", cause=THE_OTHER_IS_LOST, names=THE_OTHER, code=75, own_code=False,
        strike=lambda cluster: cluster["algo-2"].kill(), alive=("algo-1",),
    ),
    Fault(
        "first-host-killed", "the first host is killed", cause=THE_OTHER_IS_LOST, names=THE_OTHER, code=75,
        own_code=False, strike=lambda cluster: cluster["algo-1"].kill(), alive=("algo-2",),
    ),
    Fault(
        "link-cut", "the link is cut", cause=THE_OTHER_IS_LOST, names=THE_OTHER, code=75, own_code=False,
        strike=lambda cluster: cluster["algo-2"].cut(), settings=QUICK_TO_LOSE, within=50,
    ),
    Fault(
        "one-way-cut", "the link is cut one way", cause=THE_OTHER_IS_LOST, names=THE_OTHER, code=75, own_code=False,
        strike=lambda cluster: cluster["algo-1"].deafen(), settings=QUICK_TO_LOSE, within=50,
    ),
    Fault(
        "slow-link", "the link is slow (256 kbit/s), which is no fault", cause="", names="", code=0, steps=25,
        strike=lambda cluster: cluster["algo-1"].throttle(), settings=QUICK_TO_LOSE, within=60,
    ),
    Fault(
        "frozen-host", "the second host freezes until the first has ended", cause=THE_OTHER_IS_LOST, names=THE_OTHER,
        code=75, own_code=False, strike=lambda cluster: cluster["algo-2"].freeze(),
        relent=lambda cluster: cluster["algo-2"].thaw(), waits=("algo-1",), settings=QUICK_TO_LOSE, within=50,
    ),
    Fault(
        "never-arrives", "the second host never arrives", cause=r"algo-2 did not come; ", names=THE_OTHER, code=75,
        own_code=False, outfits={"algo-2": Outfit(absent=True)}, alive=("algo-1",), settings=IMPATIENT, within=45,
    ),
    Fault(
        "third-host-listed", "only the second host's resourceconfig.json lists a third host", cause=LISTS_DIFFER,
        names=r"algo-3|list of hosts", code=75, own_code=False, outfits={"algo-2": Outfit(lists=(*HOSTS, "algo-3"))},
        settings=IMPATIENT, within=45,
    ),
    Fault(
        "third-host-at-the-first", "only the first host's resourceconfig.json lists a third host", cause=LISTS_DIFFER,
        names=r"algo-3|list of hosts", code=75, own_code=False, outfits={"algo-1": Outfit(lists=(*HOSTS, "algo-3"))},
        settings=IMPATIENT, within=45,
    ),
    Fault(
        "dead-address", "the second host has a dead address for the first",
        cause={"algo-1": r"algo-2 did not come; ", "algo-2": r"algo-2 could not reach algo-1 "}, names=THE_OTHER,
        code=75, own_code=False, outfits={"algo-2": Outfit(names={"algo-1": "10.77.0.9"})}, settings=IMPATIENT,
        within=45,
    ),
)  # fmt: skip
FAULTS = {fault.name: fault for fault in (*IN_THE_SCRIPT, *AROUND_IT)}
