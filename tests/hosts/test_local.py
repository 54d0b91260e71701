"""`trainkit local`: hosts in all three isolations, and the service's side of the contract."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, TRAINKIT, environment, limited, local, processes_mentioning

from trainkit.errors import IsolationUnavailable
from trainkit.local import isolation

KINDS = ("namespace", "network", "process")


def available(kind: str) -> Any:
    try:
        isolation.choose(kind)[0].close()
    except IsolationUnavailable as reason:
        return pytest.param(kind, marks=pytest.mark.skip(reason=str(reason)))
    return kind


isolations = pytest.mark.parametrize("kind", [available(kind) for kind in KINDS])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder as people have them: code, data and rubbish side by side."""
    folder = tmp_path / "project"
    (folder / "data/deep").mkdir(parents=True)
    (folder / "data/a.txt").write_text("A")
    (folder / "data/deep/b.txt").write_text("B")
    (folder / ".git").mkdir()
    (folder / ".git/config").touch()
    (folder / "venv").mkdir()
    (folder / "venv/pyvenv.cfg").touch()
    (folder / "helper.py").write_text("VALUE = 7")
    return folder


def script(project: Path, text: str) -> Path:
    path = project / "train.py"
    path.write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


LOOK_AROUND = """
import json, os, socket, sys
from pathlib import Path
import helper
host, rank = os.environ["SM_CURRENT_HOST"], os.environ["RANK"]
train = Path(os.environ["SM_CHANNEL_TRAIN"])
seen = {
    "rank": int(rank), "world": int(os.environ["WORLD_SIZE"]), "argv": sys.argv[1:], "node": socket.gethostname(),
    "files": sorted(str(p.relative_to(train)) for p in train.rglob("*") if p.is_file()),
    "code": sorted(os.listdir(os.path.dirname(__file__))),
    "model_dir": os.environ["SM_MODEL_DIR"], "master": socket.gethostbyname(os.environ["MASTER_ADDR"]),
    "interfaces": [name for _, name in socket.if_nameindex()], "pids": sum(p.isdigit() for p in os.listdir("/proc")),
    "resource": json.loads(os.environ["SM_RESOURCE_CONFIG"]), "job": os.environ["TRAINING_JOB_NAME"],
    "opt": sorted(os.listdir("/opt")),
}
(train / f"scribble-{rank}").touch()
Path(os.environ["SM_OUTPUT_DATA_DIR"], f"{rank}.json").write_text(json.dumps(seen))
if rank == "0": Path(os.environ["SM_MODEL_DIR"], "model.bin").write_text("M")
Path(os.environ["SAGEMAKER_BASE_DIR"], "checkpoints", f"step-{rank}").touch()
print(f"trainkit.metric step={rank} loss=0.{rank}")
"""


@isolations
def test_two_hosts_with_two_ranks_each_find_everything_in_its_place(tmp_path: Path, project: Path, kind: str) -> None:
    ran = local(
        script(project, LOOK_AROUND), "--hosts", "2", "--procs", "2", "--channel", f"train={project / 'data'}",
        "--hp", "lr=0.1", "--hp", "name=it's $(id)", "--isolation", kind, output=tmp_path / "out",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    with tarfile.open(ran.root / "output.tar.gz") as tar:
        seen = {int(m.name[0]): json.load(tar.extractfile(m)) for m in tar.getmembers()}  # type: ignore[arg-type]
    assert sorted(seen) == [0, 1, 2, 3]
    for rank, facts in seen.items():
        assert (facts["rank"], facts["world"]) == (rank, 4)
        assert facts["argv"] == ["--lr", "0.1", "--name", "it's $(id)"]
        assert [name for name in facts["files"] if "scribble" not in name] == ["a.txt", "deep/b.txt"]
        assert facts["code"] == ["helper.py", "train.py"]
        assert facts["resource"]["hosts"] == ["algo-1", "algo-2"]
        assert facts["job"] == ran.described["TrainingJobName"]
        assert facts["opt"] == sorted({*names(Path("/opt")), *(["ml"] if kind != "process" else [])})
        if kind != "process":
            assert facts["node"] == f"algo-{rank // 2 + 1}"
            assert facts["model_dir"] == "/opt/ml/model"
            assert facts["pids"] < 12
        if kind == "network":
            assert sorted(facts["interfaces"]) == ["eth0", "lo"]
    assert len({facts["master"] for facts in seen.values()}) == 1
    with tarfile.open(ran.root / "model.tar.gz") as tar:
        assert tar.getnames() == ["model.bin"]
    assert names(ran.root / "checkpoints") == ["step-0", "step-1", "step-2", "step-3"]
    assert names(project / "data") == ["a.txt", "deep"]
    described = ran.described
    assert (described["TrainingJobStatus"], described["SecondaryStatus"]) == ("Completed", "Completed")
    assert [t["Status"] for t in described["SecondaryStatusTransitions"]] == [
        "Starting", "Downloading", "Training", "Uploading", "Completed",
    ]  # fmt: skip
    assert {m["MetricName"] for m in described["FinalMetricDataList"]} == {"step", "loss"}
    assert "[algo-2:3] trainkit.metric step=3" in (ran.root / "logs/algo-2.log").read_text()
    assert "metrics  " in ran.out
    assert "model    " in ran.out
    assert processes_mentioning(str(tmp_path)) == []
    assert not (ran.root / "hosts/algo-1/run").exists()


@isolations
def test_a_failure_is_the_jobs_with_its_cause_and_code(tmp_path: Path, project: Path, kind: str) -> None:
    failing = script(project, "import os, time\nif os.environ['RANK'] == '1': raise ValueError('x' * 2000)\n")
    ran = local(failing, "--hosts", "2", "--isolation", kind, output=tmp_path / "out")
    assert ran.code == 1
    assert (ran.failure or "").startswith("ValueError: xxx")
    reason = ran.described["FailureReason"]
    assert reason.startswith("AlgorithmError: ValueError: xxx")
    assert reason.endswith(", exit code: 1")
    assert len(reason) <= 1024
    assert ran.described["TrainingJobStatus"] == "Failed"
    assert "cause    ValueError: xxx" in ran.out


@isolations
@pytest.mark.parametrize("flag", ["--stop-after", "--max-runtime"])
def test_a_stop_is_sigterm_and_no_failure(tmp_path: Path, project: Path, kind: str, flag: str) -> None:
    patient = script(
        project,
        "import os, signal, sys, time\n"
        "def leave(*_):\n    open(os.environ['SM_MODEL_DIR'] + '/half.bin', 'w').write('H'); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(1)\n",
    )
    ran = limited(patient, "--isolation", kind, limit=flag, output=tmp_path / "out")
    assert ran.code == 0, ran.out
    statuses = [t["Status"] for t in ran.described["SecondaryStatusTransitions"]]
    end = "Stopped" if flag == "--stop-after" else "MaxRuntimeExceeded"
    assert statuses == ["Starting", "Downloading", "Training", "Stopping", "Uploading", end]
    assert ran.described["TrainingJobStatus"] == "Stopped"
    assert (ran.root / "model.tar.gz").exists()
    assert ran.failure is None


@isolations
def test_killing_it_leaves_nothing_behind(tmp_path: Path, project: Path, kind: str) -> None:
    forever = script(project, "import time; print('ready', flush=True)\nwhile True: time.sleep(1)")
    argv = [*TRAINKIT, "local", str(forever), "--hosts", "2", "--procs", "2", "--isolation", kind]
    with subprocess.Popen(
        [*argv, "--output", str(tmp_path / "out")], env=environment(MARK=str(tmp_path)), stdout=subprocess.PIPE
    ) as running:
        assert running.stdout
        ready = 0
        while ready < 4:
            ready += b"ready" in running.stdout.readline()
        running.kill()
    deadline = time.monotonic() + DEADLINE
    while left := processes_mentioning(str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    again = local(script(project, "print('works')"), "--isolation", kind, output=tmp_path / "out")
    assert again.code == 0, again.out


def at_a_terminal(path: Path, to_type: list[tuple[bytes, bytes]], *arguments: str, output: Path) -> tuple[int, bytes]:
    """Run a local job at a terminal of its own, and answer what it shows. Returns its exit code and all it showed."""
    argv = [*TRAINKIT, "local", str(path), "--output", str(output), *arguments]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, environment(PYTHONDONTWRITEBYTECODE="1"))
    shown = b""
    deadline = time.monotonic() + DEADLINE
    while select.select([terminal], [], [], deadline - time.monotonic())[0]:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # a terminal's way to say that all have left it
            break
        if to_type and shown.endswith(to_type[0][0]):
            os.write(terminal, to_type.pop(0)[1])
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


@isolations
def test_one_rank_keeps_the_terminal_so_that_pdb_works(tmp_path: Path, project: Path, kind: str) -> None:
    debugged = script(project, "x = 41\nbreakpoint()\nprint('x is', x)")
    to_type = [(b"(Pdb) ", b"p x + 1\n"), (b"42\r\n(Pdb) ", b"x = 7\n"), (b"x = 7\r\n(Pdb) ", b"c\n")]
    code, shown = at_a_terminal(debugged, to_type, "--isolation", kind, output=tmp_path / "out")
    assert code == 0
    assert b"x is 7" in shown
    assert b"[algo-1:0]" not in shown


def test_a_channel_from_s3_is_there_as_files(tmp_path: Path, project: Path, s3: Any) -> None:
    from trainkit.storage import files

    for key, text in {"data/a.txt": "A", "data/deep/b c.txt": "B", "data2/no.txt": "N"}.items():
        files.put_new(f"{s3.bucket}/{key}", text.encode())
    reader = script(
        project,
        "import os\nfrom pathlib import Path\nd = Path(os.environ['SM_CHANNEL_TRAIN'])\n"
        "print('found', {str(p.relative_to(d)): p.read_text() for p in sorted(d.rglob('*.txt'))})",
    )
    ran = local(reader, "--channel", f"train={s3.bucket}/data", output=tmp_path / "out", **s3.environ)
    assert "found {'a.txt': 'A', 'deep/b c.txt': 'B'}" in ran.out, ran.out
    assert ran.code == 0


def test_a_second_run_replaces_the_first_but_finds_its_checkpoints(tmp_path: Path, project: Path) -> None:
    counting = script(
        project,
        "import os\nfrom pathlib import Path\n"
        "d = Path(os.environ['SM_MODEL_DIR']).parent / 'checkpoints'\n"
        "print('there were', sorted(p.name for p in d.iterdir()))\n"
        "(d / f'step-{len(list(d.iterdir()))}').touch()\n"
        "if len(list(d.iterdir())) == 1: raise OSError('first')\n",
    )
    first = local(counting, output=tmp_path / "out")
    assert (first.code, first.failure is None) == (1, False)
    second = local(counting, output=tmp_path / "out")
    assert "there were ['step-0']" in second.out
    assert (second.code, second.failure) == (0, None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.py"], "there is no script nowhere.py"),
        (["{script}", "--channel", "train=/no/such/place"], "there is no /no/such/place"),
        (["{script}", "--channel", "train"], "write --channel NAME=PATH"),
        (["{script}", "--channel", "../../x=/tmp"], "is no channel name"),
        (["{script}", "--channel", "t="], "names no path"),
        (["{script}", "--lr", "0.1"], "is written --hp lr=0.1"),
        (["{script}", "--channel", "code=/tmp"], "the channel `code` is the script's folder"),
        (["{script}", "--hp", "a=1", "--hp", "a=2"], "--hp a is given twice"),
        (["{script}", "--hosts", "0"], "must be 1 or more"),
        (["{script}", "--stop-after", "soon"], "'soon' is no time"),
        (["{script}", "--output", "{project}"], "holds files, and no earlier job of ours"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_before_anything_starts(
    tmp_path: Path, project: Path, arguments: list[str], says: str
) -> None:
    path = script(project, "print('must not run')")
    filled = [a.format(script=path, project=project) for a in arguments]
    argv = [*TRAINKIT, "local", *([] if "--output" in filled else ["--output", str(tmp_path / "out")]), *filled]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert says in done.stderr
    assert done.returncode == 64
    assert "must not run" not in done.stdout
    assert (project / "helper.py").exists()


def test_a_plan_is_what_runs_and_starts_nothing(tmp_path: Path, project: Path) -> None:
    path = script(project, "import torch\nopen('/tmp/must-not-exist-here', 'w')")
    argv = [*TRAINKIT, "plan", str(path), "--hosts", "2", "--procs", "2", "--hp", "lr=0.1"]
    text = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=True).stdout
    assert "4 ranks (2 × 2); here ranks 2, 3" in text
    assert "engine      fork: torch, numpy are imported once" in text
    data = json.loads(subprocess.run([*argv, "--json"], env=environment(), capture_output=True, check=True).stdout)
    assert [host["host"] for host in data] == ["algo-1", "algo-2"]
    assert data[1]["ranks"][1]["environment"]["RANK"] == "3"
    assert data[0]["environment"]["SM_MODEL_DIR"] == "/opt/ml/model"
    assert not Path("/tmp/must-not-exist-here").exists()


def test_it_works_with_the_interpreter_and_the_project_under_opt(tmp_path: Path, project: Path) -> None:
    """Lay a view of this machine in which the interpreter is under /opt, and start it there."""
    if os.geteuid() != 0:
        pytest.skip("laying such a view takes root")
    path = script(project, "import sys, os; print('runs', sys.executable, os.path.isdir('/opt/ml/model'))")
    view = f"""
set -e
mount --make-rprivate /
mkdir {tmp_path}/opt {tmp_path}/opt/venv {tmp_path}/opt/project
ln -s /nowhere {tmp_path}/opt/dangling
mount --bind {sys.prefix} {tmp_path}/opt/venv
mount --bind {project} {tmp_path}/opt/project
mount --rbind {tmp_path}/opt /opt
exec /opt/venv/bin/python -m trainkit.cli.main local /opt/project/{path.name} --output /opt/project/out --hosts 2
"""
    argv = ["unshare", "--mount", "sh", "-c", view]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("runs /opt/venv/bin/python True") == 2


@isolations
def test_it_works_for_an_unprivileged_user(open_path: Path, kind: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("this whole suite runs unprivileged already")
    path = script(open_path, "import os; print('uid', os.geteuid(), os.environ['RANK'])")
    home = open_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    # The interpreter may lie in root's own home: show that part of it, and drop every privilege.
    view = f"""
set -e
mount --make-rprivate /
mount --bind {sys.base_prefix} /mnt
mount -t tmpfs -o mode=755 tmpfs /root
mkdir -p {sys.base_prefix}
mount --bind /mnt {sys.base_prefix}
cd {home}
exec setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set=-all --inh-caps=-all \
    {sys.executable} -m trainkit.cli.main local {path} --hosts 2 --isolation {kind} --output {home}/out
"""
    argv = ["unshare", "--mount", "sh", "-c", view]
    done = subprocess.run(
        argv, env=environment(HOME=str(home)), capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    uid = 65534 if kind == "process" else 0  # root of a user namespace in which nothing else is
    assert f"uid {uid} 0" in done.stdout
    assert f"uid {uid} 1" in done.stdout
    assert (home / "out/describe.json").stat().st_uid == 65534


def test_ctrl_c_stops_the_job_and_a_second_one_at_once(tmp_path: Path, project: Path) -> None:
    stubborn = script(
        project,
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\n"
        "while True: time.sleep(1)",
    )
    argv = [*TRAINKIT, "local", str(stubborn), "--hosts", "2", "--output", str(tmp_path / "out")]
    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        out = ""
        while out.count("] ready") < 2:
            out += running.stdout.readline()
        running.send_signal(signal.SIGINT)
        while "SIGTERM to every host" not in out:
            out += running.stdout.readline()
        running.send_signal(signal.SIGINT)
        running.stdout.read()
        assert running.wait(DEADLINE) == 0
    described = json.loads((tmp_path / "out/describe.json").read_text())
    assert described["TrainingJobStatus"] == "Stopped"


@isolations
def test_ctrl_c_at_a_terminal_stops_the_rank_and_the_job(tmp_path: Path, project: Path, kind: str) -> None:
    patient = script(project, "import time\nprint('ready', flush=True)\nwhile True: time.sleep(1)")
    code, shown = at_a_terminal(patient, [(b"ready\r\n", b"\x03")], "--isolation", kind, output=tmp_path / "out")
    assert code == 0, shown
    assert json.loads((tmp_path / "out/describe.json").read_text())["TrainingJobStatus"] == "Stopped"
    failing = script(project, "raise SystemExit(3)")
    code, shown = at_a_terminal(failing, [], "--isolation", kind, output=tmp_path / "out")
    assert code == 3, shown
    assert b"  failure  " in shown
    assert b"  logs  " not in shown  # there are none: all of it is on the screen


def test_ctrl_c_while_data_comes_is_one_line(tmp_path: Path, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(DEADLINE)
        place = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "AWS_REGION": "us-east-1"}
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        argv = [*TRAINKIT, "local", str(script(project, "")), "--channel", "t=s3://b/x", "--output", tmp_path / "out"]
        with subprocess.Popen(argv, env=environment(**place, **keys), stderr=subprocess.PIPE, text=True) as running:
            silent.accept()[0].close()
            silent.accept()[0].close()  # it tries again: it is in the midst of it
            running.send_signal(signal.SIGINT)
            assert running.stderr
            said = running.stderr.read()
            assert running.wait(DEADLINE) == 130
    assert said == "trainkit local: interrupted\n"


@isolations
def test_a_stop_that_comes_before_train_listens_is_not_lost(tmp_path: Path, project: Path, kind: str) -> None:
    forever = script(project, "import time\nwhile True: time.sleep(1)")
    ran = local(forever, "--hosts", "2", "--isolation", kind, "--stop-after", "0", output=tmp_path / "out", deadline=60)
    assert ran.code == 0, ran.out
    assert ran.described["SecondaryStatus"] == "Stopped"


def test_a_directory_in_use_is_not_shared(tmp_path: Path, project: Path) -> None:
    forever = script(project, "import time\nprint('ready', flush=True)\nwhile True: time.sleep(1)")
    argv = [*TRAINKIT, "local", str(forever), "--output", str(tmp_path / "out")]
    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        while "] ready" not in running.stdout.readline():
            pass
        second = local(script(project, "print('must not run')"), output=tmp_path / "out")
        running.terminate()
        running.stdout.read()
        assert running.wait(DEADLINE) == 0
    assert second.code == 64
    assert "a job is running in" in second.out
    assert second.described["SecondaryStatus"] == "Stopped"  # the first one's, undisturbed


def test_a_mistake_leaves_earlier_results_alone_and_nothing_new(tmp_path: Path, project: Path) -> None:
    saving = script(project, "import os\nopen(os.environ['SM_MODEL_DIR'] + '/m', 'w').write('M')")
    assert local(saving, "--isolation", "process", output=tmp_path / "out").code == 0
    before = (tmp_path / "out/describe.json").read_text()
    assert local(saving, "--channel", "t=./nope", output=tmp_path / "out").code == 64
    assert local(saving, "--isolation", "network", output=tmp_path / "out", PATH="/nowhere").code == 69
    assert (tmp_path / "out/describe.json").read_text() == before
    assert (tmp_path / "out/model.tar.gz").exists()
    argv = [*TRAINKIT, "local", str(saving), "--channel", "t=./nope"]
    done = subprocess.run(argv, env=environment(), cwd=project, capture_output=True, timeout=DEADLINE, check=False)
    assert done.returncode == 64
    assert not (project / "trainkit-output").exists()


def test_a_result_that_cannot_be_written_is_a_failure_that_says_so(tmp_path: Path, project: Path) -> None:
    inside_out = script(
        project,
        "import os\nopen(os.environ['SM_MODEL_DIR'] + '/m', 'w').write('M')\n"
        f"os.makedirs('{tmp_path}/out/model.tar.gz')",
    )
    ran = local(inside_out, output=tmp_path / "out")
    assert ran.code == 74, ran.out
    assert ran.described["TrainingJobStatus"] == "Failed"
    assert ran.described["FailureReason"].startswith("ClientError: Artifact upload failed: ")
    assert "Traceback" not in ran.out
    again = local(inside_out, output=tmp_path / "out")  # what it left cannot be removed as a file
    assert again.code == 74
    assert "the job cannot run: " in again.out
    assert "Traceback" not in again.out


@isolations
def test_a_host_that_dies_without_a_word_is_named_with_its_last_ones(tmp_path: Path, project: Path, kind: str) -> None:
    forever = script(project, "import time\nprint('the last word', flush=True)\nwhile True: time.sleep(1)")
    argv = [*TRAINKIT, "local", str(forever), "--isolation", kind, "--output", str(tmp_path / "out")]
    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        while "] the last word" not in running.stdout.readline():
            pass
        os.kill(train_of(running.pid), signal.SIGKILL)
        out = running.stdout.read()
        assert running.wait(DEADLINE) != 0
    how = "ended with exit code 137" if kind == "process" else "was killed or vanished"
    assert f"cause    algo-1 {how} without a word" in out
    failure = (tmp_path / "out/failure").read_text()
    assert failure.endswith("the last word")
    assert "unshare" not in failure


def train_of(service: int) -> int:
    """The process that is `train`, below the one that is `trainkit local`."""
    pids = [service]
    while pids:
        pid = pids.pop(0)
        with contextlib.suppress(OSError):  # it ended meanwhile
            if b"trainkit.cli.train" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    raise AssertionError(f"{service} has no train below it")


def test_what_a_host_cannot_see_is_refused(tmp_path: Path, project: Path) -> None:
    path = script(project, "print('must not run')")
    ran = local(path, "--isolation", "namespace", output=Path("/opt/ml/here"))
    if ran.code == IsolationUnavailable.exit_code:
        pytest.skip(ran.out)
    assert ran.code == 64, ran.out
    assert "--output is /opt/ml/here, but every host has a /opt/ml of its own" in ran.out
    assert not Path("/opt/ml/here").exists()
