"""A training script that tells what it sees, with nothing but the standard library."""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

channels = json.loads(os.environ["SM_INPUT_DATA_CONFIG"])
host, data = os.environ["SM_CURRENT_HOST"], Path(os.environ["SM_INPUT_DIR"], "data")
seen = {
    "argv": sys.argv[1:], "env": dict(os.environ), "resources": json.loads(os.environ["SM_RESOURCE_CONFIG"]),
    "channels": channels, "files": {}, "piped": {}, "written": {}, "modes": {},
}  # fmt: skip


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def write(path):
    """What keeps a script from writing there."""
    try:
        path.write_text("scribble")
    except OSError as error:
        return error.strerror
    with suppress(OSError):
        path.unlink()
    return None


for name, facts in channels.items():
    place = data / name
    if facts["TrainingInputMode"] == "Pipe":
        with Path(f"{place}_0").open("rb") as pipe:  # closed early: the next epoch comes all the same
            pipe.read(1)
        epochs = [Path(f"{place}_{epoch}").read_bytes().decode("latin-1") for epoch in (1, 2)]
        seen["piped"][name] = epochs
    else:
        seen["files"][name] = {inner: (place / inner).read_text(errors="replace") for inner in names(place)}
        if facts["TrainingInputMode"] == "FastFile":
            seen["modes"][name] = sorted({p.stat().st_mode & 0o777 for p in [place, *place.rglob("*")] if p.is_dir()})
            links = names(place)[:1] if str(data).startswith("/opt/ml") else []  # elsewhere originals are within reach
            seen["written"][name] = [write(place / inner) for inner in ["new", *links]]

base = Path(os.environ["SM_MODEL_DIR"]).parent
config = Path(os.environ["SM_INPUT_CONFIG_DIR"], "checkpointconfig.json")
if config.is_file():
    local = json.loads(config.read_text())["LocalPath"]
    checkpoints = base / local.removeprefix("/opt/ml/") if local.startswith("/opt/ml/") else Path(local)
    seen["checkpoints"] = names(checkpoints)
    (checkpoints / f"{host}.ckpt").write_text(host)
board = base / "output/tensorboard"
if board.is_dir():
    (board / host).write_text("events")
Path(os.environ["SM_OUTPUT_DATA_DIR"], f"{host}.json").write_text(json.dumps(seen))
if os.environ.get("RANK", "0") == "0":
    Path(os.environ["SM_MODEL_DIR"], "model.bin").write_text("M")
for loss in ("0.5", "0.25"):
    print(f"probe on {host}: loss={loss}")
