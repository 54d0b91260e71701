"""Swap an output, killed by SIGKILL at the first change of the file system, the second, and so on, to the last.

python features_killed.py DIR        one JSON line for each kill: what was there before anybody settled it, after
                                     that, and after one more swap
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

from trainkit.processing.features import swap

SPLITS = {"old": ("train", "validation"), "new": ("train", "test")}
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open", "shutil.rmtree"}


def lay(folder: Path, which: str) -> None:
    for split in SPLITS[which]:
        (folder / split / "_features").mkdir(parents=True)
        for name in ("part-0", "part-1", "_features/a"):
            (folder / split / name).write_text(f"{which} {split}")
    (folder / "report").mkdir()
    (folder / "report/report.json").write_text(which)
    about = {"artifact": which, "splits": {split: {} for split in SPLITS[which]}, "report": True}
    (folder / "MANIFEST.json").write_text(json.dumps(about))


def look(output: Path) -> str:
    if not (output / "MANIFEST.json").exists():
        return "has no manifest"
    which = str(json.loads((output / "MANIFEST.json").read_text())["artifact"])
    wanted = {f"{split}/{name}": f"{which} {split}" for split in SPLITS[which]
              for name in ("part-0", "part-1", "_features/a")} | {"report/report.json": which}  # fmt: skip
    files = (one for one in output.rglob("*") if one.is_file() and ".new" not in str(one))
    found = {one.relative_to(output).as_posix(): one.read_text() for one in files if one.name != "MANIFEST.json"}
    return which if found == wanted else f"a mixture: {found}"


def swapped(output: Path, *, kill_at: int) -> None:
    """In a child: replace the output, and die at that change."""
    changes = count(1)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in CHANGES and next(changes) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with swap.replacing(output) as scratch:
        lay(scratch, "new")
        sys.addaudithook(hook)
    os._exit(0)


def main(parent: Path) -> None:
    for kill_at in count(1):
        output = parent / str(kill_at)
        lay(output, "old")
        child = os.fork()
        if not child:
            swapped(output, kill_at=kill_at)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        seen = {"before": look(output)}
        swap.settle(output)
        seen["settled"] = look(output)
        with swap.replacing(output) as scratch:
            lay(scratch, "new")
        seen["again"] = look(output)
        left = [one.name for one in output.iterdir() if one.name.startswith(".")]
        shutil.rmtree(output)
        if not killed:
            break
        print(json.dumps({**seen, "left": left}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
