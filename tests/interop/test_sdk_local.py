"""Jobs that the SageMaker SDK itself starts, versions 2 and 3, executed end to end by `trainkit local`.

They need environments with the whole SDK, .venvs/sdk-v2-client and .venvs/sdk-v3-client, or elsewhere by
TRAINKIT_TEST_VENVS; nothing else of these may have changed when it is said that a client works.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from harness import environment, local
from servers.s3 import S3Server

from trainkit.errors import IsolationUnavailable
from trainkit.local import isolation

HERE = Path(__file__).parent
VENVS = Path(os.environ.get("TRAINKIT_TEST_VENVS") or HERE.parents[1] / ".venvs")
PROBE = (HERE.parent / "local_requests/probe.py").read_text()
TEXTS = {"epochs": "3", "lr": "0.1", "name": "it is $(id)", "flag": "true", "sizes": "[1, 2]"}


def namespaces() -> bool:
    try:
        isolation.choose("namespace")[0].close()
    except IsolationUnavailable:
        return False
    return True


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_what_the_sdk_starts_runs_to_its_end_here(tmp_path: Path, s3: S3Server, version: str) -> None:
    python = VENVS / f"sdk-{version}-client/bin/python"
    if not python.exists():
        pytest.skip(f"{python} is not there: make an environment with the SDK")
    if not namespaces():
        pytest.skip("this machine makes no namespaces, and the SDK's own drivers need /opt/ml")
    requests = _asked(python, version, tmp_path, s3)

    assert sorted(requests) == {"v2": ["groups", "own-image", "own-image-pipe", "pytorch", "tuner"],
                                "v3": ["own-image", "source-code", "tuner"]}[version]  # fmt: skip
    for name, asked in requests.items():
        _runs(tmp_path, s3, name, asked)


def _asked(python: Path, version: str, folder: Path, s3: S3Server) -> dict[str, dict[str, Any]]:
    """Start the jobs; what the SDK then asked the API for, by the jobs' names."""
    from trainkit.storage import files

    for number in range(4):
        files.put_new(f"{s3.bucket}/data/{number}.txt", b"%d\n" % number)
    (folder / "source").mkdir()
    (folder / "source/train.py").write_text(PROBE)
    given = [version, s3.bucket.removeprefix("s3://"), str(folder / "source"), str(folder / "asked")]
    environ = {**s3.environ, "AWS_ENDPOINT_URL": s3.endpoint, "HOME": str(folder), "SAGEMAKER_VALIDATE_ROLE": "false"}
    done = subprocess.run(
        [python, HERE / "sdk_jobs.py", *given], env=environment(PYTHONPATH="", **environ), capture_output=True,
        text=True, timeout=400, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: json.loads(path.read_text()) for path in (folder / "asked").iterdir()}


def _runs(folder: Path, s3: S3Server, name: str, asked: dict[str, Any]) -> None:
    code = ("--code", str(folder / "source")) if name.startswith("own-image") else ()
    file = folder / "asked" / f"{name}.json"
    ran = local(file, *code, "--isolation", "namespace", output=folder / name, deadline=300, **s3.environ)

    said = f"{name}: {json.dumps(asked['request'], indent=1)}\n{ran.out}"
    assert ran.code == 0, said
    assert (ran.root / "model.tar.gz").exists() or (ran.root / "model/model.bin").exists(), said
    seen = _seen(ran.root)
    assert len(seen) == {"groups": 3}.get(name, 2), said
    for one in seen.values():
        argv = dict(zip(one["argv"][::2], one["argv"][1::2], strict=True))
        for key, text in TEXTS.items():
            value = json.loads(argv[f"--{key}"]) if argv[f"--{key}"][:1] == '"' else argv[f"--{key}"]
            assert value.lower() == text or (key == "lr" and name == "tuner"), (key, said)
    if name == "groups":
        assert "some" not in seen["algo-1"]["files"], said
        assert sorted(seen["algo-3"]["files"]["some"]) == [f"{number}.txt" for number in range(4)], said
    metrics = {one["MetricName"]: one["Value"] for one in ran.described["FinalMetricDataList"]}
    assert metrics.get("train:loss") == 0.25, said


def _seen(root: Path) -> dict[str, dict[str, Any]]:
    if (root / "output").is_dir():
        return {path.stem: json.loads(path.read_text()) for path in (root / "output").iterdir()}
    with tarfile.open(root / "output.tar.gz") as tar:
        return {m.name.removesuffix(".json"): json.load(tar.extractfile(m)) for m in tar}  # type: ignore[arg-type]
