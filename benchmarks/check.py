"""How many planted mistakes are found before a job is sent, and how long that takes; beside botocore's own validation.

    python benchmarks/check.py [--rounds 5]

Each case of tests/mistakes/corpus.py is judged by `trainkit check`, started anew each time, and by the validation that
every boto3 client does before it sends a request. botocore is asked of the cases that are a request only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from mistakes import corpus  # noqa: E402

OPERATIONS = {"training": "TrainingJob", "tuning": "HyperParameterTuningJob", "processing": "ProcessingJob"}


def botocore_finds(kind: str, request: dict[str, Any]) -> bool:
    """Whether a boto3 client would refuse to send it."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    model = ServiceModel(Loader().load_service_model("sagemaker", "service-2"))
    shape = model.operation_model(f"Create{OPERATIONS[kind]}").input_shape
    return bool(ParamValidator().validate(request, shape).has_errors())


def ours(argv: list[str]) -> tuple[set[str], float]:
    """What `trainkit check` finds, and its seconds of wall time, from its start."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "trainkit.cli.main", "check", *argv, "--json"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    return {found["code"] for found in json.loads(ended.stdout) if found["severity"] != "note"}, took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    times, found, theirs, missed = [], 0, 0, []
    for case in corpus.CASES:
        with tempfile.TemporaryDirectory() as scratch:
            argv = corpus.write(case, Path(scratch))
            for _ in range(rounds):
                codes, took = ours(argv)
                times.append(took)
            hit = bool(case.finds) and case.finds in codes
            found += hit
            missed += [] if hit else [case.name]
            if argv[0].endswith(".json"):
                theirs += botocore_finds(case.kind, json.loads(Path(argv[0]).read_text()))
    total = len(corpus.CASES)
    p95 = statistics.quantiles(times, n=20)[-1]
    print(f"planted mistakes            {total}")
    print(f"found by trainkit check     {found} ({found / total:.0%})")
    print(f"found by botocore           {theirs} ({theirs / total:.0%})")
    print(
        f"seconds: median, p95, max   {statistics.median(times):.2f}  {p95:.2f}  {max(times):.2f}  ({len(times)} runs)"
    )
    print("not found                   " + "; ".join(missed))


if __name__ == "__main__":
    main()
