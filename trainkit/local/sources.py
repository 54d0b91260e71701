"""What a job reads, in the words of its request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """What a request says of one channel, or one input of a processing job."""

    what: str
    """Its name for people: "channel train"."""
    name: str
    path: str
    """Where hosts have it: /opt/ml/…"""
    url: str
    kind: str = "S3Prefix"
    mode: str = "File"
    sharded: bool = False
    gzip: bool = False
    recordio: bool = False
    attributes: tuple[str, ...] = ()
    seed: int | None = None
    hosts: tuple[str, ...] | None = None
    """Those that get it; None: all."""
    code: bool = False
    """It is a script's folder, of which caches and the like are no part."""
    copied: bool = False
    """Hosts have copies, whose modes they may change."""
