"""Plans: pure, so every decision can be looked at without starting anything."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
from harness import unprivileged

from trainkit.contract import job as contract
from trainkit.contract.cluster import Cluster
from trainkit.contract.hyperparameters import Hyperparameters
from trainkit.contract.job import Job
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import ScriptMissing
from trainkit.plan import code, explain, launch, network, script
from trainkit.plan.launch import Meeting
from trainkit.plan.machine import Machine, look
from trainkit.plan.script import Script
from trainkit.plan.world import World

CPU = Machine(cpus=4, gpus=0, interfaces=("lo", "eth0"), efa=0)
P5 = Machine(cpus=192, gpus=8, interfaces=("lo", "eth0"), efa=32)
TORCH = Script(
    Path("/opt/ml/code/train.py"), Path("/opt/ml/code"), frozenset({"torch", "accelerate"}), needs_dynamo=True
)
PLAIN = dataclasses.replace(TORCH, imports=frozenset({"os"}), needs_dynamo=False)
COLLECTIVES = dataclasses.replace(PLAIN, imports=frozenset({"torch"}))


def job(*hosts: str, here: str = "algo-1", settings: Settings | None = None, **texts: str) -> Job:
    return Job(
        name="job",
        paths=Paths(),
        cluster=Cluster(here, hosts or ("algo-1",), interface="eth0"),
        channels=(),
        hyperparameters=Hyperparameters(texts),
        settings=settings or Settings(engine="fork"),
        checkpoints=Paths().checkpoints,
    )


def plan(j: Job, *, machine: Machine = CPU, entry: Script = TORCH, **environ: str) -> launch.LaunchPlan:
    return launch.make(j, machine=machine, script=entry, environ=environ)


def test_ranks_are_dealt_host_by_host_with_unequal_counts() -> None:
    world = World(("a", "b", "c"), (8, 1, 4))
    assert world.size == 13
    assert [list(world.ranks(host)) for host in world.hosts] == [list(range(8)), [8], [9, 10, 11, 12]]


def test_every_gpu_gets_a_rank_unless_asked_otherwise() -> None:
    assert launch.procs(job(), P5) == 8
    assert launch.procs(job(), CPU) == 1
    assert launch.procs(job(settings=Settings(procs=3)), P5) == 3


def test_a_rank_finds_what_torchrun_would_give_it(tmp_path: Path) -> None:
    meeting = Meeting(World(("algo-1", "algo-2"), (1, 2)), 7778, agent_store=True, generation=3)
    p = launch.make(job("algo-1", "algo-2", here="algo-2"), machine=CPU, script=TORCH, environ={}, meeting=meeting)
    given = p.rank_environment(2, run_dir=tmp_path)
    expected = {
        "RANK": "2", "LOCAL_RANK": "1", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2", "ROLE_RANK": "2", "ROLE_WORLD_SIZE": "3", "MASTER_ADDR": "algo-1",
        "MASTER_PORT": "7778", "TORCHELASTIC_RESTART_COUNT": "3", "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "job",
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected


def test_given_addresses_replace_names_in_the_rendezvous() -> None:
    j = dataclasses.replace(job("algo-1", "algo-2"), addresses={"algo-1": "127.1.2.3", "algo-2": "127.1.2.4"})
    assert plan(j).master == "127.1.2.3"
    assert plan(job()).master == "127.0.0.1"


def test_threads_are_one_per_rank_only_where_ranks_share_the_host_and_nobody_said_otherwise() -> None:
    two = job(settings=Settings(procs=2, engine="fork"))
    assert plan(two).environment["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in plan(two, OMP_NUM_THREADS="4").environment
    assert "OMP_NUM_THREADS" not in plan(job()).environment


@pytest.mark.parametrize(
    ("settings", "entry", "engine", "preload"),
    [
        (Settings(engine="fork", procs=2), TORCH, "fork", ("torch", "numpy", "torch._dynamo", "accelerate")),
        (Settings(engine="fork", procs=2), COLLECTIVES, "fork", ("torch", "numpy")),
        (Settings(engine="fork", procs=2), PLAIN, "spawn", ()),
        (Settings(engine="fork", procs=1), TORCH, "spawn", ()),
        (Settings(engine="fork", preload=("pandas",)), PLAIN, "fork", ("pandas",)),
        (Settings(engine="spawn"), TORCH, "spawn", ()),
        (Settings(engine="torchrun"), TORCH, "torchrun", ()),
        (Settings(engine="torchrun"), Script(Path("/c/run.sh"), Path("/c")), "spawn", ()),
    ],
)
def test_the_engine_follows_from_the_script(
    settings: Settings, entry: Script, engine: str, preload: tuple[str]
) -> None:
    made = plan(job(settings=settings), entry=entry)
    assert (made.engine, made.preload) == (engine, preload)
    assert made.engine_reason


def test_one_rank_at_a_terminal_keeps_it_and_two_do_not() -> None:
    def at_terminal(j: Job) -> launch.LaunchPlan:
        return launch.make(j, machine=CPU, script=TORCH, environ={}, at_terminal=True)

    assert at_terminal(job()).keeps_terminal
    assert not at_terminal(job("algo-1", "algo-2")).keeps_terminal
    assert not at_terminal(job(settings=Settings(procs=2))).keeps_terminal


def test_network_defaults_are_few_reasoned_and_never_over_the_users_own() -> None:
    made, warnings = network.defaults(P5, interface="eth0", hosts=2, environ={"NCCL_SOCKET_IFNAME": "en"})
    assert {d.name: d.value for d in made} == {
        "GLOO_SOCKET_IFNAME": "eth0", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1", "FI_EFA_USE_HUGE_PAGE": "0",
        "TORCH_FR_BUFFER_SIZE": "2000", "TORCH_NCCL_TRACE_BUFFER_SIZE": "2000",
    }  # fmt: skip
    assert all(d.reason for d in made)
    assert warnings == ()


def test_an_interface_that_does_not_exist_is_not_exported_but_said() -> None:
    made, warnings = network.defaults(CPU, interface="ethwe", hosts=2, environ={})
    assert made == ()
    assert "ethwe, which this host does not have (lo, eth0)" in warnings[0]


def test_variables_that_harm_efa_today_are_warned_of_only_where_efa_is() -> None:
    harmful = {"FI_PROVIDER": "efa", "NCCL_PROTO": "simple"}
    assert len(network.defaults(P5, interface=None, hosts=1, environ=harmful)[1]) == 2
    assert network.defaults(CPU, interface=None, hosts=1, environ=harmful)[1] == ()


def test_cuda_visible_devices_counts_as_cuda_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainkit.plan import machine

    present = ["null", "nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm"]
    monkeypatch.setattr(machine, "_listing", lambda directory: present if directory == "/dev" else [])
    counts = {"0,1": 2, "": 0, "-1": 0, "1": 1, "0,-1,1": 1, "0,7,1": 1, "GPU-aa,GPU-bb": 2}
    assert look({}).gpus == 3
    assert {text: look({"CUDA_VISIBLE_DEVICES": text}).gpus for text in counts} == counts


def test_this_machine_can_be_looked_at() -> None:
    here = look({})
    assert here.cpus >= 1
    assert here.interfaces


def entry_in(folder: Path, **files: str) -> Script:
    for name, text in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
    return script.look(Script(folder / "train.py", folder))


def test_imports_are_found_through_the_scripts_own_modules(tmp_path: Path) -> None:
    seen = entry_in(
        tmp_path,
        train="import os, sys\nfrom mine.model import net\n",
        mine__model="if True:\n    import accelerate.utils as u\nimport helper\n",
        helper="import torch.nn\nimport helper\n",
    )
    assert {"os", "sys", "mine", "accelerate", "torch", "helper"} <= seen.imports
    assert seen.uses_torch
    assert seen.needs_dynamo


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("import torch.distributed", False),
        ("import torch\ntorch.optim.SGD", True),
        ("from torch.optim import Adam", True),
    ],
)
def test_dynamo_is_preloaded_only_for_scripts_that_will_import_it(tmp_path: Path, text: str, needed: bool) -> None:
    assert entry_in(tmp_path, train=text).needs_dynamo == needed


def test_a_script_without_torch_is_known_as_such(tmp_path: Path) -> None:
    assert not entry_in(tmp_path, train="import json\nprint('torch is not imported')\n").uses_torch


def test_a_missing_script_is_named_with_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "main.py").touch()
    with pytest.raises(ScriptMissing, match=r"no script .*train\.py\n.* holds main\.py\. .*TRAINKIT_SCRIPT"):
        script.look(Script(tmp_path / "train.py", tmp_path))
    with pytest.raises(ScriptMissing, match="does not exist"):
        script.look(Script(tmp_path / "x/train.py", tmp_path / "x"))


def test_code_that_the_image_s_user_may_not_read_is_named_with_the_user_and_the_mode(open_path: Path) -> None:
    closed, private, shut = open_path / "closed", open_path / "private.py", open_path / "own/inner"
    for folder in (closed, shut):
        folder.mkdir(parents=True)
        (folder / "train.py").touch()
        folder.chmod(0o700)
    private.touch()
    private.chmod(0o600)
    (open_path / "train.py").write_text("import own.inner.train\n")
    with unprivileged():
        uid = os.geteuid()
        for path, what in ((closed / "train.py", f"enter {closed}"), (private, f"read {private}")):
            with pytest.raises(ScriptMissing, match=rf"^uid {uid} may not {what}, which has the mode 0[67]00") as found:
                script.look(Script(path, path.parent))
            assert "RUN chmod -R a+rX" in str(found.value)
        with pytest.raises(ScriptMissing, match=f"may not enter {closed}"):
            script.locate(job(settings=Settings(source=str(closed))))
        # Of an import Python itself says that it cannot be had.
        assert script.look(Script(open_path / "train.py", open_path)).imports == {"own"}


def test_a_shell_script_without_its_mode_runs_under_bash(tmp_path: Path) -> None:
    path = tmp_path / "run.sh"
    path.write_text("#!/bin/sh\n")
    assert plan(job(), entry=script.look(Script(path, tmp_path))).command == ("bash", str(path))
    path.chmod(0o755)
    assert plan(job(), entry=script.look(Script(path, tmp_path))).command == (str(path),)


def test_a_plan_tells_itself_in_words_and_in_json() -> None:
    made = plan(job("algo-1", "algo-2", settings=Settings(procs=2), lr="0.1"), TRAINKIT_PORCS="2")
    text = explain.as_text(made)
    assert "4 ranks (2 × 2); here ranks 0, 1" in text
    assert "train.py --lr 0.1" in text
    assert "GLOO_SOCKET_IFNAME=eth0: the job's interface" in text
    assert "TRAINKIT_PORCS is no setting" in text
    data = json.loads(json.dumps(explain.as_data(made)))
    assert data["world_size"] == 4
    assert data["argv"][-2:] == ["--lr", "0.1"]
    assert data["ranks"][1]["environment"]["RANK"] == "1"
    assert data["environment"]["SM_HP_LR"] == "0.1"


def test_a_plan_tells_what_comes_before_the_ranks_and_whose_spelling_is_used(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("peft\n")
    sent = job(settings=Settings(features="features.py", source=str(tmp_path)), sagemaker_program='"train.py"')
    order = code.order(sent, TORCH)
    made = plan(sent)
    assert [line.split(maxsplit=1) for line in explain.as_text(made, order).splitlines()[-3:]] == [
        ["dialect", "toolkit (by what the client sent)"],
        ["first", "install requirements.txt"],
        ["first", "make features: features.py"],
    ]
    data = explain.as_data(made, order)
    assert (data["dialect"], data["features"]) == ("toolkit", "features.py")
    assert data["code"] == {"source": None, "requirements": None}

    far = job(settings=Settings(source="https://me:token@host/code.tar.gz", dialect="json"))
    text = explain.as_text(plan(far), code.order(far, TORCH))
    assert "token" not in text
    assert text.splitlines()[-3:] == [
        "  dialect     json", "  first       fetch the code: https://***@host/code.tar.gz",
        "  first       install requirements.txt, if it has one",
    ]  # fmt: skip
    assert "first  " not in explain.as_text(plan(job()))


def test_gpus_that_stay_idle_are_told_with_what_uses_them_whoever_asked_for_one_process(tmp_path: Path) -> None:
    (warning,) = plan(job(settings=Settings(procs=1)), machine=dataclasses.replace(P5, efa=0)).warnings
    assert warning == "1 of 8 GPUs will be used: set procs to 8 to use all of them"


def test_the_same_facts_give_the_same_plan_on_every_host() -> None:
    hosts = ("algo-1", "algo-2", "algo-10")
    plans = [plan(job(*hosts, here=host, settings=Settings(procs=2))) for host in hosts]
    assert {(p.master, p.meeting, p.link_port) for p in plans} == {(plans[0].master, plans[0].meeting, 7777)}
    assert [rank for p in plans for rank in p.ranks] == list(range(6))
    assert [p.leads for p in plans] == [True, False, False]


def test_the_real_reader_and_the_plan_fit_together(tmp_path: Path) -> None:
    config = tmp_path / "input/config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text('{"current_host": "algo-2", "hosts": ["algo-10", "algo-2"]}')
    (config / "hyperparameters.json").write_text('{"a": "1", "trainkit_procs": "2"}')
    (config / "inputdataconfig.json").write_text("{}")
    made = plan(contract.read(Paths(tmp_path), environ={}))
    assert made.leads
    assert made.world.hosts == ("algo-2", "algo-10")
    assert made.args == ("--a", "1")
