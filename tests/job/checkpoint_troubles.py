"""What goes wrong in saving and restoring, on two forked ranks each time: checkpoint_troubles.py FOLDER URL."""

from __future__ import annotations

import itertools
import json
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ranks
import torch
from torch import nn

from trainkit.checkpoint.checkpointer import Checkpointer, Setup
from trainkit.checkpoint.retain import Retention
from trainkit.checkpoint.schedule import Schedule
from trainkit.checkpoint.world import World
from trainkit.errors import TrainkitError

FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()


class Thing:
    """Anything with a state."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state["state"]


class Case:
    """One rank's checkpointer over a folder, and what it said."""

    def __init__(
        self, rank: int, number: int, name: str, *, url: str | None = None, source: str | None = None, **objects: Any
    ) -> None:
        self.said: list[str] = []
        setup = Setup(
            job="j", places=(str(FOLDER / name), *([url] if url else [])), schedule=Schedule(every=1),
            retention=Retention(last=3), resume_from=source,
        )  # fmt: skip
        world = World.meet(rank=rank, ranks=number, hosts=("host-0",), host_rank=0)
        self.made = Checkpointer(objects, setup, world, say=self.said.append)

    def __enter__(self) -> Case:
        return self

    def __exit__(self, *_: object) -> None:
        self.made.close()


def told(work: Callable[[], Any]) -> str:
    try:
        return f"returned {work()!r}"
    except TrainkitError as error:
        return f"{type(error).__name__}: {error}"


def net(*sizes: int, fill: float = 0.0) -> nn.Module:
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
    for parameter in model.parameters():
        nn.init.constant_(parameter, fill)
    return model


def sgd(*models: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.1, momentum=0.9)


def before_the_first_step(rank: int, number: int) -> dict[str, str]:
    found = {}
    with Case(rank, number, "differs", model=net(4, 4 + rank)) as case:
        found["differs"] = told(case.made.restore)
    with Case(rank, number, "unsupported", thing=Thing(object() if rank else 1)) as case:
        found["unsupported"] = told(case.made.restore)
    with Case(rank, number, "outside", model=net(4, 4), optimizer=sgd(net(3, 3))) as case:
        found["outside"] = told(case.made.restore)
    with Case(rank, number, "meta", model=nn.Linear(2, 2, device="meta")) as case:
        found["meta"] = told(case.made.restore)
    with Case(rank, number, "no restore", model=net(4, 4)) as case:
        found["no restore"] = told(lambda: case.made.step(0))
    for name, thing in (("random", net(1, 1)), ("a b", net(1, 1)), ("thing", 3)):
        found[f"name {name}"] = told(lambda name=name, thing=thing: Case(rank, number, "names", **{name: thing}))
    return found


def in_the_first_save(rank: int, number: int) -> dict[str, Any]:
    """What comes up only then."""
    found: dict[str, Any] = {}
    model = net(4, 4)
    with Case(rank, number, "late", model=model) as case:
        case.made.restore()
        case.made.step(0)
        case.made.wait()
        model.register_buffer("late", torch.zeros(2 + rank))
        found["later"] = [told(lambda: case.made.save(1)), [said for said in case.said if "not made" in said]]
    model = net(4, 4)
    with Case(rank, number, "grows", model=model) as case:
        case.made.restore()
        model.register_buffer("late", torch.zeros(2 + rank))
        found["first"] = told(lambda: case.made.save(0))
    thing = Thing(1)
    with Case(rank, number, "odd", thing=thing) as case:
        case.made.restore()
        thing.state = object() if rank else 2
        found["one rank"] = told(lambda: case.made.save(0))
    with Case(rank, number, "no room", model=net(4, 4)) as case:
        case.made.restore()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if rank:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # an arena is a file, to the kernel
        first = told(lambda: case.made.save(0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        found["no room"] = [first, told(lambda: case.made.save(1))]
    return found


def several(rank: int, number: int) -> Any:
    """Two models, two optimizers, one of them over both; and a state that each rank has its own of."""

    def objects(fill: float) -> dict[str, Any]:
        one, other = net(4, 3, fill=fill), net(3, 2, fill=-fill)
        both, second = sgd(one, other), torch.optim.Adam(other.parameters())
        for model in (one, other):
            for parameter in model.parameters():
                parameter.grad = parameter.detach() + 1
        if fill:
            both.step()
            second.step()
        return {"one": one, "other": other, "both": both, "second": second, "thing": Thing([fill, rank])}

    given = objects(2.0)
    with Case(rank, number, "several", **given) as case:
        begun = case.made.restore()
        case.made.save(6)
    back = objects(0.0)
    with Case(rank, number, "several", **back) as case:
        step = case.made.restore()
        same = all(
            torch.equal(a, b)
            for name in ("one", "other")
            for a, b in zip(given[name].parameters(), back[name].parameters(), strict=True)
        )
        moments = all(
            torch.equal(given[name].state[p][key], back[name].state[q][key])
            for name in ("both", "second")
            for p, q in zip(
                *([p for group in objects[name].param_groups for p in group["params"]] for objects in (given, back)),
                strict=True,
            )
            for key in given[name].state[p]
        )
    return {"begun": begun, "step": step, "same": same, "own": back["thing"].state == [2.0, rank], "moments": moments}


def on_another_number(rank: int, number: int) -> Any:
    """After `several`, whose ranks were two."""
    found = {}
    for name, options in (("plain", {}), ("without", {"without": ["thing"]})):
        one, other = net(4, 3), net(3, 2)
        thing = Thing("mine")
        objects = {"both": sgd(one, other), "second": torch.optim.Adam(other.parameters())}
        with Case(rank, number, "several", one=one, other=other, thing=thing, **objects) as case:
            found[name] = [told(lambda case=case, options=options: case.made.restore(**options)), thing.state]
    return found


def unfit(rank: int, number: int) -> dict[str, str]:
    model = net(4, 3, 2)
    with Case(rank, number, "fits", model=model, optimizer=sgd(model)) as case:
        case.made.restore()
        case.made.save(0)
        case.made.save(1)
    found = {}
    double, renamed = net(4, 3, 2).double(), nn.ModuleDict({"a": net(4, 3)})
    frozen, grouped = net(4, 3, 2), net(4, 3, 2)
    frozen[0].requires_grad_(False)
    groups = [{"params": list(part.parameters())} for part in grouped]
    others: dict[str, dict[str, Any]] = {
        "shape": {"model": net(4, 5, 2)}, "dtype": {"model": double}, "names": {"model": renamed},
        "more": {"model": net(4, 3, 2, 2)}, "fewer": {"model": net(4, 3)},
        "object": {"model": net(4, 3, 2), "thing": Thing(1)},
        "frozen": {"model": frozen, "optimizer": torch.optim.SGD(frozen[1].parameters(), lr=0.1)},
        "groups": {"model": grouped, "optimizer": torch.optim.SGD(groups, lr=0.1)},
    }  # fmt: skip
    for name, objects in others.items():
        with Case(rank, number, "fits", **objects) as case:
            found[name] = told(case.made.restore)
    return found


def damaged(rank: int, number: int) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def flip(name: str, *, newest: int) -> None:
        if rank == 0:
            for folder in sorted((FOLDER / name).glob("step-*"))[-newest:]:
                path = folder / "r00001.safetensors"
                content = bytearray(path.read_bytes())
                content[-3] ^= 4
                path.write_bytes(content)
        torch.distributed.barrier()

    model = net(300, 301)
    with Case(rank, number, "damaged", model=model, thing=Thing(0)) as case:
        case.made.restore()
        for step in range(3):
            nn.init.constant_(model[0].weight, step + 1)
            case.made.save(step)
    flip("damaged", newest=1)
    for name in ("fell back", "again"):
        model = net(300, 301)
        with Case(rank, number, "damaged", model=model, thing=Thing(0)) as case:
            found[name] = [told(case.made.restore), model[0].weight.unique().tolist(), case.said]
    flip("damaged", newest=3)  # the newest is whole again, and set aside
    flip("damaged", newest=1)
    for name in ("none", "none again"):
        with Case(rank, number, "damaged", model=net(300, 301), thing=Thing(0)) as case:
            found[name] = told(case.made.restore)
    found["marked"] = sorted(path.parent.name[:14] for path in (FOLDER / "damaged").glob("*/SET-ASIDE.txt"))
    with Case(rank, number, "damaged", model=net(300, 301), thing=Thing(0)) as case:
        found["fresh"] = told(lambda: case.made.restore(fresh=True))
        case.made.save(0)
    with Case(rank, number, "damaged", model=net(300, 301), thing=Thing(0)) as case:
        found["after fresh"] = told(case.made.restore)
    return found


def anew(rank: int, number: int) -> dict[str, Any]:
    """A fresh start beside checkpoints that are further on."""
    found = {}
    for name, steps, fresh in (("first", range(10, 14), False), ("fresh", range(5), True), ("later", [], False)):
        model = net(2, 2, fill=5.0 if fresh else 1.0)
        with Case(rank, number, "anew", model=model) as case:
            began = case.made.restore(fresh=fresh)
            saved = [case.made.save(step) for step in steps]
            found[name] = [began, all(saved), model[0].bias.unique().tolist()]
    return found


def places(rank: int, number: int, *, away: str) -> dict[str, Any]:
    """A second place, a local folder that was lost, and another job's place to begin with."""
    found: dict[str, Any] = {}
    url, name = f"{away}/j", urlsplit(away).scheme
    with Case(rank, number, f"near {name}", url=url, model=net(3, 3, fill=2.0)) as case:
        case.made.restore()
        found["saved"] = case.made.save(4)
        case.made.close()
        found["said"] = case.said
    model = net(3, 3)
    with Case(rank, number, f"lost {name}", url=url, model=model) as case:
        found["lost"] = [told(case.made.restore), model[0].bias.tolist()]
    model = net(3, 3)
    with Case(rank, number, f"other {name}", source=url, model=model) as case:
        found["other"] = [told(case.made.restore), model[0].bias.tolist()]
        case.made.save(7)
    with Case(rank, number, f"other {name}", source=f"{away}/nowhere", model=model) as case:
        found["own first"] = told(case.made.restore)
    with Case(rank, number, f"third {name}", source=f"{away}/nowhere", model=model) as case:
        found["nowhere"] = told(case.made.restore)
    return found


def under_accelerate(rank: int, number: int) -> Any:
    """Its FSDP2, which it chooses for GPUs only: told by hand here. Restored into a state that has gone on."""
    import accelerate

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="1")  # the group is there already
    accelerator = accelerate.Accelerator(cpu=True)
    plugin = accelerate.FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="no_wrap", reshard_after_forward=True
    )
    accelerator.state.distributed_type = accelerate.DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    plain = net(7, 9, 3, fill=1.0)
    adamw = torch.optim.AdamW(plain.parameters())
    model, optimizer, scheduler = accelerator.prepare(plain, adamw, torch.optim.lr_scheduler.StepLR(adamw, 3))

    def train() -> None:
        for _ in range(2):
            accelerator.backward(model(torch.randn(4, 7)).square().sum())
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

    def facts() -> list[Any]:
        tensors = [*model.parameters()]
        tensors += [entry for p in model.parameters() for _, entry in sorted(optimizer.state[p].items())]
        whole = [tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for tensor in tensors]
        return [[tensor.tolist() for tensor in whole], scheduler.scheduler.last_epoch, torch.rand(()).item()]

    with Case(rank, number, "accelerate", optimizer=optimizer, model=model, scheduler=scheduler) as case:
        case.made.restore()
        train()
        case.made.save(1)
        saved = facts()
        train()
        return [type(model).__name__, case.made.restore(), facts() == saved]


def main() -> None:
    result: dict[str, Any] = {}
    for work in (before_the_first_step, several, unfit, damaged, anew, in_the_first_save, under_accelerate):
        result[work.__name__] = ranks.run(2, work)
    result["places"] = [ranks.run(2, partial(places, away=away)) for away in (f"file://{FOLDER}/away", sys.argv[2])]
    result["on_another_number"] = ranks.run(1, on_another_number)

    def alone(rank: int, number: int) -> str:
        return told(lambda: World.meet(rank=rank, ranks=number, hosts=("a",), host_rank=0))

    result["alone"] = ranks.run(2, alone, group=False)
    (FOLDER / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
