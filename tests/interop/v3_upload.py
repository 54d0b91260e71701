"""What ModelTrainer uploads as the channel sm_drivers, laid by hand from the SDK's own files.

The SDK itself is a hundred distributions heavy; its drivers and the template of its start script are in one of them.
"""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import peers

SOURCE_CODE = {
    "source_dir": "src",
    "requirements": None,
    "entry_script": "train.py",
    "command": None,
    "ignore_patterns": [".git"],
    "args": None,
}
COMMAND = (
    "/bin/bash",
    "-c",
    "chmod +x /opt/ml/input/data/sm_drivers/sm_train.sh && /opt/ml/input/data/sm_drivers/sm_train.sh",
)
"""The container's entrypoint and arguments."""


def lay(folder: Path, *, distributed: dict[str, Any], script: str, driver_dir: Path | None = None) -> None:
    """The channel, with `script` (a file's name) as the driver. Skips where the SDK's files are not installed."""
    shipped = peers.container_drivers()
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("__pycache__"))
    if driver_dir:
        shutil.copytree(driver_dir, folder / "distributed_drivers", dirs_exist_ok=True)
    (folder / "sourcecode.json").write_text(json.dumps(SOURCE_CODE))
    (folder / "distributed.json").write_text(json.dumps(distributed))
    templates = runpy.run_path(str(shipped.parent / "templates.py"))
    run = templates["EXEUCTE_DISTRIBUTED_DRIVER"].format(driver_name="Trainkit", driver_script=script)
    text = templates["TRAIN_SCRIPT_TEMPLATE"].format(
        working_dir="cd /opt/ml/input/data/code \n", install_requirements="", execute_driver=run
    )
    (folder / "sm_train.sh").write_text(text)
