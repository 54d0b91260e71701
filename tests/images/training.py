"""The job of these tests: a torch model on gloo ranks, saved at the end, or when the job is told to stop.

Hyperparameter `steps`: how many. Each rank says where it left, and the hash of its weights.
"""

import hashlib

import torch
import torch.distributed as dist

import trainkit


def main() -> None:
    job = trainkit.job()
    dist.init_process_group("gloo")
    torch.manual_seed(1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    checkpoints = job.checkpointer(model=model, optimizer=optimizer)
    step = start = checkpoints.restore()
    for step, _ in job.steps(range(start, job.hp("steps", 20)), start=start):
        x = torch.randn(8, 64)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
        optimizer.step()
        checkpoints.step(step)
        if step == start:
            print("under way", flush=True)
    digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    print(f"left after step {step} of {dist.get_world_size()} ranks with weights {digest}", flush=True)
    job.save_model(model)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
