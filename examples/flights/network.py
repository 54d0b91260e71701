"""The network, and rows of features as its tensors: the same in training and in predict.py."""

import numpy as np
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, 8) for count in config["codes"].values())
        width, inputs = config["width"], len(config["numbers"]) + 8 * len(self.tables)
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 1)

    def forward(self, numbers, categories):
        looked_up = [table(column) for table, column in zip(self.tables, categories.unbind(1), strict=True)]
        return self.head(self.body(torch.cat([numbers, *looked_up], 1))).squeeze(1)


def tensors(columns, config):
    """(numbers, categories): float32 [rows, numbers] and int64 [rows, categories], of arrays by feature."""
    numbers, codes = (np.stack([columns[name] for name in config[kind]], 1) for kind in ("numbers", "codes"))
    return torch.from_numpy(numbers), torch.from_numpy(codes).long()
