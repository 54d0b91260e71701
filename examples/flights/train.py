"""Predict how late a flight arrives, in minutes, from what is known when it leaves the gate."""

import json
from itertools import chain, repeat

import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from network import Network, tensors
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trainkit
from trainkit.processing.features import artifact


def read(folder, config):
    """(numbers, categories, arrival delay, departure delay), one row per flight."""
    table = pq.read_table(folder)
    rows = {name: table[name].to_numpy() for name in (*config["numbers"], *config["codes"], "arr_delay", "departed")}
    late, departed = (torch.from_numpy(rows[name]).float() for name in ("arr_delay", "departed"))
    return *tensors(rows, config), late, departed


def main():
    job = trainkit.job()
    torch.manual_seed(job.seed)
    accelerator = Accelerator(cpu=job.device.type == "cpu")
    fitted = artifact.load(job.channel("train"))
    config = {"numbers": fitted.numbers, "codes": fitted.codes, "width": job.hp("width", 128)}
    *train, late, _ = read(job.channel("train"), config)
    config["mean"], config["std"] = mean, std = late.mean().item(), late.std().item()
    data, model, epochs = TensorDataset(*train, late), Network(config), job.hp("epochs", 4)
    # The batches are of row numbers: their rows are cut out of the table at once, and not put together one by one.
    batch, rows = job.hp("batch", 512), range(len(data))
    batches = DataLoader(rows, batch, shuffle=True, drop_last=True, collate_fn=data.__getitem__)
    optimizer = torch.optim.AdamW(model.parameters(), job.hp("lr", 1e-3))
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    for step, (numbers, categories, late) in job.steps(chain(*repeat(batches, epochs)), total=epochs * len(batches)):
        loss = nn.functional.huber_loss(model(numbers, categories), (late - mean) / std)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            job.log(loss=accelerator.reduce(loss.detach(), "mean"))
    test = (column[job.rank :: job.world_size].to(job.device) for column in read(job.channel("test"), config))
    numbers, categories, late, departed = test
    with torch.inference_mode():
        guesses = {"test": model(numbers, categories) * std + mean, "baseline": torch.full_like(late, mean)}
    for name, error in ((name, guess - late) for name, guess in (guesses | {"carried": departed}).items()):
        count, off, square = accelerator.reduce(torch.stack([torch.ones_like(error), error.abs(), error**2]).sum(1))
        job.log(**{f"{name}_mae": off / count, f"{name}_rmse": (square / count).sqrt()})
    job.save_model(model, files={"config.json": json.dumps(config)})
    accelerator.end_training()


if __name__ == "__main__":
    main()
