"""Read the training data from S3 while training: no download before, no copy on the disk, an order that resumes."""

from itertools import chain, repeat

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import trainkit


def main():
    job = trainkit.job()
    if job.device.type == "cuda":
        torch.cuda.set_device(job.device)
    if job.world_size > 1:
        dist.init_process_group("nccl" if job.device.type == "cuda" else "gloo")
    torch.manual_seed(job.seed)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)).to(job.device)
    if job.world_size > 1:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=job.hp("lr", 3e-3))
    epochs, batch_size = job.hp("epochs", 2), job.hp("batch", 64)
    # With cache=FOLDER, the second epoch is read from this host's disk.
    stream = job.stream("train", batch_size=batch_size, shuffle=True, cache=job.hp("cache", None))
    total = epochs * len(stream)
    ckpt = job.checkpointer(model=model, optimizer=optimizer, stream=stream, every=50)
    start = ckpt.restore()  # the stream, too, goes on where the checkpoint was made
    loss = torch.nan  # for a restart that finds nothing left to do
    for step, batch in job.steps(chain(*repeat(stream, epochs - stream.epoch)), start=start, total=total):
        guess = model(batch["wave"].to(job.device)).squeeze(1)
        loss = nn.functional.mse_loss(guess, batch["frequency"].to(job.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ckpt.step(step, loss=loss)
        if step % 50 == 0:
            job.log(loss=loss)
    job.log(final_loss=loss, waited=stream.waited)
    job.save_model(model)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
