"""Processing jobs, and the features they make. Importing this pulls no engine: no duckdb, Spark, Ray or Dask."""

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

__all__ = [
    "Bucketize", "Check", "Features", "Hash", "HashSplit", "Log1p", "OneHot", "Passthrough", "Source", "Standardize",
    "TimeParts", "Tokens", "Vocabulary",
]  # fmt: skip
