"""Writing a model directory whole or not at all, and reading it back.

    scratch folder, files fsynced ─▶ old manifest away ─▶ renames ─▶ new manifest renamed in

A failure while writing leaves the older model as it was. One between two renames leaves a directory without a
manifest, which `manifest.verify` does not pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import trainkit
from trainkit.artifact import gather, manifest
from trainkit.artifact.manifest import Entry, Manifest
from trainkit.contract.features import FOLDER, contents, digest
from trainkit.errors import StorageError, TrainkitError
from trainkit.storage.commit import sync

WEIGHTS = "model.safetensors"


def save(
    model: nn.Module, directory: Path, *, rank: int, files: Mapping[str, str | bytes], job: str, step: int | None,
    features: Callable[[], Path | None] = lambda: None,
) -> None:  # fmt: skip
    """Collective: see trainkit.job.context.Context.save_model, which is this with the job's own facts."""
    first = (torch.distributed.get_rank() if gather.in_group() else rank) == 0
    model = gather.unwrap(model)
    collected = gather.collect(model)
    failure: Exception | None = None
    if first:
        try:
            beside = _checked(files)
            fitted = features()
            by_hash = digest(fitted) if fitted else ""
            if fitted:
                beside |= {f"{FOLDER}/{by_hash}/{name}": raw for name, raw in contents(fitted).items()}
            about = Manifest({}, trainkit.__version__, torch.__version__, job, step, by_hash)
            _write(gather.each_once(model, collected), directory, files=beside, about=about)
        except Exception as error:  # noqa: BLE001 (whatever it is, the other ranks are waiting to hear of it)
            failure = error
    problem = gather.hear_verdict(_verdict(failure) if failure else "")
    if problem:
        kind, _, words = problem.partition(" ")
        raised = StorageError if kind == StorageError.__name__ else TrainkitError
        raise raised(f"the model was not saved to {directory}: rank 0 met {words}") from failure


def _verdict(failure: Exception) -> str:
    """What kind of error all ranks shall raise, and the words."""
    # Tensors that safetensors cannot hold were refused before: what it says now, the disk said to it.
    storage = isinstance(failure, OSError | StorageError | SafetensorError)
    kind = StorageError if storage else TrainkitError
    return f"{kind.__name__} {type(failure).__name__}: {failure}"


def _checked(files: Mapping[str, str | bytes]) -> dict[str, bytes]:
    for name in files:
        if not manifest.is_name(name) or name in (WEIGHTS, FOLDER, manifest.FILE, manifest.SCRATCH):
            raise ValueError(f"{name!r} in `files` is no free file name: use one without a folder, not {WEIGHTS}")
    return {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}


def _write(state: gather.State, directory: Path, *, files: Mapping[str, bytes], about: Manifest) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    manifest.sweep(directory)
    scratch = directory / manifest.SCRATCH
    # A folder, since safetensors writes under a name of its own choice first, and leaves that behind when killed.
    scratch.mkdir()
    try:
        save_file(dict(state.tensors), scratch / WEIGHTS, metadata={gather.FORMAT: "pt", **state.aliases})
        for name, content in files.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_bytes(content)
        names = (WEIGHTS, *files)
        entries = {name: _settle(scratch / name) for name in names}
        (scratch / manifest.FILE).write_text(replace(about, files=entries).text(), encoding="utf-8")
        _settle(scratch / manifest.FILE)
        stale = manifest.names(directory) - entries.keys()
        (directory / manifest.FILE).unlink(missing_ok=True)
        sync(directory)
        for name in names:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).replace(directory / name)
        for name in stale:  # of the older model: an evaluation must not take them for this one's
            (directory / name).unlink(missing_ok=True)
            with suppress(OSError):  # other files lie there, or it is the model's own folder
                (directory / name).parent.rmdir()
        for folder in {directory, *((directory / name).parent for name in names)}:
            sync(folder)
        (scratch / manifest.FILE).replace(directory / manifest.FILE)
        sync(directory)
    finally:
        manifest.sweep(directory)


def _settle(path: Path) -> Entry:
    """Make a written file readable for others (safetensors makes it private), and sure to be on the disk."""
    path.chmod(0o644)
    sync(path)
    return manifest.measure(path)


def load_model(model: nn.Module, path: str | Path) -> None:
    """Fill `model` with the weights that job.save_model wrote; `path` is the directory or the .safetensors file.

    Every name must be there, with its shape, and none too many; values are converted to the model's own types and
    devices. A sharded model takes its share on each rank, when all ranks call it.
    A directory is compared with its manifest first, byte for byte; a file that is named itself is not.
    Raises StorageError where it is not whole or cannot be read, TrainkitError where it does not fit. Runs no code.
    """
    file = Path(path)
    if file.is_dir():
        if problems := manifest.verify(file):
            listed = "\n  ".join(problems)
            remedy = f"Save it again, or name its {WEIGHTS} itself to load that unchecked."
            raise StorageError(f"{file} is no whole model. {remedy}\n  {listed}")
        file = file / WEIGHTS
    saved = _read(file)
    model = gather.unwrap(model)
    own = model.state_dict()
    names = {name: gather.plain_name(name) for name in own}
    wrong = [f"{name} is missing" for name in names.values() if name not in saved]
    wrong += [f"{name} is not in the model" for name in saved if name not in names.values()]
    wrong += [
        f"{names[name]} has shape {tuple(saved[names[name]].shape)}, the model's has {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if names[name] in saved and saved[names[name]].shape != tensor.shape
    ]
    if wrong:
        shown = "\n  ".join(wrong[:20] + ([f"and {len(wrong) - 20} more"] if len(wrong) > 20 else []))
        raise TrainkitError(f"{file} does not fit this {type(model).__name__}:\n  {shown}")
    if gather.is_sharded(model):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(model, dict(saved), options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict({name: saved[plain] for name, plain in names.items()})


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, under all their names."""
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = content.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{file} cannot be read: {error}. It must be a file that job.save_model wrote.") from error
    aliases = {name: kept for name, kept in metadata.items() if kept in tensors and name not in tensors}
    aliases.pop(gather.FORMAT, None)
    return tensors | {name: tensors[kept] for name, kept in aliases.items()}
