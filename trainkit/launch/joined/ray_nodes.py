"""joined/ray_nodes.py ADDRESS: the nodes that Ray's head counts."""

from __future__ import annotations

import json
import sys
import time

# The public ways are to become a driver, which takes seconds, or to have a dashboard.
from ray._raylet import GcsClient

_ALIVE = 0  # of ray.core.generated.gcs_pb2.GcsNodeInfo


def main() -> None:
    told: object = None
    while True:
        try:
            nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5)
            now: object = sorted(node.node_name for node in nodes.values() if node.state == _ALIVE)
        except Exception as error:  # noqa: BLE001 (its errors have no common class; each is told, and it is asked again)
            now = f"the head: {type(error).__name__}: {error}".splitlines()[0]
        if now != told:
            print(now if isinstance(now, str) else json.dumps(now), flush=True)
        told = now
        time.sleep(0.1)


if __name__ == "__main__":
    main()
