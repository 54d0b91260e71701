"""Rows of a table as tensors, in training and wherever the model is used later."""

import pyarrow as pa
import pyarrow.compute as pc
import torch

TARGET = "arr_delay"


def describe(rows):
    """What `tensors` must know, from the training rows: a vocabulary per text column, (mean, std) per number."""
    texts = [field.name for field in rows.schema if field.type == "string"]
    words = {name: sorted(rows[name].unique().drop_null().to_pylist()) for name in texts}
    numbers = [name for name in rows.column_names if name not in texts]
    scale = {name: (pc.mean(rows[name]).as_py(), pc.stddev(rows[name]).as_py()) for name in numbers}
    return {"target": scale.pop(TARGET), "numbers": scale, "vocabularies": words}


def tensors(rows, config):
    """(numbers, categories, target): float32 [rows, numbers], int64 [rows, categories] and float32 [rows], in minutes.

    A missing number is the mean; 0 stands for a missing or unknown word.
    """
    numbers = [(torch.tensor(rows[name].to_numpy()) - mean) / std for name, (mean, std) in config["numbers"].items()]
    places = [pc.index_in(rows[name], pa.array(words)).fill_null(-1) for name, words in config["vocabularies"].items()]
    categories = [torch.tensor(column.to_numpy()).long() + 1 for column in places]
    return torch.stack(numbers, 1).nan_to_num(), torch.stack(categories, 1), torch.tensor(rows[TARGET].to_numpy())
