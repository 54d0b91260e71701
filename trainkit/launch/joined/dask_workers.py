"""joined/dask_workers.py ADDRESS: the hosts whose workers Dask's scheduler counts."""

from __future__ import annotations

import asyncio
import json
import sys

from distributed import Client


async def _tell() -> None:
    told: object = None
    while True:
        try:
            async with Client(sys.argv[1], asynchronous=True, timeout=5, set_as_default=False) as client:
                while True:
                    identity = await client.scheduler.identity(n_workers=-1)
                    names = {str(worker["name"]).partition("/")[0] for worker in identity["workers"].values()}
                    if sorted(names) != told:
                        print(json.dumps(sorted(names)), flush=True)
                    told = sorted(names)
                    await asyncio.sleep(0.1)
        except OSError as error:  # nobody listens yet
            if str(error) != told:
                print(f"the scheduler: {error}".splitlines()[0], flush=True)
            told = str(error)
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(_tell())
