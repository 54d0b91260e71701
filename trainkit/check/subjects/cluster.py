"""Instances: their groups, and whether the script is one for several of them, or for a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainkit.check.facts import Facts
from trainkit.check.finding import IN_SCRIPT, REFUSED, Finding
from trainkit.check.request import Job, at, objects

_GPU = re.compile(r"ml\.(p\d|g\d|gr\d)")
_CPU = re.compile(r"ml\.(t\d|m\d|c\d|r\d|x\d)")
_TALKING = (
    "init_process_group",
    "DistributedDataParallel",
    "DistributedSampler",
    "fully_shard",
    "FullyShardedDataParallel",
    "accelerate",
    "Accelerator",
    "lightning",
    "pytorch_lightning",
    "deepspeed",
    "horovod",
    "Trainer",
    "SFTTrainer",
    "world_size",
    "WORLD_SIZE",
    "RANK",
    "checkpointer",
    "init_device_mesh",
    "smdistributed",
    "SM_HOSTS",
    "SM_CURRENT_HOST",
    "ray",
    "torch_xla",
    "mpi4py",
)


def groups(facts: Facts) -> Iterator[Finding]:
    for job in facts.trainings:
        yield from _groups(job)


def _groups(job: Job) -> Iterator[Finding]:
    named = objects(job.resources, "InstanceGroups")
    key = f"{job.key}ResourceConfig"
    if named and (job.resources.get("InstanceType") or job.resources.get("InstanceCount")):
        yield Finding(
            "groups-and-type", "error", f"{key}.InstanceGroups", "stand beside InstanceType or InstanceCount", REFUSED,
            "Keep the groups, and take the other two out",
        )  # fmt: skip
    if job.resources and not named and not job.partial and not job.resources.get("InstanceCount"):
        yield Finding(
            "no-instances", "error", f"{key}.InstanceCount", "is missing, and there are no InstanceGroups", REFUSED,
            "Say how many instances of which type",
        )  # fmt: skip
    known = {str(group.get("InstanceGroupName")) for _, group in named}
    for where, channel in job.channels:
        for name in at(channel, "DataSource", "S3DataSource", "InstanceGroupNames", kind=list) or []:
            if str(name) not in known:
                yield Finding(
                    "group-unknown", "error", f"{where}.DataSource.S3DataSource.InstanceGroupNames",
                    f"{name!r} is no instance group of this job", REFUSED,
                    f"There are {', '.join(map(str, known)) or 'none'}",
                )  # fmt: skip


def distribution(facts: Facts) -> Iterator[Finding]:
    """Several hosts that never talk to each other all train the same model."""
    if not facts.has_script:
        return
    talks = facts.uses.mentions(*_TALKING)
    for job in facts.trainings:
        if job.hosts > 1 and not talks:
            yield Finding(
                "hosts-train-apart", "warning", f"{job.key}ResourceConfig.InstanceCount",
                f"{job.hosts} hosts, and nothing in the script makes them train together",
                f"Each trains a model of its own on all the data; you pay for {job.hosts} and get one",
                "Use DistributedDataParallel, accelerate or FSDP, and a sampler or job.stream that shares the data out",
            )  # fmt: skip


def device(facts: Facts) -> Iterator[Finding]:
    """A script that takes CUDA for granted, on instances without."""
    if not facts.has_script or facts.uses.mentions("is_available", "device_count", "Accelerator", "accelerator"):
        return
    cuda = [
        call
        for call in facts.uses.calls
        if not call.guarded
        and (
            call.name in ("cuda", "set_device")
            or (call.name in ("device", "to") and any(str(value).startswith("cuda") for value in call.values))
            or str(call.named.get("device")).startswith("cuda")
        )
    ]
    nccl = [call for call in facts.uses.called("init_process_group")
            if "nccl" in (*map(str, call.values), str(call.named.get("backend")))]  # fmt: skip
    for job in facts.trainings:
        without = [name for name in job.instance_types if _CPU.match(name)]
        for call in [*cuda, *nccl][:1] if without else ():
            yield Finding(
                "cuda-without-gpu", "error", call.where, f"wants a GPU, and {without[0]} has none",
                f"{IN_SCRIPT}: RuntimeError, no NVIDIA driver or no GPU found",
                "Take an instance with a GPU, or the device from job.device, which is the CPU where there is no GPU",
            )  # fmt: skip
        idle = [name for name in job.instance_types if _GPU.match(name)]
        if (
            idle
            and facts.uses.imported & {"torch"}
            and not facts.uses.mentions("cuda", "device", "Trainer", "deepspeed")
        ):
            yield Finding(
                "gpu-unused", "warning", f"{job.key}ResourceConfig.InstanceType",
                f"{idle[0]} has GPUs, and the script never names a device",
                "It trains on the CPU, many times slower, at the price of the GPUs; nothing fails",
                "Move the model and each batch to job.device",
            )  # fmt: skip


def workers(facts: Facts) -> Iterator[Finding]:
    """DataLoader workers beside the instance's CPUs."""
    asked = [
        (call.where, number) for call in facts.uses.called("DataLoader", "StatefulDataLoader")
        if isinstance(number := call.named.get("num_workers"), int)
    ]  # fmt: skip
    for job in facts.trainings:
        texts = [
            (f"{job.key}{job.hyperparameters_key}.{name}", int(text))
            for name, text in job.hyperparameters.items()
            if name.replace("-", "_") in ("num_workers", "workers", "dataloader_num_workers") and text.isdecimal()
        ]
        for name in job.instance_types:
            cpus = vcpus(name)
            for where, number in [*asked, *texts] if cpus else ():
                if number > cpus:
                    yield Finding(
                        "workers-without-cpus", "warning", where, f"{number} workers on {name}, which has {cpus} vCPUs",
                        "They wait for each other, and each keeps batches in /dev/shm: slow at best, "
                        "'DataLoader worker is killed by signal: Bus error' at worst",
                        f"Take {max(1, cpus - 1)} at most, shared by the ranks of a host",
                    )  # fmt: skip


def vcpus(instance_type: str) -> int:
    """Those of an instance type, by its size; 0 where that does not tell."""
    size = instance_type.rpartition(".")[2]
    small = {"medium": 2, "large": 2, "xlarge": 4}
    found = re.fullmatch(r"(\d+)xlarge", size)
    return 4 * int(found[1]) if found else small.get(size, 0)
