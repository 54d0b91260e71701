"""A model artifact beside what servers want of it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator

from trainkit.check.artifact import MANIFEST, Artifact, safetensors_problem
from trainkit.check.facts import Facts
from trainkit.check.finding import Finding

_AT_ENDPOINT = "The training is done and paid for; the endpoint then fails its health check after some 10 minutes"
_WEIGHTS = (
    ".safetensors",
    ".pt",
    ".pth",
    ".bin",
    ".onnx",
    ".ckpt",
    ".pkl",
    ".joblib",
    ".model",
    ".json",
    ".ubj",
    ".h5",
)
_CHECKPOINT = re.compile(
    r"(^|/)(checkpoint-\d+|checkpoints?|ckpt[^/]*|global_step\d+)/|(^|/)(optimizer|scheduler|rng_state[^/]*)\.(pt|pth|bin)$"
)
_LARGE = 5 << 30


def artifact(facts: Facts) -> Iterator[Finding]:
    found = facts.artifact
    if not found:
        return
    name = facts.artifact_name
    if found.damage:
        yield Finding(
            "artifact-damaged",
            "error",
            name,
            f"is cut short or damaged: {found.damage}",
            _AT_ENDPOINT,
            "Upload it again",
        )
    if not found.files and not found.damage:
        yield Finding(
            "artifact-empty", "error", name, "holds no file", _AT_ENDPOINT, "Save a model: job.save_model(model)"
        )
        return
    yield from _members(found)
    yield from _layout(found, name)
    yield from _weights(found)
    if found.whole:
        yield from _manifest(found)


def _members(found: Artifact) -> Iterator[Finding]:
    for item in found.items:
        if item.name.startswith("/") or ".." in item.name.split("/"):
            yield Finding(
                "artifact-escapes", "error", item.name, "leads out of the directory that it is unpacked in",
                "Servers refuse it, or write over their own files", "Pack relative names only",
            )  # fmt: skip
        elif item.kind != "file":
            yield Finding(
                "artifact-link",
                "warning",
                item.name,
                "is no regular file",
                "Links are not followed when the model is uploaded, and dangle where it is unpacked",
                "Put the file itself there",
            )
    scratch = [item.name for item in found.items if item.name.endswith((".part", ".tmp", ".sagemaker-uploading"))]
    if scratch:
        yield Finding(
            "artifact-half-written", "error", scratch[0], "was being written when the job ended", _AT_ENDPOINT,
            "Write to another name and rename at the end, as job.save_model does",
        )  # fmt: skip


def _layout(found: Artifact, name: str) -> Iterator[Finding]:
    files = {item.name for item in found.files}
    tops = {path.split("/")[0] for path in files}
    if (
        found.is_archive
        and len(tops) == 1
        and all("/" in path for path in files)
        and not tops & {"code", "checkpoints"}
    ):
        yield Finding(
            "artifact-nested", "error", f"{name}: {next(iter(tops))}/", "everything lies in one folder of the archive",
            f"{_AT_ENDPOINT}: servers look for the model at the archive's top", "tar -czf model.tar.gz -C FOLDER .",
        )  # fmt: skip
    kept = [path for path in files if _CHECKPOINT.search(path)]
    if kept:
        yield Finding(
            "artifact-checkpoints", "warning", sorted(kept)[0], f"{len(kept)} files of checkpoints are in the model",
            "Each endpoint downloads them; hours of Uploading, and minutes more at every start",
            "Write checkpoints below /opt/ml/checkpoints",
        )  # fmt: skip
    size = sum(item.size for item in found.files)
    if size > _LARGE and found.is_archive:
        yield Finding(
            "artifact-large",
            "note",
            name,
            f"holds {size / (1 << 30):.1f} GiB",
            "Packing and unpacking take minutes each",
            'OutputDataConfig CompressionType "NONE"',
        )
    yield from _code(found, files, name)


def _code(found: Artifact, files: set[str], name: str) -> Iterator[Finding]:
    handlers = [path for path in files if path in ("code/inference.py", "inference.py")]
    if not handlers:
        yield Finding(
            "artifact-no-inference", "note", name, "has no code/inference.py",
            "AWS's PyTorch servers then know TorchScript only; the Hugging Face ones know save_pretrained's files",
            "Put one there: job.save_model(model, files={'code/inference.py': …}), or give it when the model is made",
        )  # fmt: skip
    elif "inference.py" in files and "code/inference.py" not in files:
        yield Finding(
            "artifact-inference-misplaced", "warning", "inference.py", "lies beside code/, not in it",
            f"{_AT_ENDPOINT}: the server does not find it", "Move it to code/inference.py",
        )  # fmt: skip
    for path in handlers:
        item = found.item(path)
        try:
            tree = ast.parse(item.head if item else b"", filename=path)
        except (SyntaxError, ValueError) as error:
            yield Finding(
                "artifact-inference-syntax", "error", path, f"does not compile: {error}", _AT_ENDPOINT, "Correct it"
            )
            continue
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        if "model_fn" not in defined and not defined & {"handle", "transform_fn"}:
            yield Finding(
                "artifact-no-model-fn",
                "warning",
                path,
                "defines no model_fn",
                f"{_AT_ENDPOINT}: nothing loads the model",
                "def model_fn(model_dir): …",
            )


def _weights(found: Artifact) -> Iterator[Finding]:
    if not any(item.name.endswith(_WEIGHTS) and item.name != MANIFEST for item in found.files):
        if found.whole and not found.damage:
            yield Finding(
                "artifact-no-weights",
                "error",
                found.files[0].name if found.files else "",
                "there are no weights in it",
                _AT_ENDPOINT,
                "Save the model, too: job.save_model(model)",
            )
        return
    loads = any(item.name == "code/inference.py" for item in found.files)
    for item in found.files:
        if item.name.endswith(".safetensors") and (problem := safetensors_problem(item)):
            yield Finding("artifact-safetensors", "error", item.name, problem, _AT_ENDPOINT, "Save it again")
        elif item.size == 0 and item.name.endswith(_WEIGHTS):
            yield Finding("artifact-empty-file", "error", item.name, "is empty", _AT_ENDPOINT, "Save it again")
        elif item.name.endswith((".pt", ".pth")) and item.inner and not _is_script(item.inner) and not loads:
            yield Finding(
                "artifact-state-dict",
                "warning",
                item.name,
                "is a state_dict, no TorchScript, and no code/inference.py loads it",
                f"{_AT_ENDPOINT}: torch.jit.load cannot read it",
                "torch.jit.script(model).save(…), or add code/inference.py with a model_fn that builds the model",
            )


def _is_script(names: tuple[str, ...]) -> bool:
    return any("/code/" in name or name.endswith("constants.pkl") for name in names)


def _manifest(found: Artifact) -> Iterator[Finding]:
    """trainkit.json beside the files that it describes."""
    item = found.item(MANIFEST)
    if item is None:
        return
    try:
        entries = {str(name): (int(entry["size"]), str(entry["sha256"]))
                   for name, entry in json.loads(item.head)["files"].items()}  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        yield Finding(
            "artifact-manifest",
            "error",
            MANIFEST,
            "is no manifest",
            "Nothing can tell whether the model is whole",
            "Save it again",
        )
        return
    for name, (size, sha256) in entries.items():
        there = found.item(name)
        problem = (
            "is missing" if there is None
            else f"has {there.size} bytes instead of {size}" if there.size != size
            else "has another content than was saved" if there.sha256 and there.sha256 != sha256 else ""
        )  # fmt: skip
        if problem:
            yield Finding(
                "artifact-manifest", "error", name, f"{problem} ({MANIFEST})",
                f"{_AT_ENDPOINT}, or answers with other weights", "Copy or save it again",
            )  # fmt: skip
