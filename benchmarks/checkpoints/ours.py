"""What a way to save and to restore is, and ours. The peers' are in ways.py: what they import, we do not need.

way.prepare(step)       a step at which nothing is saved: what a way does beforehand, it may do here
way.save(step)          what holds up the training
way.wait()              until it is committed, and nothing of it is under way
way.forget(step)        delete an older one, where the way does not itself
"""

from __future__ import annotations

import os
import shutil

import torch
import torch.distributed as dist

import trainkit


class Way:
    """`where`: a folder, or a URL for the ways that take one."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, where: str) -> None:
        self.model, self.optimizer, self.where = model, optimizer, where

    def prepare(self, step: int) -> None: ...

    def save(self, step: int) -> None:
        raise NotImplementedError

    def wait(self) -> None: ...

    def restore(self, step: int) -> None:
        raise NotImplementedError

    def forget(self, step: int) -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            shutil.rmtree(self.place(step), ignore_errors=True)

    def close(self) -> None: ...

    def place(self, step: int) -> str:
        return f"{self.where}/step-{step}"


class Ours(Way):
    """job.checkpointer, the two newest kept. Every second step is one at which a save is due."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, where: str) -> None:
        super().__init__(model, optimizer, where)
        os.chdir(where)
        self._ckpt = trainkit.job().checkpointer(every=2, model=model, optimizer=optimizer)
        self._begun = False

    def prepare(self, step: int) -> None:
        self._begin()
        self._ckpt.step(2 * step)

    def save(self, step: int) -> None:
        self._begin()
        self._ckpt.step(2 * step + 1)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._ckpt.restore(fresh=True)

    def wait(self) -> None:
        self._ckpt.wait()

    def restore(self, step: int) -> None:
        if not self._ckpt.restore():
            raise SystemExit("there was nothing to restore")

    def forget(self, step: int) -> None: ...

    def close(self) -> None:
        self._ckpt.close()
