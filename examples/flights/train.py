"""Predict how late a flight arrives, in minutes, from what is known when it leaves the gate."""

import json
from itertools import chain, repeat

import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from features import describe, tensors
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import trainkit


class Network(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(len(words) + 1, 8) for words in config["vocabularies"].values())
        width, inputs = config["width"], len(config["numbers"]) + 8 * len(self.tables)
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 1)

    def forward(self, numbers, categories):
        looked_up = [table(column) for table, column in zip(self.tables, categories.unbind(1), strict=True)]
        return self.head(self.body(torch.cat([numbers, *looked_up], 1))).squeeze(1)


def main():
    job = trainkit.job()
    torch.manual_seed(job.seed)
    accelerator = Accelerator(cpu=job.device.type == "cpu")
    train, test = (pq.read_table(job.channel(name)) for name in ("train", "test"))
    config = describe(train) | {"width": job.hp("width", 128)}
    mean, std = config["target"]
    data, model, epochs = TensorDataset(*tensors(train, config)), Network(config), job.hp("epochs", 4)
    batches = DataLoader(data, None, sampler=BatchSampler(RandomSampler(data), job.hp("batch", 512), drop_last=True))
    optimizer = torch.optim.AdamW(model.parameters(), job.hp("lr", 1e-3))
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    for step, (numbers, categories, late) in job.steps(chain(*repeat(batches, epochs)), total=epochs * len(batches)):
        loss = nn.functional.huber_loss(model(numbers, categories), (late - mean) / std)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            job.log(loss=accelerator.reduce(loss.detach(), "mean"))
    numbers, categories, late = (t[job.rank :: job.world_size].to(job.device) for t in tensors(test, config))
    with torch.inference_mode():
        guesses = {"test": model(numbers, categories) * std + mean, "baseline": torch.full_like(late, mean)}
    departed, spread = config["numbers"]["dep_delay"]
    guesses["carried"] = numbers[:, list(config["numbers"]).index("dep_delay")] * spread + departed
    for name, error in ((name, guess - late) for name, guess in guesses.items()):
        count, off, square = accelerator.reduce(torch.stack([torch.ones_like(error), error.abs(), error**2]).sum(1))
        job.log(**{f"{name}_mae": off / count, f"{name}_rmse": (square / count).sqrt()})
    job.save_model(model, files={"config.json": json.dumps(config)})
    accelerator.end_training()


if __name__ == "__main__":
    main()
