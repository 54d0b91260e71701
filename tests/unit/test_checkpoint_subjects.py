"""What becomes of torch's objects in a checkpoint, where no checkpoint is needed to see it."""

from __future__ import annotations

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
