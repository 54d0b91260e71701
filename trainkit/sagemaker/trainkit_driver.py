"""What runs in the container, where nothing of trainkit is installed: unpack it beside, and be `train`.

The SDK's start script runs this file as it would run its torchrun driver, with the code as working directory. It may
also be the container's first process (trainkit.bash). The exit code and the failure file are those of `train`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import zipfile
from pathlib import Path

OLDEST = (3, 11)
OF_THE_IMAGE = ("SAGEMAKER_PROGRAM", "SAGEMAKER_SUBMIT_DIRECTORY")
"""Where an image made for the toolkit keeps a script of its own. This job's came with it."""


def main() -> None:
    # The kernel drops a SIGTERM for a first process that does not listen yet; held back, it waits until `train` does.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    if sys.version_info < OLDEST:
        sys.exit(f"trainkit needs Python 3.11 or newer, and this image has {sys.version.split()[0]}: use a newer image")
    place = tempfile.mkdtemp(prefix="trainkit-package-")
    try:
        with zipfile.ZipFile(Path(__file__).with_name("trainkit.zip")) as archive:
            archive.extractall(place)
        # Before an installed one, for us and for the ranks: the job's author has chosen this version.
        sys.path[0] = place
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH")]))
        for name in OF_THE_IMAGE:
            os.environ.pop(name, None)
        from trainkit.cli import train

        train.main()
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
