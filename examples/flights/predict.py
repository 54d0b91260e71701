"""How late will this flight be? `python predict.py MODEL [--flight flight.json] [--rows DIR]`

The model, a folder or model.tar.gz, is all it needs: the weights, and what the features were fitted with. `--rows` is
what features.py wrote: the flight is looked up there, and every feature must have the same bits as in training.
"""

import argparse
import json
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
from network import Network, tensors

import trainkit
from trainkit.processing.features import artifact


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--flight", type=Path, default=Path(__file__).with_name("flight.json"))
    parser.add_argument("--rows", type=Path)
    asked = parser.parse_args()
    flight = json.loads(asked.flight.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpacked(asked.model, Path(scratch))
        config = json.loads((folder / "config.json").read_text())
        fitted = artifact.load(folder)  # the one that trainkit.json names, or an error
        model = Network(config)
        trainkit.load_model(model, folder)
    features = fitted.row(flight)
    with torch.inference_mode():
        guess = model(*tensors({name: np.array([one]) for name, one in features.items()}, config))
    print(f"{flight['id']}: {guess.item() * config['std'] + config['mean']:.1f} minutes late, by the model")
    if asked.rows:
        compare(flight, features, asked.rows)


def unpacked(model, scratch):
    if model.is_dir():
        return model
    with tarfile.open(model) as archive:
        archive.extractall(scratch, filter="data")
    return scratch


def compare(flight, features, folder):
    import pyarrow.parquet as pq

    (row,) = pq.read_table(folder, filters=[("id", "=", flight["id"])]).to_pylist()
    trained = {name: np.array(row[name], np.asarray(one).dtype) for name, one in features.items()}
    if other := [name for name, one in features.items() if trained[name].tobytes() != np.asarray(one).tobytes()]:
        sys.exit(f"not the bits of training: {', '.join(other)}")
    print(f"{len(features)} features have the bits they had in training; it was {row['arr_delay']} minutes late")


if __name__ == "__main__":
    main()
