#!/bin/sh
# A script on this machine without the harness: launchers/torchrun.sh examples/plain_torch/train.py --lr 0.003
# PROCS is the number of ranks (2), PYTHON the interpreter (python3). Everything after it goes to the script.
# As a module: where an environment is not activated, the command torchrun is not on the PATH, or is another's.
exec "${PYTHON:-python3}" -m torch.distributed.run --standalone --nproc-per-node "${PROCS:-2}" "$@"
