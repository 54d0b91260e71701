"""The script's files: that they compile, and that what they import is there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from functools import cache

from trainkit.check.code import Code, Import, Module, imports, normal
from trainkit.check.facts import Facts
from trainkit.check.finding import AT_START, IN_SCRIPT, Finding

_OTHER_NAMES = {
    "sklearn": "scikit-learn", "cv2": "opencv-python", "PIL": "pillow", "yaml": "pyyaml", "bs4": "beautifulsoup4",
    "skimage": "scikit-image", "dateutil": "python-dateutil", "dotenv": "python-dotenv", "attr": "attrs",
    "Crypto": "pycryptodome", "umap": "umap-learn", "faiss": "faiss-cpu", "magic": "python-magic", "git": "gitpython",
    "google": "protobuf", "pytorch_lightning": "pytorch-lightning", "sentence_transformers": "sentence-transformers",
    "flash_attn": "flash-attn", "pkg_resources": "setuptools", "wandb": "wandb", "ruamel": "ruamel-yaml",
}  # fmt: skip
"""Where the name that is imported is not the distribution's."""


def there(facts: Facts) -> Iterator[Finding]:
    """The entry point itself."""
    if facts.missing_script:
        listed = ", ".join(facts.code.others[:8]) if facts.code else ""
        yield Finding(
            "script-missing",
            "error",
            facts.missing_script,
            f"is not in {facts.code.folder if facts.code else 'the code'}{f', which holds {listed}' if listed else ''}",
            f"{AT_START}: there is no such script",
            "Name the script with sagemaker_program or TRAINKIT_SCRIPT, or put it there",
        )


def compiles(facts: Facts) -> Iterator[Finding]:
    """Every module of the folder, as the image's Python reads it."""
    code = facts.code
    if not code:
        return
    version = ".".join(map(str, facts.image.python)) if facts.image and facts.image.python else ""
    reached = {module.path for module in code.closure} | {code.script}
    for module in code.modules:
        if module.error:
            used = module.path in reached
            yield Finding(
                "syntax", "error" if used else "warning", f"{module.name}:{module.line}",
                f"does not compile{f' with Python {version}' if version else ''}: {module.error}",
                f"{IN_SCRIPT}: SyntaxError" if used else "Whatever imports it fails", "Correct it",
            )  # fmt: skip


def imported(facts: Facts) -> Iterator[Finding]:
    """What is imported is in the folder, in requirements.txt, or in the image."""
    code = facts.code
    if not code:
        return
    for module in code.closure:
        for one in imports(module):
            if one.level:
                yield from _relative(code, module, one)
            elif one.name and not one.optional and not _is_there(facts, code, one):
                yield _missing(facts, code, module, one)


def _relative(code: Code, module: Module, one: Import) -> Iterator[Finding]:
    where = f"{module.name}:{one.line}"
    if module.path == code.script:
        yield Finding(
            "import-relative",
            "error",
            where,
            f"a script cannot import relatively (from {'.' * one.level}{one.name})",
            f"{IN_SCRIPT}: ImportError, no known parent package",
            f"Write it without the dots: import {one.name or '…'}",
        )
    elif one.name and not one.optional and not _in_folder(code, module, one):
        yield Finding(
            "import-missing", "error", where, f"there is no module {'.' * one.level}{one.name} beside it",
            f"{IN_SCRIPT}: ModuleNotFoundError", "Put it into the folder",
        )  # fmt: skip


def _in_folder(code: Code, module: Module, one: Import) -> bool:
    base = code.script.parent if not one.level else module.path.parents[one.level - 1]
    return bool(code.files_of(one.name, module, level=one.level)) or base.joinpath(*one.name.split(".")).is_dir()


def _is_there(facts: Facts, code: Code, one: Import) -> bool:
    top = one.name.split(".")[0]
    own = code.script.parent / top
    if own.is_dir() and any(own.rglob("*.py")):
        return _in_folder(code, code.closure[0], one)
    if own.with_suffix(".py").is_file() or any(own.parent.glob(f"{top}.*.so")):
        return True
    if top in sys.stdlib_module_names or normal(_OTHER_NAMES.get(top, top)) in code.requirements:
        return True
    if facts.image:
        return top in facts.image.modules or normal(_OTHER_NAMES.get(top, top)) in facts.image.distributions
    return _here(top) or bool(set(code.requirements) & {normal(name) for name in _brings(top)})


def _missing(facts: Facts, code: Code, module: Module, one: Import) -> Finding:
    top = one.name.split(".")[0]
    distribution = _OTHER_NAMES.get(top, top.replace("_", "-"))
    sure = facts.image is not None or (code.script.parent / top).is_dir()
    place = "the image" if facts.image else "this environment"
    remedy = f"Add {distribution} to requirements.txt or to the image, or its file to {code.script.parent.name}/"
    return Finding(
        "import-missing", "error" if sure else "warning", f"{module.name}:{one.line}",
        f"{one.name} is neither in the folder, nor in requirements.txt, nor in {place}",
        f"{IN_SCRIPT}: ModuleNotFoundError{'' if sure else ', unless the image has it'}", remedy,
    )  # fmt: skip


@cache
def _here(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError, AttributeError):
        return False


@cache
def _brings(top: str) -> tuple[str, ...]:
    """Distributions that are known to bring a module of that name."""
    from importlib.metadata import packages_distributions

    return tuple(packages_distributions().get(top, ()))


def shadows(facts: Facts) -> Iterator[Finding]:
    """A file of the folder that is taken for a library which has its name."""
    code = facts.code
    if not code:
        return
    wanted = {one.name.split(".")[0] for module in code.modules for one in imports(module) if not one.level}
    libraries = ("torch", "numpy", "accelerate", "transformers", "datasets", "trainkit", "boto3", "sagemaker")
    for module in code.modules:
        name = module.path.stem
        common = name in sys.stdlib_module_names or name in libraries
        if module.path.parent == code.script.parent and common and module.path != code.script:
            used = "" if name in wanted else ", and libraries that import it"
            yield Finding(
                "module-shadows", "warning", module.name, f"has the name of a library: `import {name}` finds this file",
                f"{IN_SCRIPT}, or later in a puzzling place: the script{used} gets this file instead of the library",
                "Rename it",
            )  # fmt: skip


def entry(facts: Facts) -> Iterator[Finding]:
    """Shell scripts keep no mode on S3, and no carriage returns either."""
    code = facts.code
    if code and code.script.suffix == ".sh" and code.script.is_file():
        with code.script.open("rb") as content:
            head = content.readline(4096)
        if head.endswith(b"\r\n"):
            yield Finding(
                "script-crlf",
                "error",
                f"{code.script.name}:1",
                "has Windows line ends (CRLF)",
                f"{IN_SCRIPT}: '$\\r': command not found, or a bad interpreter",
                "dos2unix, and *.sh eol=lf in .gitattributes",
            )
