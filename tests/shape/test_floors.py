"""The floors of the house, read from every import statement: deferred ones and those under TYPE_CHECKING count too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "trainkit"
FLOORS = (
    "errors", "command", "contract", "storage", "plan data checkpoint artifact", "launch job code",
    "local processing", "check", "cli", "sagemaker",
)  # fmt: skip
LEVEL = {room: level for level, row in enumerate(FLOORS) for room in row.split()}
OUTSIDE = {"plan", "launch", "code", "local", "processing", "check", "sagemaker", "cli"}
INSIDE = {"data", "checkpoint", "artifact", "job"}
STANDARD_LIBRARY_ONLY = {"errors", "command", "contract", "plan", "launch"}
ARGUED = {
    # The rendezvous store is torch's; the template hosts it in a child that does nothing else.
    ("trainkit.launch.template", "torch.distributed"),
    # Scripts that the supervisor starts, each a process beside it; no module imports them.
    ("trainkit.launch.joined.ray_nodes", "ray._raylet"),
    ("trainkit.launch.joined.dask_workers", "distributed"),
    ("trainkit.launch.joined.dask_certificate", "cryptography"),
    ("trainkit.launch.joined.dask_certificate", "cryptography.hazmat.primitives"),
    ("trainkit.launch.joined.dask_certificate", "cryptography.hazmat.primitives.asymmetric.ed25519"),
    ("trainkit.launch.joined.dask_certificate", "cryptography.x509.oid"),
}

MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def room(module: str) -> str:
    """`trainkit.contract.job` → `contract`; empty for the package's own page, whose lazy names may point anywhere."""
    return (*module.split("."), "")[1]


def imports(module: str) -> Iterator[str]:
    """Full names of what a module imports: the modules themselves where they are ours; of the package, what is used."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name != "trainkit")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trainkit":
            yield f"trainkit.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for name in node.names:
                yield f"{base}.{name.name}" if base == "trainkit" or f"{base}.{name.name}" in MODULES else base


def inner() -> Iterator[tuple[str, str]]:
    return (
        (here, there)
        for here in MODULES
        for there in imports(here)
        if there.split(".")[0] == "trainkit" and there != "trainkit.__version__"
    )


def test_every_part_of_the_package_stands_on_a_floor() -> None:
    assert {room(module) for module in MODULES} - {"", *LEVEL} == set()


def test_no_module_looks_up_or_sideways() -> None:
    """Rooms on one floor do not know each other; the two wings never do."""
    steps = [(a, b) for a, b in inner() if room(a) and room(a) != room(b)]
    broken = [f"{a} imports {b}" for a, b in steps if room(b) not in LEVEL or LEVEL[room(b)] >= LEVEL[room(a)]]
    wings = [f"{a} imports {b}" for a, b in steps for x, y in [(OUTSIDE, INSIDE), (INSIDE, OUTSIDE)]
             if room(a) in x and room(b) in y]  # fmt: skip

    assert broken + wings == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for here, there in inner():
        if here != "trainkit":  # its page names rooms for the type checker; at run time it imports none
            graph[here].add(there)

    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_what_runs_before_the_script_needs_the_standard_library_only() -> None:
    allowed = {*sys.stdlib_module_names, "trainkit"}
    strangers = [
        f"{module} imports {name}"
        for module in MODULES
        if room(module) in STANDARD_LIBRARY_ONLY
        for name in imports(module)
        if name.split(".")[0] not in allowed and (module, name) not in ARGUED
    ]

    assert strangers == []
