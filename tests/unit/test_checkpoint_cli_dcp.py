"""Between our checkpoints and torch's DCP: exported, torch loads it; imported, a training starts from it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as torch_dcp
from checkpoint_laid import call, flip
from harness import DEADLINE
from safetensors.torch import load_model
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from trainkit.checkpoint.checkpointer import Checkpointer, Setup
from trainkit.checkpoint.people import place
from trainkit.checkpoint.retain import Retention
from trainkit.checkpoint.schedule import Schedule
from trainkit.checkpoint.world import World
from trainkit.errors import CheckpointError

pytestmark = pytest.mark.torch
Captured = pytest.CaptureFixture[str]


class Tied(nn.Module):
    """Tied weights, bfloat16, a buffer that is a number, and what is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 16)
        self.body = nn.Linear(16, 16)
        self.low = nn.Linear(16, 8, dtype=torch.bfloat16)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 100, bias=False)
        self.head.weight = self.embed.weight
        self.body.bias.requires_grad_(False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.body(self.embed(rows)))
        return self.head(hidden).sum() + self.low(hidden.bfloat16()).float().sum()


class Training:
    """A model in training, and its checkpointer."""

    def __init__(self, where: Path, *, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = Tied()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.1 * seed)
        objects = {"model": self.model, "optimizer": self.optimizer}
        setup = Setup("a-job", (str(where),), Schedule(every=1), Retention())
        self.checkpointer = Checkpointer(objects, setup, World(0, ("algo-1",), (0,)), say=lambda text: None)

    def close(self) -> None:
        self.checkpointer.close()
        writer = self.checkpointer._client._process  # it is meant to outlive us; a test leaves nothing behind
        writer.communicate(timeout=DEADLINE)

    def step(self) -> None:
        self.model(torch.arange(7)).backward()
        self.optimizer.step()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Training]]:
    where = tmp_path_factory.mktemp("saved")
    training = Training(where, seed=1)
    assert training.checkpointer.restore() == 0
    training.step()
    assert training.checkpointer.save(0)
    training.close()
    yield where, training


def load(state: dict[str, Any], where: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        torch_dcp.load(state, checkpoint_id=where)


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_is_exported_torch_loads_into_a_model_and_its_optimizer(
    saved: tuple[Path, Training], tmp_path: Path, capsys: Captured
) -> None:
    where, training = saved
    code, out, err = call(capsys, "export", where, "--to", "dcp", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "left out, what is no tensor of a model or optimizer: random" in out

    other = Training(tmp_path / "other", seed=2)
    other.step()
    state: dict[str, Any] = {
        "model": get_model_state_dict(other.model),
        "optimizer": get_optimizer_state_dict(other.model, other.optimizer),
    }
    load(state, tmp_path / "out")
    set_optimizer_state_dict(other.model, other.optimizer, state["optimizer"])
    other.close()

    assert same(other.model.state_dict(), training.model.state_dict())
    assert other.optimizer.param_groups[0]["lr"] == 0.1
    mine, theirs = training.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert all(same(mine[key], theirs[key]) for key in mine)


def test_a_model_alone_lies_at_the_top_and_comes_back_to_start_from(
    saved: tuple[Path, Training], tmp_path: Path, capsys: Captured
) -> None:
    where, training = saved
    want = training.model.state_dict()
    assert call(capsys, "export", where, "--to", "dcp", tmp_path / "top", "--only", "model")[0] == 0
    assert call(capsys, "export", where, "--to", "dcp", tmp_path / "both")[0] == 0
    assert call(capsys, "export", where, "--to", "safetensors", tmp_path / "st", "--only", "model")[0] == 0
    plain = Tied()
    load(state := get_model_state_dict(plain), tmp_path / "top")
    assert same(state, want)
    load_model(plain, tmp_path / "st/model.safetensors")  # the library's own way with tied weights
    assert same(plain.state_dict(), want)

    for kind, name in (("dcp", "top"), ("dcp", "both"), ("safetensors", "st")):
        trust = ["--trust"] if kind == "dcp" else []
        source, made = tmp_path / name, tmp_path / f"{name}-imported"
        assert call(capsys, "import", source, "--from", kind, made, "--step", 5, *trust)[0] == 0
        assert call(capsys, "verify", made)[0] == 0
        other = Training(made, seed=2)
        with pytest.raises(CheckpointError, match=r"it holds no optimizer; restore\(without=\['optimizer'\]\)"):
            other.checkpointer.restore()
        assert other.checkpointer.restore(without=["optimizer"]) == 5
        other.close()
        assert same(other.model.state_dict(), want)


def test_no_pickle_is_read_unless_its_writer_is_trusted(tmp_path: Path, capsys: Captured) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "code-ran",)

    (tmp_path / "in").mkdir()
    (tmp_path / "in/.metadata").write_bytes(pickle.dumps(Hostile()))
    argv = ["import", tmp_path / "in", "--from", "dcp", tmp_path / "ck"]

    code, _, err = call(capsys, *argv)
    assert (code, "runs whatever its writer put into it" in err) == (64, True)
    assert not (tmp_path / "code-ran").exists()
    code, _, err = call(capsys, *argv, "--trust")
    assert (code, ".metadata cannot be read: " in err) == (65, True)
    assert (tmp_path / "code-ran").exists()  # this is what --trust means
    assert not (tmp_path / "ck").exists()


def test_a_damaged_checkpoint_becomes_no_dcp_directory(
    saved: tuple[Path, Training], tmp_path: Path, capsys: Captured
) -> None:
    where, _ = saved
    one = place.chosen(str(where))[0]
    path = where / one.found.directory / "r00000.safetensors"
    flip(path, path.stat().st_size - 1)
    code, _, err = call(capsys, "export", where, "--to", "dcp", tmp_path / "out")
    flip(path, path.stat().st_size - 1)
    assert (code, "the MiB from byte 0 on is not what was written" in err) == (65, True)
    assert not list(tmp_path.iterdir())


def test_a_dcp_directory_that_was_cut_leaves_no_checkpoint(
    saved: tuple[Path, Training], tmp_path: Path, capsys: Captured
) -> None:
    assert call(capsys, "export", saved[0], "--to", "dcp", tmp_path / "cut", "--only", "model")[0] == 0
    with (tmp_path / "cut/__0_0.distcp").open("r+b") as file:
        file.truncate(2000)
    code, _, err = call(capsys, "import", tmp_path / "cut", "--from", "dcp", tmp_path / "ck", "--trust")
    assert (code, "cut: " in err and "cannot be read" in err) == (65, True)
    assert not (tmp_path / "ck").exists() or not list((tmp_path / "ck").iterdir())
