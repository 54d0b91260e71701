"""How a local training job ended, where things are, and how good the model is: the last words to a person."""

from __future__ import annotations

from pathlib import Path

from trainkit.cli import arguments
from trainkit.local.results import Result


def summary(result: Result, *, output: Path, took: float) -> str:
    """Several lines."""
    described = result.description
    lines = [f"{described['SecondaryStatus']} after {took:.1f} s, exit code {result.exit_code}"]
    if "FailureReason" in described:
        cause, *more = (result.failure or described["FailureReason"]).split("\n\n", 1)[0].splitlines()
        lines += [f"  cause    {cause}", *(f"           {line}" for line in more)]
        lines += [f"  failure  {arguments.near(path)}" for path in [output / "failure"] if path.exists()]
        lines += [
            f"  logs     {arguments.near(path)}" for path in [output / "logs"] if any(path.glob("*"))
        ]  # none at a terminal
    if isinstance(result.model, Path):
        lines.append(f"  model    {arguments.near(result.model)} ({_size(_bytes(result.model))})")
    elif result.model:
        lines.append(f"  model    {result.model}")
    metrics = {m["MetricName"]: m["Value"] for m in described["FinalMetricDataList"]}
    if metrics:
        lines.append("  metrics  " + "  ".join(f"{name}={_short(value)}" for name, value in metrics.items()))
    return "\n".join(lines)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def _short(value: float) -> str:
    return f"{value:.5g}"
