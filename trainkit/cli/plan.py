"""`trainkit plan`: what `trainkit local` would run with the same arguments, and why; nothing is started."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainkit.cli import arguments
from trainkit.contract import job as contract
from trainkit.contract.paths import Paths
from trainkit.local import config, layout
from trainkit.local.request import Shorthand, compose, hosts
from trainkit.plan import code, explain, launch, machine, script
from trainkit.plan.code import Order
from trainkit.plan.launch import LaunchPlan


def main(argv: Sequence[str]) -> int:
    parser = arguments.Parser(prog="trainkit plan", description="Show what would run on each host, and why.")
    arguments.add(parser)
    parser.add_argument("--json", action="store_true", help="everything, environment included, as JSON")
    given = parser.parse_args(argv)
    plans = make(arguments.shorthand(given))
    if given.json:
        print(json.dumps([explain.as_data(plan, order) for plan, order in plans], indent=2))
    else:
        print("\n\n".join(explain.as_text(plan, order) for plan, order in plans))
    return 0


def make(shorthand: Shorthand) -> list[tuple[LaunchPlan, Order | None]]:
    """One plan per host, and what must be done with the code first. Raises ConfigError as `train` would."""
    request = compose(shorthand, output=Path("trainkit-output"), now=datetime.datetime.now())
    environ = layout.environment(request, os.environ)
    here = machine.look(environ)
    plans = []
    for host in hosts(request):
        with tempfile.TemporaryDirectory() as folder:
            config.write(request, host=host, interface="lo", config=Path(folder))
            job = contract.read(Paths(), environ=environ, config=Path(folder))
        # On the host the script's folder will be the channel `code`; its imports can be read where it is now.
        placed = script.locate(job)
        real = shorthand.script.resolve()
        seen = script.look(script.Script(real, real.parent))
        entry = dataclasses.replace(seen, path=placed.path, folder=placed.folder)
        order = code.order(dataclasses.replace(job, unpacked=real.parent), seen)
        plans.append((launch.make(job, machine=here, script=entry, environ=environ), order))
    return plans
