"""Train from an S3 server on this machine: `python demo.py [OPTION...]`, with options of `trainkit local`.

The server is moto: it keeps what is uploaded in memory, and ends with this program.
"""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer

SHARDS, ROWS, GROUP = 8, 4096, 512


def shard(number):
    """A Parquet file of noisy sine waves, and how fast each of them swings."""
    random = np.random.default_rng(number)
    frequency, phase = random.random((2, ROWS, 1), dtype=np.float32)
    wave = np.sin(6.28 * (np.arange(32, dtype=np.float32) / 8 * (0.5 + frequency) + phase))
    wave += 0.1 * random.standard_normal(wave.shape, dtype=np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(wave.reshape(-1)), 32)
    out = io.BytesIO()
    pq.write_table(pa.table({"wave": lists, "frequency": frequency[:, 0]}), out, row_group_size=GROUP)
    return out.getvalue()


def main():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server.start()
    keys = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo", "AWS_REGION": "us-east-1"}
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    os.environ |= {**keys, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": endpoint}
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket="waves")
        for number in range(SHARDS):
            client.put_object(Bucket="waves", Key=f"train/part-{number}.parquet", Body=shard(number))
        script = Path(__file__).with_name("train.py")
        command = [sys.executable, "-m", "trainkit.cli.main", "local", script, "--hosts", "2", "--procs", "2"]
        environ = {**os.environ, "TRAINKIT_CHANNEL_TRAIN": "s3://waves/train"}
        return subprocess.run([*command, *sys.argv[1:]], env=environ, check=False).returncode
    finally:
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
