"""Processing jobs, and the features they make. Importing this pulls no engine: no duckdb, Spark, Ray or Dask."""

from __future__ import annotations

from trainkit.processing.features.declared import (
    Bucketize,
    Check,
    Features,
    Hash,
    HashSplit,
    Log1p,
    OneHot,
    Passthrough,
    Source,
    Standardize,
    TimeParts,
    Tokens,
    Vocabulary,
)
from trainkit.processing.here import job

__all__ = [
    "Bucketize", "Check", "Features", "Hash", "HashSplit", "Log1p", "OneHot", "Passthrough", "Source", "Standardize",
    "TimeParts", "Tokens", "Vocabulary", "job",
]  # fmt: skip
