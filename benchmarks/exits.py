"""How often a script that ends on its last training step ends well, under torchrun and under `train`.

    python benchmarks/exits.py [--quick] [--json]

Two ranks take one step under DDP on gloo, destroy the process group, and end. In torch 2.13 a gloo thread may then
still hold the last collective, and abort the rank while the interpreter goes down; the job has failed after all its
work was done. `train` lets those threads go first (launch/rank.py). Contenders take turns; the exit code counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

SCRIPT = """\
import torch, torch.distributed as dist
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(2, 8)).sum().backward()
optimizer.step()
dist.destroy_process_group()
"""
CONTENDERS = ("torchrun", "train, spawn", "train, fork")


def lay(root: Path) -> Path:
    """A tree as SageMaker lays it, with the script."""
    (root / "input/config").mkdir(parents=True)
    (root / "code").mkdir()
    resources = {"current_host": "algo-1", "hosts": ["algo-1"]}
    for name, content in (("resourceconfig", resources), ("hyperparameters", {}), ("inputdataconfig", {})):
        (root / f"input/config/{name}.json").write_text(json.dumps(content))
    script = root / "code/train.py"
    script.write_text(SCRIPT)
    return script


def ends_well(contender: str, root: Path) -> bool:
    """Run it once."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "SAGEMAKER_BASE_DIR": str(root)}
    if contender == "torchrun":
        launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", str(root / "code/train.py"))
    else:
        launcher = ("trainkit.cli.train", "--procs", "2", "--engine", contender.rpartition(" ")[2])
    done = subprocess.run([sys.executable, "-m", *launcher], env=environ, capture_output=True, timeout=300, check=False)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 runs of each instead of 20")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rounds = 4 if arguments.quick else 20
    well = dict.fromkeys(CONTENDERS, 0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lay(root)
        for _ in range(rounds):
            for contender in CONTENDERS:
                well[contender] += ends_well(contender, root)
    if arguments.json:
        print(json.dumps({"runs": rounds, "ended well": well, "torch": metadata.version("torch")}))
        return
    print(f"torch {metadata.version('torch')}, trainkit {metadata.version('trainkit')}, {os.cpu_count()} CPUs")
    for contender, count in well.items():
        print(f"{contender:14}{count:4} of {rounds} runs ended well")


if __name__ == "__main__":
    main()
