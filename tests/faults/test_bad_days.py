"""The supervisor's own bad days: no room, no descriptors, no peace. It says what is wrong, ends, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness import processes_mentioning

from faults.plain import FORKED, Host, hosts, until
from trainkit.launch.course import SIBLING_GRACE

SPAWNED = {"engine": "spawn"}
ENGINES = [pytest.param(SPAWNED, id="spawn"), pytest.param(FORKED, id="fork")]


def small_disk(at: str, options: str, then: str = "true") -> tuple[str, ...]:
    """What to put before a command, so that `at` below its root is a small disk. Skips where that cannot be."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ("unshare", *user, "--mount")
    probe = subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"no disk of its own here: {probe.stderr.decode().strip()}")
    place = f'"$SAGEMAKER_BASE_DIR/{at}"'
    mount = f'mkdir -p {place} && mount -t tmpfs -o {options} none {place} && cd {place} && {then} && exec "$0" "$@"'
    return (*unshare, "sh", "-c", mount)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def no_fault_of_ours(host: Host) -> None:
    assert "Traceback" not in host.log, host.log
    assert "trainkit itself failed" not in host.log, host.log


@pytest.mark.parametrize("how", ["a file in its place", "no room"])
def test_a_failure_file_that_cannot_be_written_costs_neither_the_code_nor_the_log(tmp_path: Path, how: str) -> None:
    script = """
import os, shutil, sys
out = os.path.dirname(os.environ["SM_OUTPUT_FAILURE"])
if os.environ["HOW"] == "no room":
    with open(out + "/full", "wb", buffering=0) as full:
        try:
            while full.write(bytes(4096)): pass
        except OSError: pass
else:
    shutil.rmtree(out)
    with open(out, "w"): pass
sys.exit("the cause")
"""
    before = small_disk("output", "size=64k") if how == "no room" else ()
    with hosts(tmp_path, script, before=before, HOW=how) as (host,):
        assert host.end() == 1, host.log
    assert "[algo-1] failed, exit code 1:\n[algo-1] the cause\n" in host.log
    problem = "No space left on device" if how == "no room" else "File exists"
    assert f"cannot write into {host.root}/output: {problem}" in host.log
    no_fault_of_ours(host)


@pytest.mark.parametrize("folder", ["{root}/run", "{root}/nowhere"])
def test_a_run_folder_that_cannot_be_made_is_told_with_the_remedy(tmp_path: Path, folder: str) -> None:
    before = small_disk("run", "nr_inodes=1")
    with hosts(tmp_path, "print('must not run')", before=before, TRAINKIT_RUN_DIR=folder) as (host,):
        assert host.end() == 70, host.log
    no_fault_of_ours(host)
    problem = "No such file or directory" if "nowhere" in folder else "No space left on device"
    place = folder.format(root=host.root)
    assert (host.failure or "").startswith(f"algo-1 cannot write into {place}: {problem}. trainkit keeps"), host.log
    assert "must not run" not in host.log


@pytest.mark.parametrize("engine", ENGINES)
def test_a_full_disk_under_the_run_folder_ends_all_hosts_at_once(tmp_path: Path, engine: dict[str, str]) -> None:
    fill = (
        'if test "${SAGEMAKER_BASE_DIR%2}" != "$SAGEMAKER_BASE_DIR"; then dd if=/dev/zero of=full 2>/dev/null; true; fi'
    )
    before = small_disk("run", "size=64k", f"({fill})")
    script = "import time; time.sleep(600)"
    with hosts(tmp_path, script, number=2, before=before, settings=engine, TRAINKIT_RUN_DIR="{root}/run") as running:
        assert [host.end() for host in running] == [70, 70], [host.log for host in running]
    for host in running:
        no_fault_of_ours(host)
        assert (host.failure or "").startswith("algo-2 cannot write ")
        assert ": No space left on device. trainkit keeps" in (host.failure or "")


def test_a_disk_that_fills_up_costs_the_record_and_not_the_cause(tmp_path: Path) -> None:
    script = """
import os
with open(os.environ["TRAINKIT_RUN_DIR"] + "/full", "wb", buffering=0) as full:
    try:
        while full.write(bytes(4096)): pass
    except OSError: pass
raise ValueError("batch 17 holds no rows")
"""
    before = small_disk("run", "size=64k")
    with hosts(tmp_path, script, before=before, settings={"procs": 2}, TRAINKIT_RUN_DIR="{root}/run") as (host,):
        assert host.end() == 1, host.log
    assert "trainkit: cannot write " in host.log
    assert (host.failure or "").startswith("exit code 1: rank ")
    assert "ValueError: batch 17 holds no rows" in (host.failure or "")
    assert "trainkit itself failed" not in host.log


@pytest.mark.parametrize("most", [12, 16, 32, 64])
@pytest.mark.parametrize("engine", ENGINES)
def test_too_few_descriptors_are_told_by_their_name(tmp_path: Path, engine: dict[str, str], most: int) -> None:
    before = ("prlimit", f"--nofile={most}:{most}", "--")
    script = "import time; time.sleep(600)"
    with hosts(tmp_path, script, before=before, settings={"procs": 64, **engine}) as (host,):
        assert host.end() == 70, host.log
        assert processes_mentioning(str(tmp_path)) == []
    no_fault_of_ours(host)
    assert "Too many open files" in (host.failure or ""), host.log
    assert f"ulimit -n is {most}" in (host.failure or ""), host.log


def test_bytes_of_all_kinds_pass(tmp_path: Path) -> None:
    script = r"""
import sys
write = sys.stdout.buffer.write
write(bytes([0, 1, 255, 254, 10]))
write(b"\xed\xa0\x80 half a surrogate\n")
write(b"a\0b\n")
write(b"long" * (1 << 18) + b"\n")
write(b"end without a newline")
"""
    with hosts(tmp_path, script) as (host,):
        assert host.end() == 0
    log = (host.root / "log").read_bytes()
    for line in (b"\0\1\xff\xfe", b"\xed\xa0\x80 half a surrogate", b"a\0b", b"end without a newline"):
        assert b"[algo-1:0] " + line + b"\n" in log
    assert log.count(b"long") == 1 << 18


@pytest.mark.parametrize("engine", ENGINES)
def test_sixty_four_ranks_on_one_host_end_when_one_fails(tmp_path: Path, engine: dict[str, str]) -> None:
    script = """
import os, time
print("ready", flush=True)
if os.environ["RANK"] == "41":
    while not os.path.exists(os.environ["SM_OUTPUT_DATA_DIR"] + "/all"): time.sleep(0.01)
    raise ValueError("bad batch")
time.sleep(600)
"""
    with hosts(tmp_path, script, settings={"procs": 64, **engine}) as (host,):
        host.wait_for("] ready", times=64)
        (host.root / "output/data/all").touch()
        began = time.monotonic()
        assert host.end() == 1, host.log
        assert time.monotonic() - began < SIBLING_GRACE  # none had to be killed
        assert processes_mentioning(str(tmp_path)) == []
    assert (host.failure or "").startswith("ValueError: bad batch\nrank 41 on algo-1, ")


CROWD = """
import os, sys, time
print("ready", flush=True)
if os.environ["SM_CURRENT_HOST"] == "algo-17":
    while not os.path.exists(os.environ["SM_OUTPUT_DATA_DIR"] + "/all"): time.sleep(0.01)
    raise ValueError("bad batch")
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["a failure", "a stop"])
def test_thirty_two_hosts_end_together(tmp_path: Path, how: str) -> None:
    with hosts(tmp_path, CROWD, number=32, settings=SPAWNED) as running:
        for host in running:
            host.wait_for("] ready")
        began = time.monotonic()
        if how == "a stop":
            running[20].process.send_signal(signal.SIGTERM)
        else:
            (running[16].root / "output/data/all").touch()
        codes = {host.end() for host in running}
        assert time.monotonic() - began < 60
        assert processes_mentioning(str(tmp_path)) == []
    causes = {(host.failure or "").partition("\n")[0] for host in running}
    assert (codes, causes) == (({0}, {""}) if how == "a stop" else ({1}, {"ValueError: bad batch"}))


def test_a_storm_of_orphans_is_reaped_and_their_rank_is_heard(tmp_path: Path) -> None:
    script = """
import os, subprocess, sys, time
sh = "i=0; while [ $i -lt 2000 ]; do (: &) ; i=$((i+1)); done"
subprocess.run(["sh", "-c", sh], check=True)
daemons = "i=0; while [ $i -lt 200 ]; do setsid sleep 600 >/dev/null 2>&1 </dev/null & i=$((i+1)); done"
subprocess.run(["sh", "-c", daemons], check=True)
print("ready", flush=True)
while not os.path.exists(os.environ["SM_OUTPUT_DATA_DIR"] + "/go"): time.sleep(0.01)
raise ValueError("bad batch")
"""
    with hosts(tmp_path, script) as (host,):
        host.wait_for("] ready")
        supervisor = host.process.pid
        until(lambda: len(processes_mentioning(str(tmp_path))) > 200)  # the last may still be on their way
        until(lambda: children_of(supervisor, "Z") == 0)
        assert cpu_seconds(supervisor) < 5
        (host.root / "output/data/go").touch()
        assert host.end() == 1
        assert processes_mentioning(str(tmp_path)) == []
    assert (host.failure or "").startswith("ValueError: bad batch\n")


def children_of(pid: int, wanted: str) -> int:
    """How many of its children are in that state: Z of zombies, T of the stopped."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        found += state == wanted and int(parent) == pid
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_a_rank_that_is_stopped_or_deaf_does_not_keep_the_job_from_stopping(
    tmp_path: Path, engine: dict[str, str]
) -> None:
    script = """
import os, signal, time
if os.environ["RANK"] == "1": signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
if os.environ["RANK"] == "0": os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(600)
"""
    with hosts(tmp_path, script, settings={"procs": 2, "stop_grace": 0.5, **engine}) as (host,):
        host.wait_for("] ready", times=2)
        until(lambda: children_of(host.process.pid, "T") == 1)
        host.process.send_signal(signal.SIGTERM)
        assert host.end() == 137
        assert processes_mentioning(str(tmp_path)) == []
    assert (host.failure or "").startswith("did not stop within 0.5 s after SIGTERM: killed rank 0, 1 on algo-1\n")


def test_a_template_that_is_killed_is_missed_aloud_and_ranks_start_again_without_it(tmp_path: Path) -> None:
    script = """
import os, signal, sys, time
generation, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], os.environ["RANK"]
print("generation", generation, "of", "template.py" if "template.py" in open("/proc/self/cmdline").read() else "spawn")
def forks():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command, stat = open(f"/proc/{pid}/cmdline").read(), open(f"/proc/{pid}/stat").read()
        except OSError:
            continue
        state, parent, *rest = stat.rsplit(")", 1)[1].split()
        if "template.py" in command and int(parent) == os.getppid(): yield int(rest[17]), int(pid)
here = os.environ["SM_OUTPUT_DATA_DIR"] + "/rank-0"
if generation == "0" and rank == "0": open(here, "w").close()
if generation == "0" and rank == "1":
    while not os.path.exists(here): time.sleep(0.01)
    os.kill(min(forks())[1], signal.SIGKILL)  # the first to be started
    raise ValueError("bad batch")
time.sleep(600 if generation == "0" else 0)
"""
    with hosts(tmp_path, script, settings={"procs": 2, "max_restarts": 1, **FORKED}) as (host,):
        assert host.end() == 0, host.log
    assert host.log.count("generation 0 of template.py") == 2, host.log
    assert host.log.count("generation 1 of spawn") == 2, host.log
    assert host.log.count("ranks are spawned, not forked: the template process is gone") == 1, host.log


def test_an_idle_supervisor_uses_no_cpu(tmp_path: Path) -> None:
    script = "import time; print('ready', flush=True); time.sleep(600)"
    with hosts(tmp_path, script, number=2, settings=FORKED) as running:
        for host in running:
            host.wait_for("] ready")
        before = [cpu_seconds(host.process.pid) for host in running]
        time.sleep(3)  # what is measured here is that nothing happens
        used = [cpu_seconds(host.process.pid) - b for host, b in zip(running, before, strict=True)]
    assert max(used) <= 0.1, used


@pytest.mark.parametrize("engine", ENGINES)
def test_twenty_restarts_leave_no_descriptor_and_little_memory(tmp_path: Path, engine: dict[str, str]) -> None:
    script = """
import os, re, time
generation, supervisor = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), os.getppid()
if os.environ["LOCAL_RANK"] == "0":
    with open(f"/proc/{supervisor}/status") as status: memory = re.search(r"VmRSS:\\s+(\\d+)", status.read())[1]
    print("descriptors", len(os.listdir(f"/proc/{supervisor}/fd")), "memory", memory, flush=True)
    open(f"{os.environ['LOOKED']}/{os.environ['RANK']}-{generation}", "w").close()
if os.environ["RANK"] == "3" and generation < 20:
    while not all(os.path.exists(f"{os.environ['LOOKED']}/{rank}-{generation}") for rank in (0, 2)): time.sleep(0.01)
    raise ValueError(generation)
time.sleep(600 if generation < 20 else 0.05)
"""
    settings = {"procs": 2, "max_restarts": 20, **engine}
    (tmp_path / "looked").mkdir()
    with hosts(tmp_path, script, number=2, settings=settings, LOOKED=str(tmp_path / "looked")) as running:
        assert [host.end() for host in running] == [0, 0], running[0].log
    for host in running:
        seen = [(int(d), int(m)) for d, m in re.findall(r"descriptors (\d+) memory (\d+)", host.log)]
        assert len(seen) == 21
        descriptors, memory = zip(*seen, strict=True)
        assert max(descriptors[-5:]) <= min(descriptors[:5]) + 4, descriptors  # a few are those of the moment
        assert memory[-1] - memory[1] < 2048, memory  # KiB


@pytest.mark.torch
def test_the_store_outlives_a_template_that_is_killed_while_ranks_start(tmp_path: Path) -> None:
    script = """
import os, signal, socket, time
killed = os.environ["SM_OUTPUT_DATA_DIR"] + "/killed"
if os.environ["RANK"] == "0":
    helpers = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command, stat = open(f"/proc/{pid}/cmdline").read(), open(f"/proc/{pid}/stat").read()
        except OSError:
            continue
        state, parent, *rest = stat.rsplit(")", 1)[1].split()
        if "template.py" in command and int(parent) == os.getppid(): helpers.append((int(rest[17]), int(pid)))
    os.kill(min(helpers)[1], signal.SIGKILL)  # the first to be started
    open(killed, "w").close()
while not os.path.exists(killed): time.sleep(0.01)
time.sleep(0.5)
with socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))): print("it answers")
"""
    # Whoever forks looks here before: the template stands still from its second rank on, until it is killed.
    slow = """
import os, time
template, supervisor = os.getpid(), os.getppid()
def ranks():
    children = open(f"/proc/{supervisor}/task/{supervisor}/children").read().split()
    return sum("template.py" in open(f"/proc/{pid}/cmdline").read() for pid in children) - 2  # itself and the store
def look():
    while os.getpid() == template and ranks() > 0: time.sleep(0.01)
os.register_at_fork(before=look)
"""
    settings = {"procs": 16, "engine": "fork", "preload": "torch,slow"}
    path = os.pathsep.join(filter(None, ["{root}/code", os.environ.get("PYTHONPATH")]))
    write = ("sh", "-c", 'printf "%s" "$SLOW" > "$SAGEMAKER_BASE_DIR/code/slow.py" && exec "$0" "$@"')
    with hosts(tmp_path, script, settings=settings, before=write, SLOW=slow, PYTHONPATH=path) as (host,):
        assert host.end() == 0, host.log
    assert "ranks are spawned, not forked: the template process" in host.log
    assert host.log.count("] it answers") == 16
