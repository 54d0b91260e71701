"""Defaults for the collective libraries: each with its reason, none over the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from trainkit.plan.machine import Machine


class Default(NamedTuple):
    """A variable we set because nobody did."""

    name: str
    value: str
    reason: str


RECORDER_SIZES = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")  # the second is torch's name before 2.9

# What older recipes set and AWS's EFA guide now warns of: aws-ofi-nccl chooses better by itself.
_DATED = {
    "RDMAV_FORK_SAFE": "it can break EFA on current kernels",
    "FI_EFA_FORK_SAFE": "kernels since 5.15 need it no more",
    "FI_EFA_USE_DEVICE_RDMA": "libfabric chooses it by itself",
    "FI_PROVIDER": "aws-ofi-nccl chooses the provider by itself",
    "NCCL_PROTO": "it takes the choice from aws-ofi-nccl's tuner",
}


def defaults(
    machine: Machine, *, interface: str | None, hosts: int, environ: Mapping[str, str]
) -> tuple[tuple[Default, ...], tuple[str, ...]]:
    """What to set, and warnings about what is set already."""
    wanted: list[Default] = []
    warnings: list[str] = []
    if hosts > 1:
        if interface and interface in machine.interfaces:
            reason = f"the job's interface, from resourceconfig.json; this host has it; {hosts} hosts"
            wanted += [Default(name, interface, reason) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")]
        elif interface:
            warnings.append(
                f"resourceconfig.json names the interface {interface}, which this host does not have "
                f"({', '.join(machine.interfaces)}): NCCL and gloo are left to find their own"
            )
    if machine.gpus:
        wanted.append(
            Default("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1", "a lost peer raises instead of hanging; torchrun's default")
        )
        reason = "torch's flight recorder: the last collectives, for when nothing goes on (docs/failures.md)"
        wanted += [Default(name, "2000", reason) for name in RECORDER_SIZES]
    if machine.efa:
        wanted.append(
            Default(
                "FI_EFA_USE_HUGE_PAGE", "0", "EFA is here; huge pages make fork fail in DataLoader workers (ENOMEM)"
            )
        )
        warnings += [f"{name} is set, and {why}: unset it" for name, why in _DATED.items() if name in environ]
    return tuple(default for default in wanted if default.name not in environ), tuple(warnings)
