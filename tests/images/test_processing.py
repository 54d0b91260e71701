"""Processing jobs in a container: `docker run IMAGE process …`, and `train` where the service laid one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from images.container import running
from images.daemon import Docker

FEATURES = """
from trainkit.processing import Features, HashSplit, Source, Standardize, Vocabulary

features = Features(
    tables={"flights": Source("flights")}, table="SELECT * FROM flights", key="id", target="delay",
    numeric=[Standardize("distance")], categorical=[Vocabulary("carrier")],
    split=HashSplit("id", train=0.8, test=0.2),
)
"""
PREPARE = "import sys\nif 'fail' in sys.argv: raise ValueError('bad row')\nprint('given', sys.argv[1:])\n"
FOLDERS = ("config", "processing", "output")


def lay(root: Path, **scripts: str) -> Path:
    """What the service lays, with the scripts as ScriptProcessor sends them."""
    for folder in ("config", "processing/input/code", "processing/input/flights", "processing/output", "output"):
        (root / folder).mkdir(parents=True)
    (root / "config/resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))
    (root / "config/processingjobconfig.json").write_text(json.dumps({"ProcessingJobName": "j"}))
    for name, text in scripts.items():
        (root / f"processing/input/code/{name}.py").write_text(text)
    return root


@pytest.mark.parametrize("program", [("process", "prepare.py", "--x", "it's"), ("train",)], ids=lambda words: words[0])
def test_both_programs_run_the_processing_job_that_is_laid(
    tmp_path: Path, docker: Docker, cpu: str, program: tuple[str, ...]
) -> None:
    root = lay(tmp_path / "ml", prepare=PREPARE, process=PREPARE)

    with running(docker, cpu, root, command=program, folders=FOLDERS) as job:
        code = job.end()

    assert code == 0, job.log
    assert f"given {list(program[2:])}" in job.log


def test_a_processing_job_that_fails_leaves_the_cause_as_its_message(tmp_path: Path, docker: Docker, cpu: str) -> None:
    root = lay(tmp_path / "ml", prepare=PREPARE)

    with running(docker, cpu, root, command=("process", "prepare.py", "fail"), folders=FOLDERS) as job:
        code = job.end()

    assert code == 1, job.log
    assert (root / "output/message").read_text().startswith("ValueError: bad row\nthe script on algo-1, prepare.py:2")


def test_the_processing_image_makes_features(tmp_path: Path, docker: Docker, processing: str) -> None:
    root = lay(tmp_path / "ml", features=FEATURES)
    rows = [f"{number},{number % 50},{'AB'[number % 2]},{number * 1.5}" for number in range(1000)]
    table = "\n".join(["id,delay,carrier,distance", *rows, ""])
    (root / "processing/input/flights/flights.csv").write_text(table)
    code_folder = "/opt/ml/processing/input/code"
    command = ("process", "python3", "-m", "trainkit.processing.features", f"{code_folder}/features.py")

    with running(docker, processing, root, command=command, folders=FOLDERS) as job:
        code = job.end()

    assert code == 0, job.log
    made = root / "processing/output"
    assert (made / "MANIFEST.json").is_file()
    assert {path.parent.name for path in made.glob("*/part-*.parquet")} == {"train", "test"}
