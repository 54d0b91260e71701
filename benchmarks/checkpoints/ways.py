"""The peers' ways to save and to restore, each as its documentation says that it is best used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ours import Ours, Way
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

S3_REGION = "us-east-1"


class Dcp(Way):
    """torch.distributed.checkpoint.save: all of it holds up the training. Plans are cached: nothing changes."""

    def state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(
            self.model, self.optimizer, options=StateDictOptions(flatten_optimizer_state_dict=True)
        )
        return {"model": model, "optimizer": optimizer}

    def planner(self) -> dcp.DefaultSavePlanner:
        return dcp.DefaultSavePlanner(enable_plan_caching=True)

    def save(self, step: int) -> None:
        dcp.save(self.state(), storage_writer=self.writer(step), planner=self.planner())

    def restore(self, step: int) -> None:
        state = self.state()
        dcp.load(state, storage_reader=self.reader(step))
        set_state_dict(
            self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"],
            options=StateDictOptions(flatten_optimizer_state_dict=True),
        )  # fmt: skip

    def writer(self, step: int) -> Any:
        return dcp.FileSystemWriter(self.place(step))

    def reader(self, step: int) -> Any:
        return dcp.FileSystemReader(self.place(step))


class DcpAsync(Dcp):
    """async_save as it comes: a thread, a stager made anew each time."""

    checkpointer = AsyncCheckpointerType.THREAD
    _running: Future[Any] | None = None

    def stager(self) -> Any:
        return None

    def save(self, step: int) -> None:
        response = dcp.async_save(
            self.state(), storage_writer=self.writer(step), planner=self.planner(), async_stager=self.stager(),
            async_checkpointer_type=self.checkpointer,
        )  # fmt: skip
        self._running = response if isinstance(response, Future) else response.upload_completion

    def wait(self) -> None:
        if self._running:
            self._running.result()


class DcpReused(DcpAsync):
    """The same with one stager for all saves, which keeps its memory."""

    options = StagingOptions(
        use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
    )

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, where: str) -> None:
        super().__init__(model, optimizer, where)
        self._stager = DefaultStager(self.options)

    def stager(self) -> Any:
        return self._stager

    def close(self) -> None:
        self._stager.close()


class DcpProcess(DcpReused):
    """torchtitan's async_with_pinned_mem: a process beside, shared memory, reused; pinned only where there is a GPU."""

    checkpointer = AsyncCheckpointerType.PROCESS
    options = StagingOptions(
        use_pinned_memory=False, use_shared_memory=True, use_async_staging=False, use_non_blocking_copy=False
    )


class DcpS3(Dcp):
    """s3torchconnector's S3StorageWriter under dcp.save, and its reader."""

    def writer(self, step: int) -> Any:
        from s3torchconnector.dcp import S3StorageWriter

        writer = S3StorageWriter(region=S3_REGION, path=self.place(step))
        writer.fs = _loopback()
        return writer

    def reader(self, step: int) -> Any:
        from s3torchconnector.dcp import S3StorageReader

        reader = S3StorageReader(region=S3_REGION, path=self.place(step))
        reader.fs = _loopback()
        return reader

    def forget(self, step: int) -> None: ...


class RankZero(Way):
    """All of the state gathered on rank 0, and torch.save there."""

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)

    def save(self, step: int) -> None:
        model = get_model_state_dict(self.model, options=self.options)
        optimizer = get_optimizer_state_dict(self.model, self.optimizer, options=self.options)
        if dist.get_rank() == 0:
            Path(self.where).mkdir(exist_ok=True)
            place = Path(self.place(step))
            with place.with_suffix(".part").open("wb") as file:
                torch.save({"model": model, "optimizer": optimizer}, file)
                file.flush()
                os.fsync(file.fileno())
            place.with_suffix(".part").replace(place)
        dist.barrier()

    def forget(self, step: int) -> None:
        if dist.get_rank() == 0:
            Path(self.place(step)).unlink(missing_ok=True)


class Accelerate(Way):
    """accelerate's save_state: rank 0 writes a model that every rank has whole (DDP), as it is mostly used."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, where: str) -> None:
        super().__init__(model, optimizer, where)
        from accelerate import Accelerator

        self._accelerator = Accelerator(cpu=True)
        self.model, self.optimizer = self._accelerator.prepare(model, optimizer)

    def save(self, step: int) -> None:
        self._accelerator.save_state(self.place(step))
        dist.barrier()

    def restore(self, step: int) -> None:
        self._accelerator.load_state(self.place(step))


def _loopback() -> Any:
    """Its file system at the environment's endpoint: the writer and the reader have no setting for one."""
    from s3torchconnector import S3ClientConfig
    from s3torchconnector._s3client import S3Client
    from s3torchconnector.dcp.s3_file_system import S3FileSystem

    config = S3ClientConfig(force_path_style=True)
    client = S3Client(S3_REGION, endpoint=os.environ["AWS_ENDPOINT_URL_S3"], s3client_config=config)
    return S3FileSystem(S3_REGION, s3_client=client)


WAYS: Mapping[str, Callable[..., Way]] = MappingProxyType(
    {
        "trainkit": Ours,
        "dcp": Dcp,
        "dcp-async": DcpAsync,
        "dcp-reused": DcpReused,
        "dcp-process": DcpProcess,
        "dcp-s3": DcpS3,
        "rank-0": RankZero,
        "accelerate": Accelerate,
    }
)
