"""Whether there is a way out of this container, and what to say where there is none."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ISOLATED = (
    "This container has no way out, as with EnableNetworkIsolation: send the code as the channel `code`, with what it "
    "requires in it or in the image"
)
UNREACHED = (
    "Where the job runs with EnableNetworkIsolation, or in a VPC without a route there, send the code as the channel "
    "`code`, with what it requires in it or in the image"
)
_PATIENCE = 5.0  # seconds for one address; a few are tried
_ADDRESSES = 2


def has_route() -> bool:
    """Whether the kernel knows a way to anywhere. Where it does not say, it is taken to."""
    told = False
    for table, is_default in (("/proc/net/route", _is_default), ("/proc/net/ipv6_route", _is_default_6)):
        with suppress(OSError, IndexError):
            lines = [line.split() for line in Path(table).read_text(encoding="ascii").splitlines()]
            told = True
            if any(is_default(fields) for fields in lines if fields):
                return True
    return not told


def _is_default(fields: list[str]) -> bool:
    return fields[1] == "00000000"


def _is_default_6(fields: list[str]) -> bool:
    return fields[0] == "0" * 32 and fields[1] == "00" and fields[-1] != "lo"  # lo's routes reject what they are given


def remedy() -> str:
    """What to do about a server that does not answer."""
    return UNREACHED if has_route() else ISOLATED


def answers(host: str, port: int) -> bool:
    """Whether something takes a connection there. At most a quarter of a minute, whatever the network does."""
    for pause in (0.5, 0.0):  # names may not resolve in a container's first second
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            time.sleep(pause)
            continue
        for family, kind, protocol, _, address in found[:_ADDRESSES]:
            with socket.socket(family, kind, protocol) as probe, suppress(OSError):
                probe.settimeout(_PATIENCE)
                probe.connect(address)
                return True
        return False
    return False


def has_proxy(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether connections go through a proxy, so that a direct one would prove nothing."""
    names = ("https_proxy", "http_proxy", "all_proxy")
    return any(environ.get(name) or environ.get(name.upper()) for name in names)
