"""One run of a rehearsal, in a process of its own: python -m trainkit.check.rehearse SPEC

SPEC is a file with {"script", "channels", "hyperparameters", "environment", "output", "name", "seconds"}.
Exits as the job does; what it says goes to stdout, and its result to <output>/describe.json.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path

from trainkit.errors import TrainkitError
from trainkit.launch.output import Console
from trainkit.local import service
from trainkit.local.request import Shorthand, compose
from trainkit.local.service import Options, Surroundings


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    output = Path(spec["output"])
    shorthand = Shorthand(
        script=Path(spec["script"]), channels=spec["channels"], hyperparameters=spec["hyperparameters"],
        environment=spec["environment"], max_runtime=spec["seconds"],
    )  # fmt: skip
    request = compose(shorthand, output=output, now=datetime.datetime.now())
    request["TrainingJobName"] = spec["name"]  # the second run is the same job, started again
    around = Surroundings(base=Path.cwd(), code="code", own_metrics=True)
    try:
        return service.run(request, Options(output=output, environ=os.environ), around, Console()).exit_code
    except TrainkitError as error:
        print(f"trainkit check: {error}", flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
