import sys, time, json, collections, functools

sys.path.insert(0, __file__.rsplit("/", 1)[0])
import rank as R, state
from trainkit.checkpoint import client, subjects, staging, own, checkpointer, holdings, statefile, tree

acc = collections.defaultdict(float)


def wrap(obj, name, label):
    f = getattr(obj, name)

    @functools.wraps(f)
    def g(*a, **k):
        t = time.perf_counter()
        try:
            return f(*a, **k)
        finally:
            acc[label] += time.perf_counter() - t

    setattr(obj, name, g)


wrap(client.Client, "ask", "ask")
wrap(client.Client, "staged", "staged msg")
wrap(client.Client, "agree", "agree")
wrap(client.Client, "room", "room")
wrap(subjects.Module, "collect", "collect model")
wrap(subjects.Module, "_state", "collect model: _state (state_dict)")
wrap(subjects.Optimizer, "collect", "collect optimizer")
wrap(subjects.Generators, "collect", "collect rngs")
wrap(subjects.Optimizer, "_names", "collect optimizer: names")
wrap(subjects.Collected, "add", "  add (all)")
wrap(holdings.Holders, "held", "    held")
wrap(subjects, "local", "    local (2)")
wrap(staging.Staging, "fits", "fits")
wrap(staging.Staging, "copy", "copy")
wrap(staging.Staging, "lay_out", "lay_out")
wrap(own, "measure", "copy: own.measure")
wrap(own.Own, "write_into", "copy: own.write_into")
import torch

o = state.settle
import ways

save = ways.Ours.save
rows = []


def s(self, step):
    acc.clear()
    t = time.perf_counter()
    save(self, step)
    acc["total"] = time.perf_counter() - t
    rows.append(dict(acc))


ways.Ours.save = s
import os

orig = R.stall


def st(*a):
    r = orig(*a)
    if os.environ["RANK"] == "0":
        import statistics

        for i in (0,):
            print("FIRST", {k: round(v * 1e3, 2) for k, v in rows[0].items()})
        keys = list(rows[-1])
        print("MEDIAN ms")
        for k in keys:
            print(
                f"   {k:40} {statistics.median(r_.get(k, 0) for r_ in rows[1:]) * 1e3:8.2f}  min {min(r_.get(k, 0) for r_ in rows[1:]) * 1e3:8.2f}"
            )
        print(
            "memcpy", statistics.median(x["copy"] for x in r["saves"]) * 1e3, min(x["copy"] for x in r["saves"]) * 1e3
        )
    return r


R.TASKS = {**R.TASKS, "stall": st}
R.main()
