"""A kill of a rank that has 0.6 GB of state, and what it takes until all ranks have done a step again.

The launchers, the stamps and their reading are benchmarks/restarts.py's. Every tenth step is saved and waited for; a
rank, chosen at random, dies five steps after that, so nothing is being written then.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

from restarts import Contender, Recovery, read, recovery, run_once

SCRIPT = """\
import os, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[sys.argv.index("--folder") + 1]), int(os.environ["RANK"])
times = os.open(folder / f"times-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def stamp(what, step=-1):
    os.write(times, f"{what} {step} {time.monotonic_ns()} {time.process_time_ns()}\\n".encode())
stamp("entered")
import json, signal
import torch, torch.distributed as dist
sys.path.insert(0, HELPERS)
import state  # which makes a torch.optim.AdamW
from MODULE import CLASS
kills = json.loads((folder / "kills.json").read_text())
torch.set_num_threads(1)
dist.init_process_group("gloo")
stamp("met")
model, optimizer = state.build(blocks=BLOCKS)
stamp("built")
(folder / "where").mkdir(exist_ok=True)
way = CLASS(model, optimizer, str(folder / "where"))
saved = folder / "saved"
start = torch.tensor([int(saved.read_text()) if rank == 0 and saved.exists() else 0])
dist.broadcast(start, 0)
start = int(start)
if start:
    way.restore(start)
stamp("restored")
for step in range(start, kills[-1][1] + 8):
    time.sleep(0.02)
    for victim, at in kills:
        if victim == rank and at == step and not (folder / f"killed-{at}").exists():
            (folder / f"killed-{at}").touch()
            stamp("killed", step)
            os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))
    stamp("stepped", step)
    if step % 10 == 9:
        way.save(step + 1)
        way.wait()
        dist.barrier()
        if rank == 0:
            (folder / "saved.part").write_text(str(step + 1))
            (folder / "saved.part").replace(saved)
time.sleep(0.1)
os._exit(0)
"""


def measure(
    launcher: str, way: tuple[str, str], *, kills: int, blocks: int, dice: random.Random
) -> list[tuple[Recovery, float] | None]:
    """For each kill: until all ranks had entered, met and stepped, and seconds of the slowest restoration.

    `way`: its module and its class.
    """
    contender = Contender(launcher, 1, 2)
    with tempfile.TemporaryDirectory(prefix="restart-") as name:
        folder = Path(name)
        script = SCRIPT.replace("HELPERS", repr(str(Path(__file__).parent)))
        script = script.replace("BLOCKS", str(blocks)).replace(
            "from MODULE import CLASS", f"from {way[0]} import {way[1]} as CLASS"
        )
        (folder / "train.py").write_text(script)
        (folder / "kills.json").write_text(json.dumps([(dice.randrange(2), 10 * n + 15) for n in range(kills)]))
        run_once(contender, folder)
        stamps = read(folder)
        moments = sorted(stamp.at for stamp in stamps if stamp.what == "killed")
        if not moments:
            raise SystemExit(f"{contender} did not come to its first kill:\n{(folder / 'log').read_text()[-4000:]}")
        found: list[tuple[Recovery, float] | None] = []
        for since, until in zip(moments, [*moments[1:], float("inf")], strict=True):
            came = recovery(stamps, since=since, until=until)
            mine = [stamp for stamp in stamps if since < stamp.at < until]
            spans = [
                end.at - begin.at
                for begin in mine for end in mine
                if (begin.what, end.what) == ("built", "restored") and begin.rank == end.rank
            ]  # fmt: skip
            found.append((came, max(spans, default=float("nan"))) if came else None)
        return found
