"""The job as its script sees it: `trainkit.job()`.

`trainkit.job` is what scripts call, and also the package with `trainkit.job.metrics` in it. Importing a submodule
binds the package to that name, over any function that stood there; so the package itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainkit.job.context import Context


class _Job(ModuleType):
    def __call__(self) -> Context:
        """This process's job. The first call reads it; later calls give the same object.

        Raises ConfigError with every mistake in the job's configuration. Sets no random state, starts no process group.
        """
        from trainkit.job.context import current

        return current()


sys.modules[__name__].__class__ = _Job
