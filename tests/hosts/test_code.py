"""`train` and code that comes from elsewhere, or requires something: real jobs, pip and S3 included, offline."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import DEADLINE, TRAIN, environment, lay_tree, processes_mentioning, train
from servers.s3 import S3Server
from wheels import offline, wheel

from trainkit.storage import files

WHERE = """
import os, sys
print("ran", sys.argv[0], "in", os.getcwd(), "of", os.environ.get("SM_SOURCE_DIR", os.getcwd()))
"""


def tarball(path: Path, content: Mapping[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in content.items():
            one = tarfile.TarInfo(name)
            one.size = len(text.encode())
            tar.addfile(one, io.BytesIO(text.encode()))
    return path


def root_without_code(root: Path, **hyperparameters: str) -> Path:
    lay_tree(root, "", hyperparameters=hyperparameters)
    shutil.rmtree(root / "code")
    return root


@pytest.fixture
def links(tmp_path: Path) -> Path:
    folder = tmp_path / "links"
    wheel(folder, "tinydep", "1.0")
    wheel(folder, "tiny", "2.0", requires=["tinydep>=1", "numpy"])
    return folder


# --- where code comes from


def test_an_archive_is_unpacked_to_where_scripts_look_for_their_code(tmp_path: Path) -> None:
    """As SDK v2 says it: in JSON's quotes."""
    sent = tarball(tmp_path / "sourcedir.tar.gz", {"entry.py": WHERE})
    root = root_without_code(
        tmp_path / "ml", sagemaker_program='"entry.py"', sagemaker_submit_directory=json.dumps(str(sent))
    )
    (root / "code").mkdir()  # an image's WORKDIR
    ran = train(root, SAGEMAKER_SUBMIT_DIRECTORY="/nowhere")
    assert ran.code == 0, ran.out
    assert f"[algo-1:0] ran {root}/code/entry.py in {root}/code of {root}/code\n" in ran.out
    assert [entry.name for entry in root.iterdir() if "part" in entry.name] == []

    (root / ".code.1.ab.part").mkdir()  # of a run that was killed
    tarball(sent, {"entry.py": WHERE.replace("ran", "ran anew")})
    assert f"ran anew {root}/code/entry.py" in train(root).out, "what an earlier job left is replaced"
    assert not (root / ".code.1.ab.part").exists()


def test_what_the_image_keeps_in_its_code_folder_stays_and_the_log_says_where_the_jobs_code_is(tmp_path: Path) -> None:
    sent = tarball(tmp_path / "code.tgz", {"train.py": WHERE})
    root = lay_tree(tmp_path / "ml", "print('the image')")
    ran = train(root, "--source", str(sent))
    assert f"ran {root}/code.job/train.py in {root}/code.job of {root}/code.job\n" in ran.out
    assert f"[algo-1] the image keeps {root}/code for its own: the job's code is in {root}/code.job" in ran.out
    assert [file.name for file in (root / "code").iterdir()] == ["train.py"]
    assert (root / "code/train.py").read_text() == "print('the image')"


def test_the_sdks_archive_in_the_channel_code_is_found_without_being_named(tmp_path: Path) -> None:
    root = root_without_code(tmp_path / "ml")
    (root / "input/config/inputdataconfig.json").write_text('{"code": {"TrainingInputMode": "File"}}')
    (root / "input/data/code").mkdir(parents=True)
    tarball(root / "input/data/code/sourcedir.tar.gz", {"train.py": WHERE})
    assert f"ran {root}/code/train.py" in train(root).out


def test_a_hostile_archive_is_the_failure_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    sent = tarball(tmp_path / "code.tgz", {"train.py": "", "../../evil.py": ""})
    root = root_without_code(tmp_path / "ml")
    ran = train(root, "--source", str(sent))
    assert ran.code == 73
    assert ran.failure == f"{sent}: '../../evil.py' is refused: its name leads outside. Nothing was unpacked."
    assert sorted(entry.name for entry in root.iterdir() if entry.name.startswith((".", "code"))) == []
    assert not list(tmp_path.rglob("evil.py"))


def test_code_in_s3_is_an_archive_or_a_folder(tmp_path: Path, s3: S3Server) -> None:
    packed = tarball(tmp_path / "sourcedir.tar.gz", {"train.py": WHERE}).read_bytes()
    files.put_new(f"{s3.bucket}/job/source/sourcedir.tar.gz", packed)
    files.put_new(f"{s3.bucket}/plain/train.py", b"import lib.a")
    files.put_new(f"{s3.bucket}/plain/lib/a.py", b"print('folder')")
    root = root_without_code(
        tmp_path / "ml", sagemaker_submit_directory=f"{s3.bucket}/job/source/sourcedir.tar.gz", sagemaker_region="eu-x"
    )
    where = {name: value for name, value in s3.environ.items() if name not in ("AWS_REGION", "AWS_DEFAULT_REGION")}
    ran = train(root, AWS_REGION="", AWS_DEFAULT_REGION="", **where)
    assert f"ran {root}/code/train.py" in ran.out
    assert "/eu-x/s3/" in s3.requests[-1].headers["authorization"]
    assert "[algo-1:0] folder" in train(root, "--source", f"{s3.bucket}/plain").out

    gone = train(root, "--source", f"{s3.bucket}/job/nothing.tar.gz")
    assert gone.code == 74
    assert (gone.failure or "").startswith(f"{s3.bucket}/job/nothing.tar.gz: cannot read it: NoSuchKey")


@pytest.mark.skipif(not shutil.which("unshare"), reason="a container without a network is made with unshare")
def test_a_job_without_a_network_says_so_at_once(tmp_path: Path) -> None:
    root = root_without_code(tmp_path / "ml", sagemaker_submit_directory="s3://bucket/sourcedir.tar.gz")
    began = time.monotonic()
    subprocess.run(
        ["unshare", "-rn", *TRAIN], env=environment(SAGEMAKER_BASE_DIR=str(root)), timeout=DEADLINE, check=False
    )
    said = (root / "output/failure").read_text()
    assert said.startswith("cannot fetch s3://bucket/sourcedir.tar.gz: there is no way to S3 from here.")
    assert "EnableNetworkIsolation: send the code as the channel `code`" in said
    assert time.monotonic() - began < 20


# --- what runs

MODULE = """
import os, sys
from multiprocessing import get_context
from .util import twice
if __name__ == "__main__":
    print("module", __spec__.name, os.environ["SM_MODULE_NAME"], sys.argv[0], sys.path[0] == os.getcwd(), sys.argv[-2:])
    with get_context("spawn").Pool(1) as pool: print("pool", pool.map(twice, [4]))
    def loss_fn(): raise ValueError("x")
    loss_fn()
"""


@pytest.mark.parametrize("engine", [("--engine", "spawn"), ("--engine", "fork", "--preload", "json")])
def test_a_module_runs_as_python_runs_it(tmp_path: Path, engine: tuple[str, ...]) -> None:
    root = lay_tree(tmp_path, "", hyperparameters={"sagemaker_program": '"-mpkg.mod"', "lr": "it's"})
    (root / "code/pkg").mkdir()
    (root / "code/pkg/__init__.py").touch()
    (root / "code/pkg/util.py").write_text("def twice(x): return 2 * x")
    (root / "code/pkg/mod.py").write_text(MODULE)
    ran = train(root, *engine)
    assert f"[algo-1:0] module pkg.mod pkg.mod {root}/code/pkg/mod.py True ['--lr', \"it's\"]\n" in ran.out
    assert "[algo-1:0] pool [8]\n" in ran.out
    assert ran.failure is not None
    assert ran.failure.startswith("ValueError: x\nrank 0 on algo-1, pkg/mod.py:8 in loss_fn, exit code 1\n"), ran.out
    assert "importlib" not in ran.failure


def test_a_command_runs_once_and_its_hyperparameters_are_arguments_and_never_part_of_it(tmp_path: Path) -> None:
    hostile = f"$(touch {tmp_path}/executed); touch {tmp_path}/executed"
    root = root_without_code(tmp_path / "ml", note=hostile)
    (root / "code").mkdir()
    heeds = "import os, signal, sys; signal.signal(15, lambda *_: (print('told', flush=True), sys.exit(7)))"
    line = f"""for word in "$@"; do echo "got $word"; done; trap : TERM; export UP=$PPID
    {sys.executable} -c "{heeds}; os.kill(int(os.environ['UP']), 15); signal.pause()"; exit $?"""
    began = time.monotonic()
    ran = train(root, "--command", line, TRAINING_JOB_NAME="j")
    assert f"[algo-1:0] got --note\n[algo-1:0] got {hostile}\n" in ran.out
    assert not (tmp_path / "executed").exists()
    assert "[algo-1:0] told\n" in ran.out, "what a waiting shell runs hears the signal, too"
    assert ran.code == 7
    assert time.monotonic() - began < 50


def test_the_toolkits_module_form_runs_a_package_that_is_installed_for_the_job(tmp_path: Path, links: Path) -> None:
    root = root_without_code(tmp_path / "ml", sagemaker_program='"mypkg"')
    source = root / "code/src/mypkg"
    source.mkdir(parents=True)
    (root / "code/setup.py").write_text(
        "from setuptools import setup\nsetup(name='mypkg', version='1', packages=['mypkg'], package_dir={'': 'src'}, "
        "install_requires=['tiny'], entry_points={'console_scripts': ['mytool=mypkg.tool:main']})"
    )
    (source / "__init__.py").touch()
    (source / "__main__.py").write_text(
        "import subprocess, tiny\nsubprocess.run(['mytool'])\nraise KeyError(tiny.VERSION)"
    )
    (source / "tool.py").write_text("import tiny\ndef main(): print('tool', tiny.VERSION)")
    before = sorted(path for path in root.rglob("*") if "code" in path.parts)
    ran = train(root, **offline(links, tmp_path / "cache"))
    assert "installed mypkg 1, tiny 2.0, tinydep 1.0 in " in ran.out
    assert "[algo-1:0] tool 2.0\n" in ran.out
    assert (ran.failure or "").startswith("KeyError: '2.0'"), ran.out
    assert sorted(path for path in root.rglob("*") if "code" in path.parts) == before


# --- what it requires

USES = "import typing, tiny, tinydep, numpy, sys; print('tiny', tiny.VERSION, 'numpy', numpy.__version__, sys.prefix)"


def test_requirements_are_installed_once_for_all_ranks_and_found_again(tmp_path: Path, links: Path) -> None:
    root = lay_tree(tmp_path / "ml", USES)
    wheel(links, "typing", "3.7", body="raise SystemExit('Python 2 is gone')")
    (root / "code/requirements.txt").write_text("tiny  # and what it needs\ntyping  # as old lists have it\n")
    flags = ("--procs", "2", "--engine", "fork", "--preload", "tiny")
    first = train(root, *flags, **offline(links, tmp_path / "cache"))
    assert first.code == 0, first.out
    assert "[algo-1] installed tiny 2.0, tinydep 1.0, typing 3.7 in " in first.out
    import numpy

    for rank in (0, 1):
        assert f"[algo-1:{rank}] tiny 2.0 numpy {numpy.__version__} " in first.out
    again = train(root, *flags, **offline(tmp_path / "nowhere", tmp_path / "cache"))
    assert again.code == 0
    assert "install" not in again.out
    without = train(root, "--requirements", "", **offline(links, tmp_path / "cache"))
    assert "ModuleNotFoundError: No module named 'tiny'" in without.out


@contextmanager
def deaf_index() -> Iterator[tuple[str, socket.socket]]:
    """An index that takes connections, and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://user:s3cr3t-t0ken@127.0.0.1:{listener.getsockname()[1]}/simple", listener


def test_a_stop_while_pip_waits_for_its_index_ends_the_job_and_the_index_token_is_shown_nowhere(tmp_path: Path) -> None:
    root = lay_tree(tmp_path / "ml", "")
    (root / "code/requirements.txt").write_text("tiny\n")
    with deaf_index() as (index, listener):
        environ = {**offline(tmp_path, tmp_path / "cache"), "PIP_INDEX_URL": index}
        del environ["PIP_NO_INDEX"]
        given = environment(SAGEMAKER_BASE_DIR=str(root), TRAINING_JOB_NAME="j", PIP_RETRIES="5", **environ)
        job = subprocess.Popen(TRAIN, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        asked, connection = b"", None
        while not asked:  # the first connection only looks whether somebody is there
            if connection:
                connection.close()
            connection, _ = listener.accept()
            asked = connection.recv(1000)
        assert asked.startswith(b"GET /simple/tiny/")
        visible = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "s3cr3t" not in visible
        began = time.monotonic()
        job.send_signal(signal.SIGTERM)
        said, _ = job.communicate(timeout=DEADLINE)
        connection.close()
    assert job.returncode == 0
    assert time.monotonic() - began < 20
    assert "s3cr3t" not in said
    assert processes_mentioning(str(root)) == []
    assert [path.name for path in (tmp_path / "cache/trainkit/requirements").iterdir() if path.is_dir()] == []


BUILD = """
import os, subprocess, tempfile, time
subprocess.Popen(["sleep", "1117"], start_new_session=True)
tempfile.mkdtemp(prefix="of-the-build-")
open(os.environ["MARK"], "w").close()
time.sleep(1118)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_build_has_started_and_written_ends_with_the_job(tmp_path: Path, number: signal.Signals) -> None:
    root = lay_tree(tmp_path / "ml", "")
    (root / "code/setup.py").write_text(BUILD)
    mark, temporary = tmp_path / "mark", tmp_path / "tmp"
    temporary.mkdir()
    given = environment(
        SAGEMAKER_BASE_DIR=str(root), TRAINKIT_RUN_DIR=str(root), MARK=str(mark), TMPDIR=str(temporary),
        **offline(tmp_path, tmp_path / "cache"),
    )  # fmt: skip
    job = subprocess.Popen(TRAIN, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + DEADLINE
    while not mark.exists() and job.poll() is None and time.monotonic() < deadline:
        os.sched_yield()
    job.send_signal(number)
    job.communicate(timeout=DEADLINE)  # whoever has its output open is waited for
    while left := processes_mentioning(str(mark)):
        assert time.monotonic() < deadline, left
    assert list(temporary.iterdir()) == []


# --- on several hosts


@pytest.mark.parametrize("who", ["algo-1", "algo-2"])
def test_a_host_whose_code_cannot_be_made_ready_ends_the_job_on_all_that_come_later_too(
    tmp_path: Path, who: str
) -> None:
    hosts = ("algo-1", "algo-2")
    sent = tarball(tmp_path / "code.tgz", {"train.py": "print('ran')"})
    addresses = json.dumps({name: f"127.77.1.{number}" for number, name in enumerate(hosts, 2)})

    def start(name: str) -> subprocess.Popen[str]:
        root = lay_tree(tmp_path / name, "", hosts=hosts, current=name)
        given = environment(
            SAGEMAKER_BASE_DIR=str(root), TRAINKIT_HOST_ADDRESSES=addresses, TRAINING_JOB_NAME="j",
            TRAINKIT_PORT=str(20000 + os.getpid() % 10000), TRAINKIT_RUN_DIR=str(root),
            TRAINKIT_SOURCE=str(sent if name != who else tmp_path / "gone.tgz"),
        )  # fmt: skip
        return subprocess.Popen(TRAIN, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    failing = start(who)
    deadline = time.monotonic() + DEADLINE
    while not list((tmp_path / who).glob("trainkit-*/code.answer.json")) and time.monotonic() < deadline:
        os.sched_yield()
    other = start("algo-2" if who == "algo-1" else "algo-1")
    said = [job.communicate(timeout=DEADLINE)[0] for job in (failing, other)]
    assert [failing.returncode, other.returncode] == [73, 73], said
    for name in hosts:
        assert (tmp_path / name / "output/failure").read_text().startswith(f"there is no archive {tmp_path}/gone.tgz")
    assert ":0] ran" not in "".join(said)
