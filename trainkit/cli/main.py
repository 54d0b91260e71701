"""`trainkit`: the commands that people type."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainkit.errors import TrainkitError

_USAGE = """\
usage: trainkit COMMAND ...

  local SCRIPT   run a script as a SageMaker job on this machine, on one host or several
  process SCRIPT run a processing script: of the job under /opt/ml, or here
  plan  SCRIPT   show what would run: argv, environment, ranks, and why
  check TARGET   what is wrong with a script, a request, a model or an image, before it costs
  data  show|pack   look at data where it lies; write it anew in blocks that stream well
  checkpoint ls|verify|show|export|import   look at checkpoints, prove them whole, carry models in and out

trainkit COMMAND --help tells more. In an image, `train` runs the job that SageMaker laid under /opt/ml.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The executable: exits with the command's code."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    try:
        if name == "local":
            from trainkit.cli import local

            sys.exit(local.main(rest))
        if name == "plan":
            from trainkit.cli import plan

            sys.exit(plan.main(rest))
        if name == "check":
            from trainkit.cli import check

            sys.exit(check.main(rest))
        if name == "process":
            from trainkit.cli import process

            process.main(rest)
        if name in ("data", "checkpoint"):
            from trainkit.cli import inside

            inside.become(name, rest)
    except TrainkitError as error:
        print(f"trainkit {name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"trainkit {name}: interrupted", file=sys.stderr)
        sys.exit(130)
    if name in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return
    print(f"trainkit: {name!r} is no command\n{_USAGE}", end="", file=sys.stderr)
    sys.exit(64)


if __name__ == "__main__":
    main()
