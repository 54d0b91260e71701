"""Where Arrow's memory comes from where streams are read: from jemalloc, unless ARROW_DEFAULT_MEMORY_POOL says which.

Blocks are decoded by one thread and let go by another, a thousand for each GB. mimalloc, Arrow's own choice, gives
their pages back and asks for fresh ones, which the kernel fills with zeros: a quarter of the CPU, and 200 MB more at
the peak (docs/decisions/0005-streams.md).
"""

from __future__ import annotations

import os
import sys

_CHOICE = "ARROW_DEFAULT_MEMORY_POOL"


def before_arrow() -> None:
    """Arrow looks at the variable once, when it is imported: all of it then allocates there."""
    if "pyarrow" not in sys.modules:
        os.environ.setdefault(_CHOICE, "jemalloc")


def with_arrow() -> None:
    """Where the script was first to import it, what Arrow allocates for Python can still be moved: the larger part."""
    import pyarrow as pa

    free = _CHOICE not in os.environ and pa.default_memory_pool().backend_name == "mimalloc"
    if free and "jemalloc" in pa.supported_memory_backends():
        pa.set_memory_pool(pa.jemalloc_memory_pool())
