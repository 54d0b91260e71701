"""The processing job that this process is part of."""

from __future__ import annotations

import functools
import os

from trainkit.contract import processing
from trainkit.contract.paths import Paths
from trainkit.contract.processing import ProcessingJob


@functools.cache
def job() -> ProcessingJob:
    """This host's view of the job, read once: name, host, hosts, inputs and outputs by name, each with path and URL.

    Without the service's files it is a job of one host without inputs. Raises ConfigError where they make no sense.
    """
    return processing.read(Paths.of(os.environ), environ=os.environ)
