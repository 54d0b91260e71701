"""Plain torch: a process group, DistributedDataParallel, a DataLoader with two workers. The data is made here."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import trainkit


class Waves(Dataset):
    """Noisy sines; the model is to tell how fast each one swings. Sample i is the same wherever it is made."""

    def __init__(self, length, *, seed):
        self.length, self.seed = length, seed

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        frequency, phase = torch.rand(2, generator=random)
        wave = torch.sin(6.28 * (torch.arange(32) / 8 * (0.5 + frequency) + phase))
        return wave + 0.1 * torch.randn(32, generator=random), frequency


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
    data = Waves(job.hp("samples", 16_384), seed=job.seed)
    sampler = DistributedSampler(data, num_replicas=job.world_size, rank=job.rank, seed=job.seed)
    loader = DataLoader(data, batch_size=64, sampler=sampler, num_workers=2)
    for step, (waves, frequencies) in job.steps(loader):
        loss = nn.functional.mse_loss(model(waves.to(job.device)).squeeze(1), frequencies.to(job.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            job.log(loss=loss)
    job.log(final_loss=loss)
    job.save_model(model)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
