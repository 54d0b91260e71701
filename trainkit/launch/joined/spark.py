"""joined/spark.py PORT: the workers that Spark's master counts, from the page that it has on this host."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from urllib.parse import urlsplit


def main() -> None:
    # No proxy is asked for what is on this host.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    told: object = None
    while True:
        try:
            with opener.open(f"http://127.0.0.1:{sys.argv[1]}/json/", timeout=5) as answer:
                page = json.load(answer)
            # Our workers' pages have the host's name; their own address is but a number.
            alive = [worker for worker in page["workers"] if worker["state"] == "ALIVE"]
            now: object = sorted({urlsplit(worker["webuiaddress"]).hostname for worker in alive})
            if page["status"] != "ALIVE":
                now = f"the master is in state {page['status']}"
        except (OSError, ValueError, LookupError) as error:
            now = f"the master's page: {error}"
        if now != told:
            print(now if isinstance(now, str) else json.dumps(now), flush=True)
        told = now
        time.sleep(0.1)


if __name__ == "__main__":
    main()
