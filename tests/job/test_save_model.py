"""job.save_model and trainkit.load_model on two real ranks: one launch, many questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch

KINDS = ["plain", "ddp", "compiled ddp", "compiled inside", "accelerate", "fsdp2", "fsdp2 partly, compiled", "dtensor"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks noted."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("save_on_two_ranks.py")
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    ended = subprocess.run(
        argv, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("kind", [*KINDS, "views", "turned"])
def test_what_was_saved_reads_back_bit_for_bit_on_every_rank(kind, seen):
    for rank in seen:
        assert rank[kind]["same"]
        assert rank[kind]["problems"] == []
        assert rank[kind]["modes"] == ["0o644"]
        assert rank[kind]["files"] == ["blob", "config.json", "model.safetensors", "trainkit.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_tied_weights_are_kept_once_as_safetensors_itself_does_it(kind, seen):
    reference = seen[0]["reference"]
    assert seen[0][kind]["names"] == reference["names"]
    assert seen[0][kind]["metadata"] == {"format": "pt", **reference["metadata"]}


def test_a_conjugate_is_not_taken_for_the_tensor_whose_storage_it_shares(seen):
    assert seen[0]["turned"]["names"] == ["conjugate", "negative", "pt", "straight", "turned"]


def test_safetensors_own_loader_reads_the_file(seen):
    assert seen[0]["safetensors reads it"]


def test_a_sharded_model_takes_its_share_when_loading(seen):
    assert all(rank["load into shards"] for rank in seen)


def test_without_a_process_group_the_first_rank_writes_and_the_others_return(seen):
    assert seen[0]["no group"]["same"]
    assert seen[1]["no group"].keys() == {"wrote"}


@pytest.mark.parametrize("case", ["disk full", "disk full later"])
def test_when_the_first_ranks_disk_is_full_every_rank_raises_and_the_older_model_stays(case, seen):
    for rank in seen:
        assert rank[case]["said"].startswith("StorageError: the model was not saved to full")
        assert "File too large" in rank[case]["said"]
        assert rank[case]["kept"]
        assert rank[case]["files"] == ["model.safetensors", "trainkit.json"], "no scratch"


def test_a_model_of_old_and_new_files_has_no_manifest(seen):
    for rank in seen:
        assert "rank 0 met IsADirectoryError" in rank["between renames"]["said"]
        (problem,) = rank["between renames"]["problems"]
        assert problem.startswith("trainkit.json: No such file")


def test_whatever_stops_the_first_rank_every_rank_hears_it(seen):
    for rank in seen:
        assert "rank 0 met" in rank["blocked"] and "blocked/trainkit-output" in rank["blocked"]
        assert rank["raises"].startswith("TrainkitError: the model was not saved to raises/")
        assert rank["raises"].endswith("rank 0 met LookupError: only here")
        for name, said in zip(("../up", "..", "", "a/b"), rank["strange files"], strict=True):
            assert said.startswith("TrainkitError: ") and f"{name!r} in `files` is no free file name" in said


def test_what_safetensors_cannot_hold_is_refused_with_a_sentence(seen):
    for rank in seen:
        for kind, said in rank["unfit for the file"].items():
            assert said.startswith("TrainkitError") and kind in said and "safetensors has no place for odd" in said
        for name, said in zip(("format", "__metadata__"), rank["names of the file"], strict=True):
            assert said.startswith("TrainkitError") and f"keeps the name {name} for itself" in said


def test_files_of_the_older_model_go_and_those_of_others_stay(seen):
    for rank in seen:
        assert rank["stale"]["files"] == ["both.json", "mine.txt", "model.safetensors", "trainkit.json"]
        assert rank["stale"]["problems"] == []


def test_a_directory_that_is_not_whole_is_not_loaded(seen):
    for rank in seen:
        assert rank["torn"]["byte"].startswith("StorageError: ")
        assert "model.safetensors: has SHA-256" in rank["torn"]["byte"]
        assert "trainkit.json: No such file" in rank["torn"]["manifest"]
        assert rank["torn"]["file"] == "", "a file that is named itself is the caller's own choice"


def test_a_rank_that_waits_for_one_that_is_gone_says_so_and_stays_an_echo(seen):
    alone = seen[1]["left alone"]
    assert alone["said"].startswith("PeerLost: another rank ended while the model was being saved")
    assert alone["echo"] and alone["cause"].startswith("RuntimeError")


def test_a_dataloaders_worker_does_not_log_as_the_rank(seen):
    (said,) = seen[0]["worker"]
    assert "job.log was called in a DataLoader worker" in said


def test_a_dataloader_over_a_stream_can_be_counted_through(seen):
    assert seen[0]["stream"] == 3


def test_models_that_cannot_be_gathered_are_refused_on_every_rank(seen):
    for rank in seen:
        assert "embed.weight is sharded by DeepSpeed ZeRO-3" in rank["zero3"]
        assert "save_model takes no FullyShardedDataParallel" in rank["fsdp1"]
        assert "weight is on the meta device" in rank["meta"]


def test_loading_into_another_model_names_every_difference(seen):
    for rank in seen:
        for words in (
            "extra.weight is missing",
            "embed.weight is not in the model",
            "out.weight is not in the model",
            "middle.weight has shape (4, 4), the model's has (5, 4)",
        ):
            assert words in rank["unfit"]


def test_a_pickle_is_not_read(seen):
    for rank in seen:
        assert rank["pickle"].startswith("StorageError: pickled-")
        assert "cannot be read" in rank["pickle"]
