"""`train` on one host, for real: what the script gets, and what is left when it ends."""

from __future__ import annotations

import json
import os
import random
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import DEADLINE, TRAIN, environment, lay_tree, processes_mentioning, train

FORKED = ("--engine", "fork", "--preload", "json")
"""The fork engine without the seconds that torch takes to import."""

ENGINES = [pytest.param(("--engine", "spawn"), id="spawn"), pytest.param(FORKED, id="fork")]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("ending", "code", "first_line"),
    [
        ("sys.exit(42)", 42, "exit code 42"),
        ("sys.exit('no data')", 1, "no data"),
        ("raise ValueError('x')", 1, "ValueError: x"),
        ("raise Mine('y')", 1, "Mine: y"),
        ("os.kill(os.getpid(), 9)", 137, "killed by SIGKILL (signal 9): rank 1 on algo-1, exit code 137"),
        ("os._exit(3)", 3, "exit code 3: rank 1 on algo-1"),
        ("exec('1 +')", 1, "SyntaxError: invalid syntax"),
    ],
)
def test_the_end_of_a_rank_is_the_end_of_the_job(
    tmp_path: Path, engine: tuple[str, ...], ending: str, code: int, first_line: str
) -> None:
    script = f"""
import os, sys, time
class Mine(Exception): pass
def loss_fn():
    {ending}
if os.environ["RANK"] == "1":
    print("ValueError: only a line of the log")
    loss_fn()
time.sleep({DEADLINE})
"""
    ran = train(lay_tree(tmp_path, script), "--procs", "2", *engine)
    assert ran.failure is not None, ran.out
    cause, *rest = ran.failure.splitlines()
    assert (ran.code, cause) == (code, first_line)
    assert "rank 1 on algo-1" in ran.failure
    if "rank 1" not in cause and ending != "exec('1 +')":
        assert rest[0] == f"rank 1 on algo-1, train.py:5 in loss_fn, exit code {code}"
    assert len(ran.failure) <= 900
    assert not (tmp_path / "output/success").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_thousand_hostile_hyperparameters_arrive_unchanged_and_none_is_executed(
    tmp_path: Path, engine: tuple[str, ...]
) -> None:
    canary = tmp_path / "executed"
    chosen = random.Random(7)
    nasty = [
        *(f"$(touch {canary})", f"`touch {canary}`", f"x; touch {canary}; true", f"x'; touch {canary}; '"),
        *(f"\n touch {canary}\n", "it's", '"', "\\", "${HOME}", "*", "~", "!!", "=", "a=b", "%s%n", '{"a": [1, 2]}'),
        *("12345e6", "007", "1e999", "NaN", "null", "true", "True", " lead", "", "-", "--", "--lr", "x" * 2500),
        *("ü☃𝄞\u202e", "a\tb", "\x1b[31m", "\x7f"),
    ]
    alphabet = string.printable + "äß☃"
    texts = {f"plain-{n}.{n}": value for n, value in enumerate(nasty)}
    while len(texts) < 1000:
        name = "".join(chosen.choices(string.ascii_letters + string.digits + "-._ '\"$;=", k=12)) + str(len(texts))
        texts[name] = "".join(chosen.choices(alphabet, k=chosen.randint(0, 40))) + chosen.choice(nasty)
    script = """
import json, os, sys
with open(os.environ["SM_OUTPUT_DATA_DIR"] + "/seen.json", "w") as out:
    json.dump({"argv": sys.argv[1:], "environ": dict(os.environ)}, out)
"""
    ran = train(lay_tree(tmp_path / "ml", script, hyperparameters=texts), *engine)
    assert ran.code == 0, ran.out
    seen = json.loads((tmp_path / "ml/output/data/seen.json").read_text())
    assert seen["argv"] == [part for name, text in texts.items() for part in (f"--{name}", text)]
    exported = {name: text for name, text in texts.items() if "=" not in name}
    upper = {f"SM_HP_{name.upper()}": text for name, text in reversed(exported.items())}
    assert {name: seen["environ"].get(name) for name in upper} == upper
    assert not canary.exists()


def test_names_with_dashes_and_dots_arrive_exactly_and_under_an_alias(tmp_path: Path) -> None:
    script = """
import os
for name in ("SM_CHANNEL_TRAIN-DATA", "SM_CHANNEL_TRAIN_DATA", "SM_HP_MODEL.LR", "SM_HP_MODEL_LR"):
    print(name, "is", os.environ[name])
"""
    root = lay_tree(tmp_path, script, hyperparameters={"model.lr": "1e-3"})
    (root / "input/config/inputdataconfig.json").write_text('{"train-data": {"TrainingInputMode": "File"}}')
    ran = train(root)
    assert f"SM_CHANNEL_TRAIN-DATA is {root}/input/data/train-data" in ran.out
    assert f"SM_CHANNEL_TRAIN_DATA is {root}/input/data/train-data" in ran.out
    assert ran.out.count("is 1e-3") == 2


def test_a_failure_file_that_the_script_wrote_is_kept(tmp_path: Path) -> None:
    script = """
import os
with open(os.environ["SM_OUTPUT_FAILURE"], "w") as out: out.write("my own words")
raise ValueError("x")
"""
    ran = train(lay_tree(tmp_path, script))
    assert (ran.code, ran.failure) == (1, "my own words")


def test_a_script_that_succeeds_leaves_success_and_no_failure(tmp_path: Path) -> None:
    ran = train(lay_tree(tmp_path, "print('fine')"))
    assert (ran.code, ran.failure) == (0, None)
    assert (tmp_path / "output/success").exists()
    assert "[algo-1:0] fine\n" in ran.out


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rank_runs_its_script_as_python_would(tmp_path: Path, engine: tuple[str, ...]) -> None:
    script = """
import atexit, multiprocessing, os, pickle, sys, threading, time
import helper

class Thing: pass

def square(x): return x * x

if __name__ == "__main__":
    atexit.register(print, "atexit ran")
    main = sys.modules["__main__"].__file__
    print("main is", main == __file__ == sys.argv[0], helper.VALUE, os.getcwd() == os.path.dirname(__file__))
    print("pickled", isinstance(pickle.loads(pickle.dumps(Thing())), Thing))
    with multiprocessing.get_context("spawn").Pool(1) as pool: print("pool", pool.map(square, [3]))
    print("stdin", repr(sys.stdin.read()))
    for n in range(50): print(n, file=(sys.stdout, sys.stderr)[n % 2])
    threading.Thread(target=lambda: (time.sleep(.2), print("thread ended"))).start()
"""
    root = lay_tree(tmp_path, script)
    (root / "code/helper.py").write_text("VALUE = 7")
    ran = train(root, *engine)
    assert ran.code == 0, ran.out
    lines = [line.removeprefix("[algo-1:0] ") for line in ran.out.splitlines() if line.startswith("[algo-1:0] ")]
    told = ["main is True 7 True", "pickled True", "pool [9]", "stdin ''"]
    assert lines == [*told, *map(str, range(50)), "thread ended", "atexit ran"]


def test_forked_ranks_draw_different_numbers_and_run_in_order(tmp_path: Path) -> None:
    script = "import os, random, numpy\nprint('drew', numpy.random.randint(1 << 62), random.random())"
    ran = train(lay_tree(tmp_path, script), "--procs", "3", "--engine", "fork", "--preload", "numpy,random")
    drawn = [line.split("drew ")[1] for line in ran.out.splitlines() if "drew" in line]
    assert len(set(drawn)) == 3, ran.out


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()", "started 1 threads"),
        ("raise OSError('no licence')", "importing risky failed: OSError: no licence"),
        ("import os; os._exit(1)", "the template process ended early"),
    ],
)
def test_where_a_fork_would_be_broken_ranks_are_spawned_and_the_reason_is_said(
    tmp_path: Path, module: str, why: str
) -> None:
    root = lay_tree(tmp_path, "import os; print('rank', os.environ['RANK'], 'ran')")
    (root / "code/risky.py").write_text(module)
    ran = train(root, "--procs", "2", "--engine", "fork", "--preload", "risky", PYTHONPATH=str(root / "code"))
    assert "ranks are spawned, not forked: " in ran.out
    assert why in ran.out
    assert "rank 0 ran" in ran.out
    assert "rank 1 ran" in ran.out
    assert ran.code == 0


def test_shell_scripts_run_with_their_arguments_and_environment(tmp_path: Path) -> None:
    root = lay_tree(tmp_path, 'echo "$1 is $2, rank $RANK"; exit 5', hyperparameters={"a b": "it's"}, name="run.sh")
    ran = train(root, "--script", "run.sh")
    assert "[algo-1:0] --a b is it's, rank 0\n" in ran.out
    assert ran.code == 5
    assert ran.failure == "exit code 5: rank 0 on algo-1\n\n--a b is it's, rank 0"


def test_a_program_that_cannot_be_executed_is_told_with_the_remedy(tmp_path: Path) -> None:
    ran = train(lay_tree(tmp_path, "no program", name="tool"), "--script", "tool")
    assert ran.code == 66
    assert "Permission denied" in (ran.failure or "")
    assert "chmod +x" in (ran.failure or "")


def test_a_missing_script_is_told_before_anything_starts(tmp_path: Path) -> None:
    ran = train(lay_tree(tmp_path, "", name="main.py"))
    assert ran.code == 66
    assert (ran.failure or "").startswith(f"there is no script {tmp_path}/code/train.py")


def test_all_mistakes_of_the_config_are_told_at_once(tmp_path: Path) -> None:
    root = lay_tree(tmp_path, "print('must not run')", hyperparameters={"trainkit_pocs": "2"})
    (root / "input/config/inputdataconfig.json").write_text("{")
    ran = train(root, TRAINKIT_ENGINE="fast")
    assert ran.code == 78
    for part in ("trainkit_procs", "inputdataconfig.json", "TRAINKIT_ENGINE is 'fast'"):
        assert part in (ran.failure or "")
    assert "must not run" not in ran.out


def test_a_relative_root_works_too(tmp_path: Path) -> None:
    lay_tree(tmp_path / "base", "import os; print('model goes to', os.environ['SM_MODEL_DIR'])")
    argv = [*TRAIN, "--procs", "2"]
    done = subprocess.run(
        argv, env=environment(SAGEMAKER_BASE_DIR="base"), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.count(f"model goes to {tmp_path}/base/model") == 2, done.stdout
    assert done.returncode == 0


def test_a_root_with_nothing_in_it_says_what_to_do(tmp_path: Path) -> None:
    ran = train(tmp_path)
    assert ran.code == 78
    assert "trainkit local" in (ran.failure or "")


def test_an_unknown_flag_is_refused_with_the_list(tmp_path: Path) -> None:
    ran = train(lay_tree(tmp_path, ""), "--pocs", "2")
    assert ran.code == 64
    assert "--procs" in ran.out


@pytest.mark.parametrize("engine", ENGINES)
def test_what_a_rank_leaves_running_ends_with_the_job(tmp_path: Path, engine: tuple[str, ...]) -> None:
    script = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600"])
"""
    ran = train(lay_tree(tmp_path, script), *engine)
    assert ran.code == 0
    assert processes_mentioning(str(tmp_path)) == []


STOPPING = """
import os, signal, sys, time
how = sys.argv[2]
def leave(number, frame):
    print("saved", flush=True)
    sys.exit(int(how))
if how.isdigit(): signal.signal(signal.SIGTERM, leave)
if how == "ignore": signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: time.sleep(1)
"""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("how", "environ", "code"),
    [
        ("default", {"TRAINING_JOB_NAME": "j"}, 0),
        ("default", {}, 143),
        ("0", {"TRAINING_JOB_NAME": "j"}, 0),
        ("7", {"TRAINING_JOB_NAME": "j"}, 7),
        ("ignore", {"TRAINING_JOB_NAME": "j", "TRAINKIT_STOP_GRACE": "0.5"}, 137),
    ],
)
def test_sigterm_reaches_the_ranks(
    tmp_path: Path, engine: tuple[str, ...], how: str, environ: dict[str, str], code: int
) -> None:
    root = lay_tree(tmp_path, STOPPING, hyperparameters={"how": how})
    with subprocess.Popen(
        [*TRAIN, "--procs", "2", *engine], env=environment(SAGEMAKER_BASE_DIR=str(root), **environ),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as running:  # fmt: skip
        assert running.stdout
        lines = iter(running.stdout.readline, "")
        waiting = {"[algo-1:0] ready\n", "[algo-1:1] ready\n"}
        while waiting:
            waiting.discard(next(lines))
        running.send_signal(signal.SIGTERM)
        out = "".join(lines)
        assert running.wait(DEADLINE) == code
    assert out.count("] saved") == (2 if how.isdigit() else 0)
    failure = root / "output/failure"
    assert failure.exists() == (how == "ignore")
    if how == "ignore":
        assert failure.read_text().startswith("did not stop within 0.5 s after SIGTERM: killed rank ")
    assert processes_mentioning(str(tmp_path)) == []


@pytest.mark.parametrize("engine", ENGINES)
def test_the_script_is_compiled_as_its_own_text_says(tmp_path: Path, engine: tuple[str, ...]) -> None:
    ran = train(lay_tree(tmp_path, "def f(x: int): pass\nprint('annotated', f.__annotations__)"), *engine)
    assert "annotated {'x': <class 'int'>}" in ran.out


@pytest.mark.parametrize("engine", ENGINES)
def test_files_beside_the_script_do_not_stand_in_for_ours(tmp_path: Path, engine: tuple[str, ...]) -> None:
    root = lay_tree(tmp_path, "import output, json, trainkit\nprint(output.MINE)\nraise ValueError('x')")
    for name in ("output", "json", "trainkit", "traceback", "socket", "selectors"):
        (root / f"code/{name}.py").write_text("MINE = 'the script\\'s own'")
    ran = train(root, *engine)
    assert "[algo-1:0] the script's own" in ran.out, ran.out
    assert (ran.failure or "").splitlines()[0] == "ValueError: x"


@pytest.mark.parametrize(
    ("ending", "cause"),
    [
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E: <exception str() failed>"),
        ("sys.stdout.close()\nraise ValueError('x')", "ValueError: x"),
        ("sys.excepthook = None\nraise ValueError('x')", "ValueError: x"),
    ],
)
def test_a_cause_survives_the_scripts_worst_manners(tmp_path: Path, ending: str, cause: str) -> None:
    ran = train(lay_tree(tmp_path, f"import sys\n{ending}"))
    assert (ran.code, (ran.failure or "").splitlines()[0]) == (1, cause), ran.out
    assert "rank.py" not in (ran.failure or "")


@pytest.mark.parametrize("session", [False, True])
def test_a_child_that_writes_for_ever_holds_nobody_up(tmp_path: Path, session: bool) -> None:
    root = lay_tree(
        tmp_path, f"import subprocess; subprocess.Popen(['yes'], start_new_session={session}); print('done')"
    )
    ran = train(root)
    assert ran.code == 0
    assert processes_mentioning(str(tmp_path)) == []


def test_a_rank_that_raised_and_was_slow_to_leave_is_blamed_before_its_quick_neighbour(tmp_path: Path) -> None:
    script = """
import os, threading, time
recorded = os.environ["SM_OUTPUT_DATA_DIR"] + "/recorded"
def linger():
    threading.main_thread().join()  # by then the error has its record
    open(recorded, "w").close()
    time.sleep(60)
if os.environ["RANK"] == "0":
    threading.Thread(target=linger).start()
    raise ValueError("the real cause")
while not os.path.exists(recorded): time.sleep(0.01)
raise ConnectionResetError("peer closed")
"""
    ran = train(lay_tree(tmp_path, script), "--procs", "2")
    assert (ran.code, (ran.failure or "").splitlines()[0]) == (1, "ValueError: the real cause")


def test_what_an_earlier_run_left_is_not_this_ones_failure(tmp_path: Path) -> None:
    root = lay_tree(tmp_path, "import os, sys; sys.exit(int(os.environ['CODE']))")
    assert train(root, CODE="7").failure is not None
    again = train(root, CODE="0")
    assert (again.code, again.failure) == (0, None)
    assert (root / "output/failure.previous").read_text().startswith("exit code 7")
    third = train(root, CODE="8")
    assert (third.failure or "").startswith("exit code 8")
    assert not (root / "output/success").exists()


def test_what_a_killed_rank_left_half_written_is_no_part_of_the_model(tmp_path: Path) -> None:
    script = """
import os
from pathlib import Path
model = Path(os.environ["SM_MODEL_DIR"])
(model / ".trainkit-model.part").mkdir()
(model / ".trainkit-model.part/half").touch()
(model / "whole").touch()
os.kill(os.getpid(), 9)
"""
    ran = train(lay_tree(tmp_path, script))
    assert ran.code == 137
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole"]


def test_a_log_that_nobody_reads_does_not_make_it_deaf(tmp_path: Path) -> None:
    root = lay_tree(tmp_path, "print('ready', flush=True)\nwhile True: print('x' * 1000)")
    argv = [*TRAIN, "--procs", "2", "--stop-grace", "1"]
    with subprocess.Popen(argv, env=environment(SAGEMAKER_BASE_DIR=str(root)), stdout=subprocess.PIPE) as running:
        assert running.stdout
        running.stdout.readline()
        time.sleep(0.5)  # until the pipe is full there is nothing to be seen
        running.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + DEADLINE
        while len(processes_mentioning(str(tmp_path))) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        running.stdout.read()
        assert running.wait(DEADLINE) == 143


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    root = lay_tree(tmp_path, "import signal, time; print('ready', flush=True); time.sleep(1); print('went on')")
    with subprocess.Popen(
        ["sh", "-c", 'trap "" HUP; exec "$0" "$@"', *TRAIN], env=environment(SAGEMAKER_BASE_DIR=str(root)),
        stdout=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        assert running.stdout
        while "ready" not in running.stdout.readline():
            pass
        running.send_signal(signal.SIGHUP)
        assert "went on" in running.stdout.read()
        assert running.wait(DEADLINE) == 0


def test_a_signal_that_came_while_nobody_listened_is_heard_once_someone_does(tmp_path: Path) -> None:
    root = lay_tree(tmp_path, "import time; time.sleep(600)")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        running = subprocess.Popen([*TRAIN], env=environment(SAGEMAKER_BASE_DIR=str(root)), stdout=subprocess.PIPE)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=DEADLINE)
    assert running.returncode == 143
    assert processes_mentioning(str(tmp_path)) == []


def test_killing_the_supervisor_ends_its_ranks(tmp_path: Path) -> None:
    root = lay_tree(tmp_path, STOPPING, hyperparameters={"how": "ignore"})
    for engine in (("--engine", "spawn"), FORKED):
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        environ = environment(SAGEMAKER_BASE_DIR=str(root), TRAINKIT_RUN_DIR=str(scratch))
        with subprocess.Popen([*TRAIN, "--procs", "2", *engine], env=environ, stdout=subprocess.PIPE) as running:
            assert running.stdout
            ready = 0
            while ready < 2:
                ready += b"ready" in running.stdout.readline()
            running.kill()
        deadline = time.monotonic() + DEADLINE
        while left := processes_mentioning(str(tmp_path)):
            assert time.monotonic() < deadline, left
            time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="PID namespaces are Linux's")
def test_as_pid_1_it_hears_sigterm_and_reaps_orphans(tmp_path: Path) -> None:
    script = """
import os, signal, subprocess, sys, time
for _ in range(20):  # grandchildren whose parent is gone: PID 1's to reap
    subprocess.run(["sh", "-c", "sleep 0.01 &"])
def state(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""  # reaped in between
def zombies():
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and state(pid) == "Z"]
while zombies(): time.sleep(0.01)
print("parent is", os.getppid(), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
print("ready", flush=True)
signal.pause()
"""
    root = lay_tree(tmp_path, script)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    argv = ["unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *TRAIN]
    probe = subprocess.run([*argv[:-3], "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("no namespaces here: " + probe.stderr.decode())
    with subprocess.Popen(
        argv, env=environment(SAGEMAKER_BASE_DIR=str(root)), stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        out = ""
        while "ready" not in out:
            line = running.stdout.readline()
            assert line, out
            out += line
        (pid,) = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        os.kill(int(pid), signal.SIGTERM)
        running.stdout.read()
        assert running.wait(DEADLINE) == 9
    assert "parent is 1\n" in out


def test_the_kernels_out_of_memory_killer_is_told_from_other_killers(tmp_path: Path) -> None:
    memory = Path("/sys/fs/cgroup/memory")
    if not (memory / "memory.limit_in_bytes").exists() or not os.access(memory, os.W_OK):
        pytest.skip("making a control group takes root, and version 1 of them here")
    group = memory / f"trainkit-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text("200M")
        root = lay_tree(
            tmp_path, "import os, time\nif os.environ['RANK'] == '1': x = b'x' * 400_000_000\ntime.sleep(600)"
        )
        join = f'echo $$ > {group}/cgroup.procs; exec "$0" "$@"'
        done = subprocess.run(
            ["sh", "-c", join, *TRAIN, "--procs", "2"], env=environment(SAGEMAKER_BASE_DIR=str(root)),
            capture_output=True, text=True, timeout=DEADLINE, check=False,
        )  # fmt: skip
        assert done.returncode == 137, done.stdout
        failure = (root / "output/failure").read_text().splitlines()
        assert failure[0] == "out of memory: the kernel killed rank 1 on algo-1, exit code 137"
        assert "fewer workers" in failure[1]
    finally:
        group.rmdir()
