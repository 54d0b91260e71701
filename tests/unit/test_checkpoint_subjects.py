"""What becomes of torch's objects in a checkpoint; and a single rank's checkpointer, called oddly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch


def test_a_state_of_more_precision_than_its_parameter_keeps_it() -> None:
    import torch
    from torch import nn

    from trainkit.checkpoint.subjects import Module, Optimizer

    model = nn.Linear(4, 4).to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    subject = Optimizer("optimizer", optimizer, [Module("model", model)])
    moments = {"weight": {"m": torch.randn(4, 4)}, "bias": {"m": torch.randn(4)}}
    subject._state = dict(moments)
    groups = [{**optimizer.state_dict()["param_groups"][0], "params": ["weight", "bias"]}]

    subject.apply({"groups": groups})

    assert optimizer.state[model.weight]["m"].dtype == torch.float32
    assert torch.equal(optimizer.state[model.weight]["m"], moments["weight"]["m"])


def test_a_parameter_that_got_other_data_is_looked_at_again() -> None:
    import torch
    from torch import nn

    from trainkit.checkpoint.holdings import Holders

    holders = Holders(rank=0, ranks=1)
    parameter = nn.Parameter(torch.zeros(2, 3))
    first, _ = holders.held("weight", parameter)
    parameter.data = torch.zeros(5, 3, dtype=torch.float64)

    second, _ = holders.held("weight", parameter)

    assert (first.dtype, first.shape) == ("F32", (2, 3))
    assert (second.dtype, second.shape) == ("F64", (5, 3))


def checkpointer(folder: Path, said: list[str], *, every: int = 1) -> Any:
    from torch import nn

    from trainkit.checkpoint.checkpointer import Checkpointer, Setup
    from trainkit.checkpoint.retain import Retention
    from trainkit.checkpoint.schedule import Schedule
    from trainkit.checkpoint.world import World

    setup = Setup("job", (str(folder),), Schedule(every=every), Retention(last=5))
    return Checkpointer({"model": nn.Linear(4, 4)}, setup, World(0, ("algo-1",), (0,)), say=said.append)


def test_a_step_that_was_saved_by_hand_is_not_copied_again_when_it_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = checkpointer(tmp_path, [])
    made.restore()
    assert made.save(0)
    copied: list[object] = []
    monkeypatch.setattr(made._staging, "copy", copied.append)

    made.step(0)

    made.close()
    made._client._process.communicate()
    assert copied == []
    assert len([*tmp_path.iterdir()]) == 1


def test_memory_that_is_not_there_is_asked_for_once_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    made = checkpointer(tmp_path, said, every=100)
    made.restore()

    def refuse(collected: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(made._staging, "lay_out", refuse)
    for step in range(5):
        made.step(step)

    made.close()
    made._client._process.communicate()
    assert len(said) == 1
    assert "no memory" in said[0]
