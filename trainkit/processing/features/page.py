"""report.html: one page, no scripts, nothing loaded from elsewhere. Plots are SVG within it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem; } h2 small { font-weight: normal; opacity: .65; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; display: block;
  overflow-x: auto; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } code { overflow-wrap: anywhere; }
.bad { color: #c22; font-weight: 600; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: .5rem 0; }
figcaption { font-size: .8rem; opacity: .7; }
rect { fill: #4a7fb5; } rect.none { fill: #999; } text { fill: currentColor; font-size: 10px; }
"""
_DRIFTED = 0.25
_FACTS = ("nulls", "not_finite", "distinct", "min", "max", "mean", "std")


def page(report: Mapping[str, Any]) -> str:
    """The whole page, of what report.json says."""
    body = [
        "<h1>Features</h1>", f"<p>Artifact <code>{escape(report['artifact'])}</code></p>", _rows(report),
        _checks(report["checks"]), _vocabularies(report["vocabularies"]), _drifts(report["columns"]),
        *(_column(name, one) for name, one in report["columns"].items()),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Features</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(part for part in body if part) + "\n</body></html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>\n{lines}</table>"


def _rows(report: Mapping[str, Any]) -> str:
    lines = [
        [escape(name), f"{rows:,}", f"{report['sampled'].get(name, 0):,}"] for name, rows in report["rows"].items()
    ]
    return _table(["split", "rows", "of them in the plots"], lines)


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    if not checks:
        return ""
    lines = []
    for check in checks:
        verdict = "holds" if check["passed"] else '<span class="bad">failed</span>'
        lines.append(
            [
                f"<code>{escape(check['condition'])}</code>",
                verdict,
                f"{sum(check['failed'].values()):,}",
                f"{check['allow']:.2%}",
            ]
        )
    return "<h2>Checks</h2>" + _table(["condition", "", "rows that fail", "allowed"], lines)


def _vocabularies(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    splits = list(next(iter(found.values()))["unknown"])
    lines = [
        [escape(name), f"{one['words']:,}", *(f"{one['unknown'][split]:.3%}" for split in splits)]
        for name, one in found.items()
    ]
    return "<h2>Vocabularies <small>share of values that are not in it</small></h2>" + _table(
        ["output", "words", *map(escape, splits)], lines
    )


def _drifts(columns: Mapping[str, Any]) -> str:
    ranked = sorted(
        (
            (d["psi"], name, split, d["jensen_shannon"])
            for name, one in columns.items()
            for split, d in one["drift"].items()
        ),
        reverse=True,
    )[:10]
    if not ranked:
        return ""
    lines = [
        [escape(name), escape(split), f'<span class="{"bad" if psi > _DRIFTED else ""}">{psi:.4f}</span>', f"{js:.4f}"]
        for psi, name, split, js in ranked
    ]
    note = f"<small>against train, the largest; above {_DRIFTED} is much</small>"
    return f"<h2>Drift {note}</h2>" + _table(["column", "split", "PSI", "Jensen-Shannon"], lines)


def _column(name: str, one: Mapping[str, Any]) -> str:
    splits = one["splits"]
    facts = [fact for fact in _FACTS if any(fact in found for found in splits.values())]
    quantiles = list(next((found["quantiles"] for found in splits.values() if found.get("quantiles")), {}))
    lines = [
        [escape(split), *(_shown(found.get(fact)) for fact in facts),
         *(_shown(found.get("quantiles", {}).get(q)) for q in quantiles)]
        for split, found in splits.items()
    ]  # fmt: skip
    head = ["split", *(fact.replace("_", " ") for fact in facts), *(f"{float(q):.0%}" for q in quantiles)]
    plots = "".join(_plot(split, shares, one) for split, shares in one["shares"].items())
    title = f"<h2>{escape(name)} <small>{escape(one['kind'])}</small></h2>"
    return f'{title}{_table(head, lines)}<div class="plots">{plots}</div>'


def _plot(split: str, shares: Sequence[float], one: Mapping[str, Any]) -> str:
    labels = _labels(one)
    width, height, step = 300, 90, 300 / max(len(shares), 1)
    most = max(shares, default=0) or 1
    bars = ""
    for place, (share, label) in enumerate(zip(shares, labels, strict=True)):
        tall, none = height * share / most, " class=none" * (place == len(shares) - 1)
        bars += (
            f'<rect{none} x="{place * step:.1f}" y="{height - tall:.1f}" width="{step * 0.9:.1f}" height="{tall:.1f}">'
            f"<title>{escape(label)}: {share:.2%}</title></rect>"
        )
    ends = f'<text x="0" y="{height + 12}">{escape(labels[0][:24])}</text>'
    ends += f'<text x="{width}" y="{height + 12}" text-anchor="end">null, not finite</text>'
    return (
        f'<figure><svg width="{width}" height="{height + 16}" role="img" aria-label="{escape(split)}">'
        f"{bars}{ends}</svg>"
        f"<figcaption>{escape(split)}; tallest {most:.1%}</figcaption></figure>"
    )


def _labels(one: Mapping[str, Any]) -> list[str]:
    if "top" in one:
        return [*(value[:60] or "(empty)" for value in one["top"]), "another value", "null"]
    edges = [_moment(edge) if one["kind"] in ("timestamp", "date") else f"{edge:.6g}" for edge in one["edges"]]
    return [*(f"{low} … {high}" for low, high in pairwise(edges)), "null, not finite"]


def _moment(seconds: float) -> str:
    try:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return f"{seconds:.6g} s"
    return moment.isoformat(" ", "minutes")


def _shown(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value)[:40])
