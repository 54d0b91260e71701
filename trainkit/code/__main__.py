"""Do one order: fetch, unpack, install; and say what came of it in a file.

    python -P -m trainkit.code ORDER ANSWER

Both are files of JSON in the run folder: plan.code.Order, and either what makes a plan.code.Prepared, or `failure` and
`exit_code`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from trainkit.contract.secrets import scrub
from trainkit.errors import CodeError, TrainkitError
from trainkit.plan.code import package
from trainkit.storage.commit import write_whole


def main() -> None:
    order, answer = map(Path, sys.argv[1:])
    signal.signal(signal.SIGTERM, _end)
    try:
        told = carry_out(json.loads(order.read_text(encoding="utf-8")))
    except TrainkitError as error:
        told = {"failure": scrub(str(error)), "exit_code": error.exit_code}
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        told = {"failure": scrub(f"the job's code cannot be made ready: {what}"), "exit_code": CodeError.exit_code}
    except Exception as error:  # noqa: BLE001 (nobody above us could say what happened, nor keep secrets out of it)
        import traceback

        _say(traceback.format_exc().rstrip())
        what = f"trainkit itself failed with the job's code: {type(error).__name__}: {error}"
        told = {"failure": scrub(what), "exit_code": TrainkitError.exit_code}
    write_whole(answer, json.dumps(told))


def carry_out(order: Mapping[str, Any]) -> dict[str, Any]:
    """Where the code lies, and what to put on the ranks' paths. Raises TrainkitError."""
    folder = Path(order["folder"])
    if order["region"] and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        os.environ["AWS_REGION"] = order["region"]
    if order["source"]:
        from trainkit.code.fetch import fetch

        folder = fetch(order["source"], into=folder, say=_say)
    from trainkit.code import install

    file = install.requirements_file(folder, order["requirements"])
    is_package = order["requirements"] != "" and package(folder, module=order["module"])
    if not file and not is_package:
        return {"folder": str(folder), "paths": [], "programs": None}
    made = install.install(
        folder, root=Path(order["root"]), file=file, package=is_package,
        allow_replace=tuple(order["allow_replace"]), say=_say,
    )  # fmt: skip
    if made is None:
        return {"folder": str(folder), "paths": [], "programs": None}
    programs = str(made.programs) if made.has_programs() else None
    return {"folder": str(folder), "paths": made.paths(), "programs": programs}


def _say(text: str) -> None:
    print(scrub(text), flush=True)


def _end(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
