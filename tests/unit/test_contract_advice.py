"""Words and remedies, row by row, and what is an echo."""

from __future__ import annotations

import importlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from trainkit.contract.advice import REMEDIES, remedy, signal_remedy
from trainkit.contract.blame import aborted_with, is_collateral, unwrapped

OUT_OF_CUDA = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB "
    "of which 1.20 GiB is free. Process 47 has 30.00 GiB memory in use. Including non-PyTorch memory, this process has "
    "47.90 GiB memory in use. Of the allocated memory 46.00 GiB is allocated by PyTorch, and 1.00 GiB is reserved by "
    "PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
NCCL = "torch.distributed.DistBackendError: NCCL error in: /pytorch/NCCLUtils.hpp:268, "
PAIR = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc"
WORKER = "RuntimeError: DataLoader worker (pid 123) is killed by signal: "
ROWS = [
    (OUT_OF_CUDA, "gradient accumulation"),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", "expandable_segments"),
    ("RuntimeError: CUDA error: out of memory", "activation checkpointing"),
    (f"{NCCL}unhandled cuda error\nncclUnhandledCudaError: …\nLast error:\nCuda failure 2 'out of memory'", "smaller"),
    ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "smaller batch"),
    (f"{WORKER}Bus error. It is possible that dataloader's workers are out of shared memory.", "--shm-size"),
    (f"{WORKER}Killed. ", "fewer workers"),
    (f"{WORKER}Segmentation fault. ", "num_workers=0"),
    ("RuntimeError: DataLoader worker (pid(s) 17, 18) exited unexpectedly", "want of memory"),
    ("RuntimeError: DataLoader worker (pid 17) exited unexpectedly with exit code 1. Details", "num_workers=0"),
    ("OSError: [Errno 24] Too many open files: '/opt/ml/input/data/train/0.parquet'", "ulimit -n"),
    ("RuntimeError: unable to mmap: Too many open files (24)", "file_system"),
    ("RuntimeError: unable to write to file </torch_42_17_0>: No space left on device (28)", "/dev/shm"),
    ("OSError: [Errno 28] No space left on device: '/dev/shm/x'", "/dev/shm"),
    (f"{NCCL}unhandled system error\nLast error:\nError while creating shared memory segment x", "/dev/shm"),
    ("OSError: [Errno 28] No space left on device: '/tmp/x'", "/tmp is full"),
    ("OSError: [Errno 28] No space left on device: '/opt/ml/model/x'", "VolumeSizeInGB"),
    ("safetensors_rust.SafetensorError: I/O error: No space left on device (os error 28)", "keep fewer checkpoints"),
    ("OSError: [Errno 122] Disk quota exceeded: '/opt/ml/model/x'", "quota"),
    ("RuntimeError: [enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0", "torch.save"),
    ("ModuleNotFoundError: No module named 'flash_attn.ops'", "flash_attn is not in the image"),
    ("ImportError: libGL.so.1: cannot open shared object file: No such file", "system library libGL.so.1:"),
    ("ImportError: cannot import name 'x' from 'y' (/y.py)", "not the version"),
    ("SyntaxError: invalid syntax", "python --version"),
    ("IndentationError: unexpected indent", "No rank can get past"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/opt/ml/input/data/train/7.csv'", "Channel train,"),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/opt/ml/input/data/dev'", "Channel dev,"),
    ("PermissionError: [Errno 13] Permission denied: '/opt/ml/input/data/train/x'", "not the script's to write"),
    ("OSError: [Errno 30] Read-only file system: '/opt/ml/input/data/train/x'", "not the script's to write"),
    ("PermissionError: [Errno 13] Permission denied: '/opt/ml/model/x'", "drop user"),
    ("RuntimeError: CUDA error: device-side assert triggered", "CUDA_LAUNCH_BLOCKING=1"),
    ("torch.AcceleratorError: CUDA error: an illegal memory access was encountered", "CUDA_LAUNCH_BLOCKING=1"),
    ("RuntimeError: CUDA error: invalid device ordinal", "LOCAL_RANK"),
    (f"{NCCL}invalid usage\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 10", "--procs"),
    ("RuntimeError: No CUDA GPUs are available", "instance type"),
    ("AssertionError: Torch not compiled with CUDA enabled", "a CPU build?"),
    ("OSError: [Errno 98] Address already in use", "holds that port"),
    ("RuntimeError: [enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't allocate memory", "larger"),
    ("MemoryError", "load less at once"),
    (f"{PAIR}:534] Connection closed by peer [127.0.0.1]:1", "lost each"),
    (f"{NCCL}remote process exited or there was a network error", "none gave a better cause"),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "words"), ROWS, ids=[words for _, words in ROWS])
def test_a_failure_that_is_known_has_a_remedy(cause: str, words: str) -> None:
    assert words.lower() in remedy(cause).lower()


def test_every_row_of_the_table_is_the_answer_to_some_failure_and_short() -> None:
    answered = {next(row for row in REMEDIES if re.search(row.pattern, cause)) for cause, _ in ROWS}

    assert answered == set(REMEDIES)
    for cause, _ in ROWS:
        assert len(remedy(cause, shm_bytes=64 * 2**20)) < 250


@pytest.mark.parametrize(
    "cause",
    [
        "ValueError: x",
        "exit code 42",
        "",
        "KeyError: 'image'",
        "ConnectionRefusedError: [Errno 111] Connection refused",  # a database's, perhaps
        "FileNotFoundError: [Errno 2] No such file or directory: 'vocab.txt'",
        "PermissionError: [Errno 13] Permission denied: '/etc/shadow'",
        "ValueError: an igloo is no house",
    ],
)
def test_of_what_we_know_nothing_about_we_say_nothing(cause: str) -> None:
    assert remedy(cause) == ""


def _import() -> None:
    importlib.import_module("no_such_package.part")


def _read() -> None:
    Path("/opt/ml/input/data/train/no-such-file").read_bytes()


def _fill() -> None:
    with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123
        full.write(b"x")


def _compile() -> None:
    compile("x = = 1", "train.py", "exec")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")  # noqa: PTH110
@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (_import, "no_such_package is not in the image"),
        (_read, "Channel train,"),
        (_fill, "VolumeSizeInGB"),
        (_compile, "compare `python --version`"),
    ],
)
def test_what_python_really_says_is_known(fail: Callable[[], None], words: str) -> None:
    with pytest.raises((ImportError, OSError, SyntaxError)) as raised:
        fail()

    assert words in remedy(f"{raised.type.__name__}: {raised.value}")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (None, "Often a full /dev/shm: give"),
        (64 * 2**20, "/dev/shm has only 64 MiB here"),
        (0, "/dev/shm has only 0 MiB here"),
        (2**34, "/dev/shm has 16.0 GiB here. If it was full, give"),
    ],
)
def test_a_bus_error_tells_the_size_of_shared_memory(size: int | None, words: str) -> None:
    assert signal_remedy(signal.SIGBUS, shm_bytes=size).startswith(words)
    assert remedy(f"{WORKER}Bus error. It is possible …", shm_bytes=size).startswith(words)


@pytest.mark.parametrize(
    "cause",
    [
        f"{PAIR}:589] Read error [10.0.0.1]:25266: Connection reset by peer",
        f"{PAIR}:525] Read timeout [10.0.0.1]:1",
        f"{PAIR}:611] Connect timeout [172.17.27.13]:27023",
        "RuntimeError: Application timeout caused pair closure",
        "RuntimeError: Gloo connectFullMesh failed with [/pytorch/gloo/gloo/transport/tcp/pair.cc:144] no error",
        "RuntimeError: [gloo/unbound_buffer.cc:84] Timed out waiting 1800000ms for recv operation to complete",
        "RuntimeError: Rank 1 failed to pass monitoredBarrier in 30000 ms",
        "RuntimeError: Rank 1 successfully reached monitoredBarrier, but received errors while waiting",
        "torch.distributed.DistStoreError: wait timeout after 300000ms, keys: /default_pg/0//store_based_barrier_key:1",
        "torch.distributed.DistStoreError: Timed out after 1801 seconds waiting for clients. 1/3 clients joined.",
        "torch.distributed.DistNetworkError: The client socket has timed out after 60s while trying to connect to x.",
        "RuntimeError: The client socket has failed to connect to any network address of (algo-1, 29500).",
        "[3] is setting up NCCL communicator and retrieving … but store->get('0') got error: Socket Timeout",
        f"{NCCL}unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.21.5",
        f"{NCCL}internal error\nncclInternalError: …\nLast error:\nNet : Connection closed by remote peer user<50260>",
        "torch.distributed.DistBackendError: NCCL communicator was aborted on rank 1. Original reason: x",
        "[Rank 6] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=880) ran for 1800902 milliseconds",
        "RuntimeError: Some NCCL operations have failed or timed out. Due to the asynchronous nature of x",
        "RuntimeError: Failed to send, sent 0 bytes. Connection was likely closed. Did the remote server crash?",
    ],
)  # fmt: skip
def test_torchs_words_for_an_absent_peer_are_an_echo(cause: str) -> None:
    assert is_collateral(cause)


@pytest.mark.parametrize(
    "cause",
    [
        OUT_OF_CUDA,
        f"{NCCL}unhandled cuda error\nncclUnhandledCudaError: …\nLast error:\nCuda failure 2 'out of memory'",
        f"{NCCL}invalid usage\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 10",
        f"{NCCL}unhandled system error\nLast error:\nError while creating shared memory segment /dev/shm/nccl-x",
        "torch.distributed.DistBackendError: NCCL error in: /home/me/systems/NCCLUtils.hpp:268, invalid usage",
        "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address.",
        "torch.distributed.DistNetworkError: … code: -98, name: EADDRINUSE, message: address already in use",
        f"{WORKER}Bus error. It is possible that dataloader's workers are out of shared memory.",
        "TimeoutError: batch 17 took too long",
    ],
)
def test_a_mistake_of_the_ranks_own_is_no_echo(cause: str) -> None:
    assert not is_collateral(cause)


def test_a_wrapped_exception_is_unwrapped_and_any_other_left_alone() -> None:
    head = "KeyError: Caught KeyError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"

    assert unwrapped(f"{head}  File x\n    y\nKeyError: 'z'\n", "outer") == (
        "KeyError: 'z' (in DataLoader worker process 0)",
        "  File x\n    y",
    )
    for cause in (head, f"{head}  File x", "ValueError: x", ""):
        assert unwrapped(cause, "outer") == (cause, "outer")


def test_a_dead_worker_is_told_with_what_killed_it() -> None:
    why = f"{WORKER}Bus error. It is possible that dataloader's workers are out of shared memory."
    gone = "RuntimeError: DataLoader worker (pid(s) 123) exited unexpectedly"
    trace = f"Traceback:\n  File x\n{why}\n\nThe above exception was the direct cause of …\n\n  File y\n{gone}\n"

    assert unwrapped(gone, trace) == (why, trace)
    assert unwrapped(gone, "  File y") == (gone, "  File y")
    assert unwrapped("ValueError: x", trace) == ("ValueError: x", trace)


def test_the_last_words_of_an_abort_are_found_among_other_lines() -> None:
    assert aborted_with(("a", "  what():  CUDA error: x", "frame #0")) == "CUDA error: x"
    assert aborted_with(("terminate called", "what(): ")) == ""
    assert aborted_with(()) == ""
