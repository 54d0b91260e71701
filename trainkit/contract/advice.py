"""What to do about a failure: a table from what it says to a remedy.

A remedy is read by someone whose job has just died, in the few hundred characters that the failure file has left.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Remedy:
    """The `words` for a failure in which `pattern` is found; they may take over a named part of it: \\g<name>."""

    pattern: str
    words: str


OUT_OF_MEMORY = (
    "The ranks and their DataLoader workers together passed the host's memory limit. Try fewer workers or a smaller "
    "prefetch, load less at once, or use a larger instance."
)
_SHARED_MEMORY = "<shared memory>"  # stands in the table for words that know its size

# Patterns are strings, since `train` imports this: compiling them costs more than all else that it needs of re. The
# first that matches is taken, so what is special stands before what is general.
REMEDIES: tuple[Remedy, ...] = (
    Remedy(
        r"CUDA (?:error: )?out of memory|Cuda failure.*out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        "Try a smaller batch with gradient accumulation, activation checkpointing, or "
        "PYTORCH_ALLOC_CONF=expandable_segments:True. Other processes on this GPU are named in the message.",
    ),
    Remedy(r"DataLoader worker \(pid.*Bus error", _SHARED_MEMORY),
    Remedy(
        r"DataLoader worker \(pid.*killed by signal: Killed",
        "A DataLoader worker was killed; the usual sender is the kernel, out of memory. Try fewer workers or a smaller "
        "prefetch, load less at once, or use a larger instance.",
    ),
    Remedy(
        r"DataLoader worker \(pid.*killed by signal",
        "Native code crashed in a DataLoader worker. num_workers=0 brings the crash, and its frames, into the rank.",
    ),
    Remedy(
        r"DataLoader worker \(pid.*exited unexpectedly",
        "A DataLoader worker vanished, most often killed for want of memory: try fewer workers or a smaller prefetch. "
        "num_workers=0 shows an error of its own.",
    ),
    Remedy(
        r"Errno 24\b|Too many open files",
        "Too many open files (ulimit -n). DataLoader workers hand tensors over as open files: "
        "torch.multiprocessing.set_sharing_strategy('file_system'), fewer workers, or a higher limit.",
    ),
    Remedy(r"(?:</torch_|/dev/shm/|shared memory).*No space left|No space left.*/dev/shm/", _SHARED_MEMORY),
    Remedy(r"creating shared memory segment", _SHARED_MEMORY),
    Remedy(
        r"No space left on device.*'/tmp/",
        "/tmp is full; it may be another volume than /opt/ml, whose size is VolumeSizeInGB.",
    ),
    Remedy(
        r"Errno 28\b|No space left on device|os error 28\b",
        "Its volume is full. /opt/ml/model, /opt/ml/checkpoints and the input share one: raise VolumeSizeInGB, keep "
        "fewer checkpoints, or stream the data. /tmp and /dev/shm are others.",
    ),
    Remedy(
        r"Errno 122\b|Disk quota exceeded",
        "The quota of this user or file system is used up: write less, or elsewhere.",
    ),
    Remedy(
        r"PytorchStreamWriter failed|inline_container\.cc.*unexpected pos",
        "torch.save could not write the whole file, most often for a full disk: raise VolumeSizeInGB, or keep fewer "
        "checkpoints.",
    ),
    Remedy(
        r"^ModuleNotFoundError: No module named '(?P<module>[^'.]+)",
        r"\g<module> is not in the image: add it there, or to its requirements.txt; a module of your own must lie in "
        "the script's folder. If the other hosts have it, this one runs another image or other code.",
    ),
    Remedy(
        r"^ImportError: (?P<library>\S+\.so\S*): cannot open shared object",
        r"The image lacks the system library \g<library>: install the package that brings it (apt-get, dnf).",
    ),
    Remedy(
        r"^ImportError: ",
        "A package is there, but not the version (or the native library) that this import needs: compare "
        "`pip list` with where it works. If the other hosts can import it, this one differs.",
    ),
    Remedy(
        r"^(?:SyntaxError|IndentationError|TabError): ",
        "No rank can get past that line. A newer Python's syntax looks like this too: compare `python --version`.",
    ),
    Remedy(
        r"^FileNotFoundError: .*/input/data/(?P<channel>[^/']+)",
        r"Channel \g<channel>, or this file in it, is not on this host: compare InputDataConfig. With ShardedByS3Key "
        "each host has only its share; a key keeps what follows S3Uri as its path.",
    ),
    Remedy(
        r"^(?:PermissionError|OSError): .*Errno (?:13|30)\b.*/input/(?:data|config)\b",
        "The input is not the script's to write: use /opt/ml/checkpoints, /opt/ml/output/data or /tmp. If it was only "
        "read, drop USER from the Dockerfile.",
    ),
    Remedy(
        r"^PermissionError: .*/opt/ml\b",
        "The image's user may not do that there: /opt/ml belongs to root. Drop USER from the Dockerfile.",
    ),
    Remedy(
        r"device-side assert|illegal memory access|CUDA error: (?:misaligned|unspecified launch)",
        "CUDA tells it later than it happens: CUDA_LAUNCH_BLOCKING=1 shows the place. Mostly an index out of range: "
        "a label, a token or a position beyond the table it looks up.",
    ),
    Remedy(
        r"invalid device ordinal|Duplicate GPU detected",
        "This rank has no GPU of its own: choose it by LOCAL_RANK, not RANK (job.device does), and start no more ranks "
        "(--procs) than the host has GPUs.",
    ),
    Remedy(
        r"No CUDA GPUs are available|no CUDA-capable device|Found no NVIDIA driver|not compiled with CUDA",
        "This host shows the rank no GPU: compare the instance type, the image's torch (a CPU build?) and "
        "CUDA_VISIBLE_DEVICES.",
    ),
    Remedy(
        r"EADDRINUSE|[Aa]ddress already in use",
        "Another process holds that port: a service of the script's own on every rank, or what an earlier job left.",
    ),
    Remedy(
        r"DefaultCPUAllocator|^MemoryError|Unable to allocate .* for an array|Errno 12\b",
        "The host's memory does not hold it: load less at once, fewer DataLoader workers, or a larger instance.",
    ),
    Remedy(
        r"\b[Gg]loo\b|NCCL|nccl|Dist(?:Network|Store|Backend)Error|monitoredBarrier",
        "Ranks lost each other, and none gave a better cause. A rank that is late for a collective does it too: "
        "compare the last lines of each. Where it fails at the very start, look at the hosts' security groups.",
    ),
)

_SIGNALS: dict[int, str] = {
    signal.SIGKILL: "Nothing in the script can catch it; the usual sender is the kernel, out of memory. "
    "Look at the memory curve; try a smaller batch, fewer DataLoader workers, or a larger instance.",
    signal.SIGSEGV: "Native code crashed. The last Python frames are in the log above, from faulthandler.",
    signal.SIGBUS: _SHARED_MEMORY,
    signal.SIGABRT: "Native code gave up (an assertion, NCCL, glibc). Its last words are in the log above.",
    signal.SIGILL: "The machine lacks an instruction that a library was built for.",
}


def remedy(cause: str, *, shm_bytes: int | None = None) -> str:
    """What to do about a failure that says `cause`, in a sentence or three, or "" where we know nothing.

    `shm_bytes` is the size of /dev/shm where the rank ran, if someone measured it.
    """
    for row in REMEDIES:
        found = re.search(row.pattern, cause)
        if found:
            return _shared_memory(shm_bytes) if row.words == _SHARED_MEMORY else found.expand(row.words)
    return ""


def signal_remedy(number: int, *, shm_bytes: int | None = None) -> str:
    """What to do about a rank that signal `number` killed, or ""."""
    words = _SIGNALS.get(number, "")
    return _shared_memory(shm_bytes) if words == _SHARED_MEMORY else words


def _shared_memory(size: int | None) -> str:
    remedies = "give the container more (docker run --shm-size), or use fewer DataLoader workers."
    if size is None:
        return f"Often a full /dev/shm: {remedies}"
    if size < 2**30:
        return f"/dev/shm has only {size / 2**20:.0f} MiB here (a container's default is 64): {remedies}"
    return f"/dev/shm has {size / 2**30:.1f} GiB here. If it was full, {remedies} Else a memory-mapped file has shrunk."
