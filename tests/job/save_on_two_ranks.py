"""Run by test_save_model.py on two ranks: saves models of every kind, and notes what each rank saw."""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, IterableDataset

import trainkit
from trainkit.artifact.manifest import verify
from trainkit.contract.blame import is_collateral
from trainkit.job import facts
from trainkit.job.context import Context
from trainkit.job.signals import Stop


class Tied(nn.Module):
    """An odd number of rows (so that shards differ), tied weights, a buffer, and a half-precision parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.middle = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.narrow = nn.Parameter(torch.randn(3, dtype=torch.bfloat16))
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.middle(self.embed(tokens))))


class Views(nn.Module):
    """Parameters that overlap, have gaps, or are transposed views of each other."""

    def __init__(self) -> None:
        super().__init__()
        store = torch.randn(6, 4)
        self.top, self.bottom = nn.Parameter(store[:4]), nn.Parameter(store[2:])
        square = torch.randn(4, 4)
        self.square, self.turned, self.flat = (
            nn.Parameter(square),
            nn.Parameter(square.T),
            nn.Parameter(square.view(-1)),
        )
        self.columns = nn.Parameter(torch.randn(4, 6)[:, ::2])
        self.alone = nn.Parameter(torch.randn(4, 3).T)
        self.empty, self.scalar = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.tensor(3.5))


class Turned(nn.Module):
    """Views that show other numbers than their storage holds, beside the storage itself, and a metadata key's name."""

    def __init__(self) -> None:
        super().__init__()
        pairs, others, third = torch.randn(3, 3, 2, dtype=torch.complex64)
        self.straight, self.turned = nn.Parameter(pairs), nn.Parameter(pairs.conj())
        self.conjugate = nn.Parameter(others.clone().conj())
        self.negative = nn.Parameter(third.clone().conj().imag)
        self.pt = nn.Parameter(torch.randn(2))  # what the file's metadata say of its format


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class Raises(nn.Module):
    """On the first rank only, as a hook that meets a broken file might."""

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, object]:
        if dist.get_rank() == 0:
            raise LookupError("only here")
        return super().state_dict(*args, **kwargs)


class LogsInWorker(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> str:
        return raised(lambda: trainkit.job().log(loss=1.0), of=RuntimeError)


def build(kind: Callable[[], nn.Module] = Tied) -> nn.Module:
    torch.manual_seed(1)
    return kind()


def context(case: str) -> Context:
    return Context(facts.read(os.environ, argv=[], cwd=Path(case)), stop=Stop())


def same(model: nn.Module, other: nn.Module) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    pairs = zip(ours.values(), theirs.values(), strict=True)
    return ours.keys() == theirs.keys() and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def round_trip(case: str, model: nn.Module, *, kind: Callable[[], nn.Module] = Tied) -> dict[str, object]:
    job = context(case)
    job.save_model(model, files={"config.json": '{"a": 1}', "blob": b"\0\1"})
    if dist.is_initialized():
        dist.barrier()
    elif job.rank:
        return {"wrote": job._facts.model.exists()}
    fresh = kind()
    for tensor in fresh.state_dict().values():
        tensor.zero_()
    trainkit.load_model(fresh, job.model_dir)
    with safetensors.safe_open(job.model_dir / "model.safetensors", framework="pt") as content:
        names, metadata = list(content.keys()), content.metadata()
    return {
        "same": same(fresh, build(kind)),
        "problems": verify(job.model_dir),
        "files": sorted(path.name for path in job.model_dir.iterdir()),
        "modes": sorted({oct(path.stat().st_mode & 0o777) for path in job.model_dir.iterdir()}),
        "names": sorted(names),
        "metadata": metadata,
    }


def raised(act: Callable[[], object], of: type[Exception] = trainkit.TrainkitError) -> str:
    try:
        act()
    except of as error:
        return f"{type(error).__name__}: {error}"
    return ""


def disk_full(case: str, model: nn.Module, **files: bytes) -> dict[str, object]:
    job = context(case)
    job.save_model(build())
    before = (job.model_dir / "trainkit.json").read_bytes()
    dist.barrier()
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if job.rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, unlimited[1]))
        (job.model_dir / ".trainkit-model.part").mkdir()  # of an earlier writer, killed
        (job.model_dir / ".trainkit-model.part/.tmp123").touch()
    said = raised(lambda: job.save_model(model, files=files))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    dist.barrier()
    return {
        "said": said,
        "kept": (job.model_dir / "trainkit.json").read_bytes() == before and verify(job.model_dir) == [],
        "files": sorted(path.name for path in job.model_dir.iterdir()),
    }


def interrupted_between_renames(case: str) -> dict[str, object]:
    """A folder stands where the second file must go, so its rename fails after that of the first."""
    job = context(case)
    job.save_model(build())
    (job.model_dir / "config").mkdir(exist_ok=True)
    dist.barrier()
    said = raised(lambda: job.save_model(nn.Linear(2, 2), files={"config": "{}"}))
    dist.barrier()
    return {"said": said, "problems": verify(job.model_dir)}


def sharded_by_hand() -> nn.Module:
    model, mesh = build(), init_device_mesh("cpu", (2,))
    for module, name in ((model.middle, "weight"), (model.middle, "bias")):
        whole = getattr(module, name).detach()
        setattr(module, name, nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)])))
    return model


NAMES = ("format", "__metadata__")


def with_buffer(tensor: torch.Tensor) -> nn.Module:
    model = nn.Module()
    model.register_buffer("odd", tensor)
    return model


def tied_as(name: str) -> nn.Module:
    model = nn.Linear(2, 2)
    model.register_parameter(name, model.weight)
    model.register_parameter("a", model.weight)
    return model


def stale_files(case: str) -> dict[str, object]:
    job = context(case)
    job.save_model(build(), files={"old.json": "", "both.json": "1"})
    if job.rank == 0:
        (job.model_dir / "mine.txt").touch()
    job.save_model(build(), files={"both.json": "2"})
    dist.barrier()
    return {"files": sorted(path.name for path in job.model_dir.iterdir()), "problems": verify(job.model_dir)}


def torn(case: str) -> dict[str, str]:
    """What loading says of one changed byte, and of a directory without a manifest."""
    job = context(case)
    job.save_model(nn.Linear(2, 2))
    weights = job.model_dir / "model.safetensors"
    if job.rank == 0:
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    dist.barrier()
    said = {"byte": raised(lambda: trainkit.load_model(nn.Linear(2, 2), job.model_dir))}
    said["file"] = raised(lambda: trainkit.load_model(nn.Linear(2, 2), weights))
    dist.barrier()
    if job.rank == 0:
        (job.model_dir / "trainkit.json").unlink()
    dist.barrier()
    said["manifest"] = raised(lambda: trainkit.load_model(nn.Linear(2, 2), job.model_dir))
    return said


def left_alone(seen: dict[str, object]) -> None:
    """The first rank goes away while the second waits for its verdict. Does not return."""
    dist.barrier()
    if dist.get_rank() != 0:
        try:
            context("alone").save_model(nn.Linear(2, 2))
        except (RuntimeError, trainkit.TrainkitError) as error:
            first = f"{type(error).__name__}: {error}".partition("\n")[0]
            seen["left alone"] = {"said": first, "echo": is_collateral(first), "cause": repr(error.__cause__)}
    Path(f"rank-{dist.get_rank()}.json").write_text(json.dumps(seen))
    os._exit(0)


def load_into_shards(case: str) -> bool:
    torch.manual_seed(2)
    model = fully_shard(Tied())
    trainkit.load_model(model, context(case).model_dir)
    pairs = zip(model.state_dict().values(), build().state_dict().values(), strict=True)
    return all(torch.equal(a.full_tensor() if isinstance(a, DTensor) else a, b) for a, b in pairs)


def main() -> None:
    from accelerate import Accelerator

    seen: dict[str, object] = {"no group": round_trip("no-group", build())}
    dist.init_process_group("gloo")
    compiled_inside = build()
    compiled_inside.middle = torch.compile(compiled_inside.middle)
    partly = build()
    fully_shard(partly.middle)
    cases: dict[str, nn.Module] = {
        "plain": build(),
        "ddp": DistributedDataParallel(build()),
        "compiled ddp": torch.compile(DistributedDataParallel(build())),
        "compiled inside": compiled_inside,
        "accelerate": Accelerator(cpu=True).prepare(build()),
        "fsdp2": fully_shard(build()),
        "fsdp2 partly, compiled": torch.compile(fully_shard(partly)),
        "dtensor": sharded_by_hand(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, model in cases.items():
            seen[name] = round_trip(name.replace(" ", "-"), model)
        old = FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu"))
    seen["fsdp1"] = raised(lambda: context("fsdp1").save_model(old))
    seen["views"] = round_trip("views", build(Views), kind=Views)
    seen["turned"] = round_trip("turned", build(Turned), kind=Turned)
    seen["raises"] = raised(lambda: context("raises").save_model(Raises()))
    seen["unfit for the file"] = {
        name: raised(lambda tensor=tensor: context("unfit").save_model(with_buffer(tensor)))
        for name, tensor in {
            "complex128": torch.zeros(2, dtype=torch.complex128),
            "sparse": torch.eye(2).to_sparse(),
        }.items()
    }
    seen["names of the file"] = [raised(lambda name=name: context("names").save_model(tied_as(name))) for name in NAMES]
    seen["load into shards"] = load_into_shards("plain")
    seen["disk full"] = disk_full("full", nn.Linear(100, 100))
    seen["disk full later"] = disk_full("full-later", build(), notes=bytes(10_000))
    seen["stale"] = stale_files("stale")
    seen["torn"] = torn("torn")
    seen["between renames"] = interrupted_between_renames("between")
    Path("blocked").mkdir(exist_ok=True)
    Path("blocked/trainkit-output").touch()
    dist.barrier()
    seen["blocked"] = raised(lambda: context("blocked").save_model(build()))
    seen["strange files"] = [
        raised(lambda name=name: context("strange").save_model(build(), files={name: ""}))
        for name in ("../up", "..", "", "a/b")
    ]
    zero3 = build()
    zero3.embed.weight.ds_id = 1
    seen["zero3"] = raised(lambda: context("zero3").save_model(zero3))
    seen["meta"] = raised(lambda: context("meta").save_model(nn.Linear(2, 2, device="meta")))
    unfit = nn.ModuleDict({"middle": nn.Linear(4, 5), "extra": nn.Linear(1, 1, bias=False)})
    seen["unfit"] = raised(lambda: trainkit.load_model(unfit, context("plain").model_dir))
    pickled = Path(f"pickled-{dist.get_rank()}")
    torch.save({"weight": torch.zeros(2)}, pickled)
    seen["pickle"] = raised(lambda: trainkit.load_model(nn.Linear(2, 2), pickled))
    if dist.get_rank() == 0:
        reference = Path("reference.safetensors")
        safetensors.torch.save_model(build(), str(reference))
        with safetensors.safe_open(reference, framework="pt") as content:
            seen["reference"] = {"names": sorted(content.keys()), "metadata": content.metadata()}
        fresh = Tied()
        safetensors.torch.load_model(fresh, context("fsdp2").model_dir / "model.safetensors")
        seen["safetensors reads it"] = same(fresh, build())
        seen["worker"] = list(DataLoader(LogsInWorker(), None, num_workers=1, multiprocessing_context="spawn"))
        seen["stream"] = len(list(context("stream").steps(DataLoader(Stream(), None))))
    left_alone(seen)


if __name__ == "__main__":
    sys.exit(main())
