"""What a checkpoint is of: models, optimizers, and anything else that has a state_dict.

    model        tensors under `<name>.<key>`; each rank's part where it is a DTensor; tied ones once
    optimizer    tensors under `<name>.state.<parameter>.<key>`, by the parameter's name in its model
    the rest     a tree of each rank's own; where all ranks have the same, it is everybody's

Tensors are read straight into the live ones, so that restoring takes no second copy of the model.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainkit.checkpoint.boxes import Box
from trainkit.checkpoint.holdings import OF_NAME, Holders, local, part_of
from trainkit.checkpoint.manifest import Manifest
from trainkit.checkpoint.plan import Held
from trainkit.checkpoint.read import Bytes, Wanted
from trainkit.errors import CheckpointError

WRAPPERS = (nn.parallel.DistributedDataParallel, nn.parallel.DataParallel)
_EXTRA_STATE = "_extra_state"  # torch's own name for what get_extra_state gives
_IN_WRAPPERS = {"OptimizedModule": "_orig_mod", "CheckpointWrapper": "_checkpoint_wrapped_module"}


@dataclass
class Collected:
    """The state of all subjects at one moment: the ranks' tensors as they live, and this rank's own trees."""

    held: list[Held] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Name → this rank's part, where it has one."""
    boxes: dict[str, Box] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, tensor: Tensor, holders: Holders, *, first: bool = False) -> None:
        """To be called under no_grad. Raises CheckpointError for a tensor that cannot be saved."""
        held, box = holders.held(name, tensor, first=first)
        self.held.append(held)
        if box is not None:
            self.tensors[name], self.boxes[name] = part_of(tensor), box


class Subject(Protocol):
    """One of them, under its name."""

    def collect(self, into: Collected, holders: Holders) -> None: ...

    def wanted(self, whole: Manifest, own: Any, holders: Holders) -> list[Wanted]:
        """What of the checkpoint goes straight into tensors. Raises CheckpointError where it does not fit."""

    def apply(self, own: Any) -> None:
        """The rest, when all tensors are there."""


class Module:
    def __init__(self, name: str, module: nn.Module) -> None:
        fsdp = sys.modules.get("torch.distributed.fsdp")
        if fsdp is not None and any(isinstance(one, fsdp.FullyShardedDataParallel) for one in module.modules()):
            raise CheckpointError(
                f"{name} is a FullyShardedDataParallel, torch's older FSDP, which checkpoints do not take. "
                "Use torch's fully_shard instead (with accelerate: fsdp_version=2)"
            )
        self.name = name
        self.module = module
        self._made: dict[str, Tensor] = {}
        """Tensors of its state_dict that are not the module's own, so that load_state_dict has to take them."""

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter and its plain name."""
        plain = plain_names(self.module)
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            yield plain(name), parameter

    def collect(self, into: Collected, holders: Holders) -> None:
        tensors, aliases, others = self._state()
        # Batch statistics differ between DDP's ranks, which take rank 0's before each step.
        plain = plain_names(self.module)
        buffers = {plain(name) for name, _ in self.module.named_buffers()}
        for key, tensor in tensors.items():
            into.add(f"{self.name}.{key}", tensor, holders, first=key in buffers)
        into.own[self.name] = {"aliases": aliases, "others": others}

    def wanted(self, whole: Manifest, own: Any, holders: Holders) -> list[Wanted]:
        tensors, _, others = self._state()
        own_places = {_place(one) for one in (*self.module.parameters(), *self.module.buffers())}
        self._made = {key: tensor for key, tensor in tensors.items() if _place(tensor) not in own_places}
        aliases = own["aliases"]
        kept = {key: aliases.get(key, key) for key in tensors}
        there = {
            one.name.removeprefix(f"{self.name}.") for one in whole.plan.tensors if one.name.startswith(f"{self.name}.")
        }
        self._compare(set(kept.values()) | others.keys(), there | own["others"].keys())
        wishes = [_wanted(whole, f"{self.name}.{kept[key]}", tensor, holders) for key, tensor in tensors.items()]
        return [wish for wish in wishes if wish]

    def apply(self, own: Any) -> None:
        if not (own["others"] or self._made):
            return
        plain = plain_names(self.module)
        read = {**self._made, **own["others"]}
        self.module.load_state_dict({key: read.get(plain(key), v) for key, v in self.module.state_dict().items()})
        self._made = {}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
        """Its tensors, each once; the further names of tied ones; and what is no tensor (extra state)."""
        plain = plain_names(self.module)
        tensors: dict[str, Tensor] = {}
        aliases: dict[str, str] = {}
        others: dict[str, Any] = {}
        seen: dict[Any, str] = {}
        state = self.module.state_dict(keep_vars=True)  # nobody needs each of them detached
        for key, value in state.items():
            name = plain(key)
            if not isinstance(value, Tensor) or key.endswith(_EXTRA_STATE):
                others[name] = value
                continue
            if (first := seen.setdefault(_identity(value), name)) == name:
                tensors[name] = value
            else:
                aliases[name] = first
        return tensors, aliases, others

    def _compare(self, here: set[str], there: set[str]) -> None:
        if here != there:
            told = [f"{text} {_some(names)}" for text, names in (
                ("the checkpoint lacks", here - there), ("this model lacks", there - here)
            ) if names]  # fmt: skip
            raise CheckpointError(f"{self.name}: {'; '.join(told)}. Build the model as it was when it was saved")


class Optimizer:
    """`modules` are those in which its parameters have their names."""

    def __init__(self, name: str, optimizer: Any, modules: list[Module]) -> None:
        self.name, self.optimizer, self._modules = name, optimizer, modules

    def collect(self, into: Collected, holders: Holders) -> None:
        names = self._names()
        state = self.optimizer.state_dict()
        own: dict[str, Any] = {"groups": self._groups(state, names), "others": {}}
        for number, entries in state["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor) and isinstance(key, str) and "." not in key:
                    into.add(f"{self.name}.state.{names[number]}.{key}", value, holders)
                else:
                    own["others"].setdefault(names[number], {})[key] = value
        into.own[self.name] = own

    def wanted(self, whole: Manifest, own: Any, holders: Holders) -> list[Wanted]:
        names = self._names()
        parameters = dict(
            zip(names, (p for group in self.optimizer.param_groups for p in group["params"]), strict=True)
        )
        self._compare([group["params"] for group in own["groups"]], names)
        self._state: dict[str, dict[str, Any]] = {name: dict(entries) for name, entries in own["others"].items()}
        wishes = []
        prefix = f"{self.name}.state."
        for one in whole.plan.tensors:
            if not one.name.startswith(prefix):
                continue
            name, _, key = one.name.removeprefix(prefix).rpartition(".")
            shape = whole.plan.layouts[one.layout].shape
            tensor = _like(parameters[name], key, shape, OF_NAME[one.dtype])
            self._state.setdefault(name, {})[key] = tensor
            wishes.append(_wanted(whole, one.name, tensor, holders))
        return [wish for wish in wishes if wish]

    def apply(self, own: Any) -> None:
        numbers = {name: number for number, name in enumerate(self._names())}
        groups = [{**group, "params": [numbers[name] for name in group["params"]]} for group in own["groups"]]
        state = {numbers[name]: entries for name, entries in self._state.items()}
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self._undo_casts(state)
        del self._state

    def _undo_casts(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """torch gives each entry its parameter's dtype: single precision beside a bfloat16 parameter would be lost."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for number, entries in state.items():
            loaded = self.optimizer.state[parameters[number]]
            for key, value in entries.items():
                if isinstance(value, Tensor) and key in loaded and loaded[key].dtype != value.dtype and value.ndim:
                    loaded[key] = value

    def _names(self) -> list[str]:
        """The names of its parameters, in the order of their numbers."""
        several = len(self._modules) > 1
        known: dict[int, str] = {}
        for module in self._modules:
            for name, parameter in module.parameters():
                known.setdefault(id(parameter), f"{module.name}.{name}" if several else name)
        names = []
        for at, group in enumerate(self.optimizer.param_groups):
            for parameter in group["params"]:
                if id(parameter) not in known:
                    raise CheckpointError(
                        f"{self.name}: a parameter of its group {at} (shape {tuple(parameter.shape)}) is in none of "
                        "the models given to the checkpointer; give it the model too"
                    )
                names.append(known[id(parameter)])
        return names

    @staticmethod
    def _groups(state: Mapping[str, Any], names: list[str]) -> list[dict[str, Any]]:
        return [{**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]]

    def _compare(self, saved: list[list[str]], names: list[str]) -> None:
        here, there = set(names), {name for group in saved for name in group}
        groups = len(self.optimizer.param_groups)
        if len(saved) != groups:
            raise CheckpointError(f"{self.name}: it has {groups} parameter groups, and {len(saved)} were saved")
        if here != there:
            raise CheckpointError(
                f"{self.name}: it optimizes other parameters than were saved: {_some(here ^ there)}. "
                "Freeze the same ones as then, or restore without it"
            )


class Stateful:
    """Anything with state_dict and load_state_dict."""

    def __init__(self, name: str, subject: Any) -> None:
        self.name, self._subject = name, subject

    def collect(self, into: Collected, holders: Holders) -> None:
        into.own[self.name] = self._subject.state_dict()

    def wanted(self, whole: Manifest, own: Any, holders: Holders) -> list[Wanted]:
        return []

    def apply(self, own: Any) -> None:
        self._subject.load_state_dict(own)


class Generators:
    """This rank's random numbers: Python's, numpy's where it is used, torch's, and its GPU's."""

    name = "random"

    def collect(self, into: Collected, holders: Holders) -> None:
        own: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
        if numpy := sys.modules.get("numpy"):
            own["numpy"] = numpy.random.get_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            own["cuda"] = torch.cuda.get_rng_state()
        into.own[self.name] = own

    def wanted(self, whole: Manifest, own: Any, holders: Holders) -> list[Wanted]:
        return []

    def apply(self, own: Any) -> None:
        random.setstate(own["python"])
        torch.set_rng_state(own["torch"])
        if "numpy" in own:
            import numpy as np

            np.random.set_state(own["numpy"])
        if "cuda" in own and torch.cuda.is_available():
            torch.cuda.set_rng_state(own["cuda"])


def of(objects: Mapping[str, Any]) -> dict[str, Subject]:
    """The subjects for what a script gives. Raises CheckpointError for what has no state."""
    given = {name: subject for name, subject in objects.items() if subject is not None}
    modules = {name: Module(name, subject) for name, subject in given.items() if isinstance(subject, nn.Module)}
    # Models first: torch's fully_shard gives an optimizer's parameters back when it is asked for the model's state.
    subjects: dict[str, Subject] = dict(modules)
    for name, subject in given.items():
        if name in (Generators.name, "") or not name.isidentifier():
            raise CheckpointError(f"{name!r} is no name for a part of a checkpoint; choose another")
        if name in modules:
            continue
        if isinstance(subject, torch.optim.Optimizer):
            subjects[name] = Optimizer(name, subject, list(modules.values()))
        elif hasattr(subject, "state_dict") and hasattr(subject, "load_state_dict"):
            subjects[name] = Stateful(name, subject)
        else:
            raise CheckpointError(
                f"{name} is a {type(subject).__name__}, which has no state_dict and load_state_dict; give it both"
            )
    subjects[Generators.name] = Generators()
    return subjects


def plain_names(module: nn.Module) -> Callable[[str], str]:
    """Takes out of a name what DDP, compile and activation checkpointing put in: alike with them and without."""

    def plain(name: str) -> str:
        at: Any = module
        kept: list[str] = []
        for part in name.split("."):
            while (inner := _inner(at)) and part != inner:  # activation checkpointing takes itself out of names
                at = getattr(at, inner)
            if inner:
                at = getattr(at, inner)
            else:
                kept.append(part)
                at = at._modules.get(part) if isinstance(at, nn.Module) else None
        return ".".join(kept)

    return plain


def _inner(module: Any) -> str | None:
    """The name under which a wrapper has its module; None for any other."""
    kind: Any = type(module)  # which mypy takes for something that cannot be a key
    return _inner_of(kind)


@cache
def _inner_of(kind: type) -> str | None:
    if issubclass(kind, WRAPPERS):
        return "module"
    # Its bases too: fully_shard makes a class of its own out of each.
    return next((_IN_WRAPPERS[base.__name__] for base in kind.__mro__ if base.__name__ in _IN_WRAPPERS), None)


def _wanted(whole: Manifest, name: str, tensor: Tensor, holders: Holders) -> Wanted | None:
    """What this rank needs of a tensor. Raises CheckpointError where another one was saved under its name."""
    held, box = holders.held(name, tensor)
    saved = whole.by_name[name]
    shape = whole.plan.layouts[saved.layout].shape
    if (saved.dtype, shape) != (held.dtype, held.shape):
        raise CheckpointError(
            f"{name} is {held.dtype} {list(held.shape)} here, and {saved.dtype} {list(shape)} was saved: "
            "build it as it was then"
        )
    if box is None:
        return None
    part = local(tensor)

    def put(of: Box, content: Bytes, into: Tensor = part, mine: Box = box) -> None:
        elements = torch.from_numpy(content).view(into.dtype).squeeze(-1)
        into[of.within(mine)].copy_(elements)

    return Wanted(name, box, put)


def _identity(tensor: Tensor) -> Any:
    """Alike for tensors that are one and the same, on all ranks: what a rank has of one may be nothing."""
    if hasattr(tensor, "device_mesh") or not tensor.numel():
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)


def _place(tensor: Tensor) -> int:
    """Where the memory begins that holds it."""
    return local(tensor).untyped_storage().data_ptr()


def _like(parameter: Tensor, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Room for an entry of the optimizer's state: it lies as its parameter does, or else whole on every rank."""
    if shape == tuple(parameter.shape) and key != "step":  # torch counts the steps of a scalar as it does others'
        return torch.empty_like(parameter.detach(), dtype=dtype)
    return torch.empty(shape, dtype=dtype, device="cpu" if not shape else parameter.device)


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
