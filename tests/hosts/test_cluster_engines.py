"""Spark, Ray and Dask themselves on two local hosts; those that are installed. Minutes: TRAINKIT_TEST_ENGINES=all."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from harness import local, processes_mentioning

MODULES = {"spark": "pyspark", "ray": "ray", "dask": "distributed"}
TASK = """
import json, os, subprocess, sys, time
from pathlib import Path
def where(_):
    time.sleep(0.3)
    return os.environ["SM_CURRENT_HOST"]
"""
APPS = {
    "spark": """
from pyspark.sql import SparkSession
def session(**conf):
    builder = SparkSession.builder
    for name, value in conf.items(): builder = builder.config(name.replace("_", "."), value)
    return builder.getOrCreate()
if sys.argv[1] == "stranger": session(spark_authenticate_secret="f0" * 32); sys.exit()
numbers = session().sparkContext.parallelize(range(16), 8)
seen = numbers.map(where).collect()
""",
    "ray": """
import ray
ray.init()
seen = ray.get([ray.remote(num_cpus=1)(where).remote(i) for i in range(12)])
if sys.argv[1] != "stranger":
    false = Path("token"); false.write_text("f0" * 32)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(false.absolute())
""",
    "dask": """
from distributed import Client
client = Client(timeout=20)
seen = client.gather([client.submit(where, i, pure=False) for i in range(16)])
if sys.argv[1] != "stranger":
    key = Path(os.environ["DASK_DISTRIBUTED__COMM__TLS__CA_FILE"])
    import trainkit.launch.joined.dask_certificate as other
    false = Path("tls.pem"); false.write_bytes(other.made(b"f0" * 16))
    for name in [name for name in os.environ if name.startswith("DASK_DISTRIBUTED__COMM__TLS")]:
        os.environ[name] = str(false.absolute())
""",
}
END = """
print("on", *sorted(set(seen)), flush=True)
if sys.argv[1] == "stranger": sys.exit()
if sys.argv[1] == "hang": time.sleep(1000)
try: code = subprocess.run([sys.executable, __file__, "stranger"], timeout=40, capture_output=True).returncode
except subprocess.TimeoutExpired: code = "kept waiting"
print("a stranger is let in:", code == 0)
sys.exit(int(sys.argv[1]))
"""

pytestmark = pytest.mark.skipif(os.environ.get("TRAINKIT_TEST_ENGINES") != "all", reason="TRAINKIT_TEST_ENGINES=all")


def installed(kind: str) -> Any:
    missing = importlib.util.find_spec(MODULES[kind]) is None
    return pytest.param(kind, marks=pytest.mark.skipif(missing, reason=f"{MODULES[kind]} is not installed"))


engines = pytest.mark.parametrize("kind", [installed(kind) for kind in MODULES])


def run(tmp_path: Path, kind: str, *arguments: str, flags: tuple[str, ...] = ()) -> Any:
    (tmp_path / "app").mkdir()
    script = tmp_path / "app/app.py"
    script.write_text(TASK + APPS[kind] + END)
    options = ("--processing", "--hosts", "2", "--cluster", kind, *flags, "--", *arguments)
    # `local` puts --output last, which would be the script's.
    return local(script, "--output", str(tmp_path / "out"), *options, output=tmp_path / "unused", deadline=200)


@engines
def test_work_is_done_on_both_hosts_strangers_are_kept_out_and_the_exit_code_is_the_commands(
    tmp_path: Path, kind: str
) -> None:
    ran = run(tmp_path, kind, "7")

    assert "on algo-1 algo-2" in ran.out, ran.out
    assert "a stranger is let in: False" in ran.out
    assert ran.out.count("failed, exit code 7") == 2, ran.out
    assert ran.code == 7
    assert processes_mentioning(str(tmp_path)) == []


@engines
def test_a_host_that_is_killed_ends_the_job_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    ran = run(tmp_path, kind, "hang", flags=("--kill", "host=2@40s", "--isolation", "process"))

    assert "on algo-1 algo-2" in ran.out, ran.out
    assert "lost algo-2" in ran.out
    assert ran.code != 0
    assert processes_mentioning(str(tmp_path)) == []
