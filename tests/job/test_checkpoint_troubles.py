"""What goes wrong when checkpoints are made and restored: said on all ranks alike, and never a silent start anew."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import environment
from servers.s3 import S3Server

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, s3_server: S3Server) -> dict[str, list[Any]]:
    """What each of two ranks noted, of each kind of trouble."""
    s3_server.clean()
    folder = tmp_path_factory.mktemp("troubles")
    script = Path(__file__).with_name("checkpoint_troubles.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(folder), s3_server.bucket],
        env=environment(OMP_NUM_THREADS="1", **s3_server.environ), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    noted: dict[str, list[Any]] = json.loads((folder / "result.json").read_text())
    return noted


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("differs", "rank 1 has other tensors to save than rank 0: model.0.bias is F32 [5] instead of F32 [4]"),
        ("unsupported", "rank 1: thing.state is a object: it cannot be saved"),
        ("outside", "optimizer: a parameter of its group 0 (shape (3, 3)) is in none of the models given"),
        ("meta", "model.weight is on the meta device: it has no values"),
        ("no restore", "call restore() before the first step"),
        ("name random", "'random' is no name for a part of a checkpoint"),
        ("name a b", "'a b' is no name for a part of a checkpoint"),
        ("name thing", "thing is a int, which has no state_dict"),
    ],
)
def test_what_cannot_be_saved_is_said_before_the_first_step_on_every_rank(case, said, seen):
    for rank in seen["before_the_first_step"]:
        assert rank[case].startswith("CheckpointError: ") and said in rank[case]


def test_what_comes_to_differ_before_the_first_save_is_an_error_on_every_rank(seen):
    for rank in seen["in_the_first_save"]:
        assert rank["first"].startswith("CheckpointError: ") and "model.late is ('F32', (2,)) here" in rank["first"]


def test_what_comes_to_differ_later_costs_saves_and_not_the_training(seen):
    for rank in seen["in_the_first_save"]:
        returned, said = rank["later"]
        assert returned == "returned False"
        assert len(said) == 1 and "model.late is" in said[0]


def test_a_rank_whose_state_cannot_be_saved_is_the_one_that_fails(seen):
    first, second = seen["in_the_first_save"]
    assert first["one rank"] == "returned False"
    assert second["one rank"].startswith("CheckpointError: thing.state is a object")


def test_a_rank_without_memory_for_its_first_save_costs_that_save_and_no_later_one(seen):
    for rank in seen["in_the_first_save"]:
        assert rank["no room"] == ["returned False", "returned True"]


def test_several_models_and_optimizers_come_back_and_each_rank_gets_its_own_state(seen):
    for rank in seen["several"]:
        assert rank == {"begun": 0, "step": 7, "same": True, "own": True, "moments": True}


def test_a_state_that_each_rank_had_of_its_own_is_refused_by_another_number_of_ranks_unless_left_out(seen):
    (rank,) = seen["on_another_number"]
    said, kept = rank["plain"]
    assert said.startswith("CheckpointError: ") and "each of its 2 ranks had another state of thing" in said
    assert rank["without"] == ["returned 7", "mine"]
    assert kept == "mine"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("shape", "model.0.weight is F32 [5, 4] here, and F32 [3, 4] was saved"),
        ("dtype", "model.0.weight is F64 [3, 4] here, and F32 [3, 4] was saved"),
        ("names", "the checkpoint lacks a.0.bias, a.0.weight; this model lacks 0.bias, 0.weight, 1.bias and 1 more"),
        ("more", "the checkpoint lacks 2.bias, 2.weight"),
        ("fewer", "this model lacks 1.bias, 1.weight"),
        ("object", "it holds no thing; restore(without=['thing'])"),
        ("frozen", "optimizer: it optimizes other parameters than were saved: 0.bias, 0.weight"),
        ("groups", "optimizer: it has 2 parameter groups, and 1 were saved"),
    ],
)
def test_the_newest_checkpoint_of_another_model_is_an_error_and_no_older_one_is_tried(case, said, seen):
    for rank in seen["unfit"]:
        assert rank[case].startswith("CheckpointError: step-000000002.") and said in rank[case]


def test_all_ranks_fall_back_from_a_damaged_checkpoint_together_and_it_is_set_aside(seen):
    for rank in seen["damaged"]:
        for time in ("fell back", "again"):
            assert rank[time][:2] == ["returned 2", [2.0]]
    aside, restored = seen["damaged"][0]["fell back"][2]
    assert "is damaged, and set aside" in aside
    assert restored.startswith("checkpoint of step 2 restored") and restored.count("passed over") == 1


def test_where_all_are_damaged_no_start_is_fresh_unless_told_so(seen):
    for rank in seen["damaged"]:
        for time in ("none", "none again"):
            assert rank[time].startswith("CheckpointError: there are checkpoints, and none can be used")
        assert rank["marked"] == ["step-000000001", "step-000000002", "step-000000003"]
        assert (rank["fresh"], rank["after fresh"]) == ("returned 0", "returned 1")


def test_a_fresh_start_is_not_overruled_by_older_checkpoints_that_are_further_on(seen):
    for rank in seen["anew"]:
        assert rank == {"first": [0, True, [1.0]], "fresh": [0, True, [5.0]], "later": [5, True, [5.0]]}


def test_a_lost_folder_is_made_up_for_by_the_url_and_another_jobs_place_is_a_beginning(seen):
    for rank in itertools.chain(*seen["places"]):
        assert rank["saved"]
        assert rank["lost"] == rank["other"] == ["returned 5", [2.0, 2.0, 2.0]]
        assert rank["own first"] == "returned 8"
        assert (
            rank["nowhere"].startswith("CheckpointError: ") and "holds no checkpoint to resume from" in rank["nowhere"]
        )
    for place, (first, _) in zip(("file://", "s3://"), seen["places"], strict=True):
        (said,) = first["said"]
        assert "checkpoint of step 5 in /" in said and f" s, {place}" in said


def test_fsdp2_of_accelerate_comes_back_into_a_training_that_has_gone_on(seen):
    assert seen["under_accelerate"] == [["FSDPSequential", 2, True]] * 2


def test_without_a_process_group_several_ranks_are_refused(seen):
    assert all(said.startswith("CheckpointError: a checkpointer of several ranks needs") for said in seen["alone"])
