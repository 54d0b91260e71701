"""What keeps strangers out of a link between hosts: both ends know one key, and every message is sealed with it.

    host → first   who it is, and a number that was never used before     }  HMAC of all this under the key
    first → host   another such number                                    }  is the key of this connection
    either way     HMAC(key of the connection, direction, how many messages came before, message), and the message

A seal fits one message, at its place, in its direction, on this connection: nothing can be changed, put in, left out,
said again or sent back. The host shows first that it knows the key: whoever merely connects is told nothing that a
guess could be tried on. What is said can be read on the way, but for one secret a connection: `cover` hides that from
whoever does not know the key.

hashlib and hmac cost a start 5 ms, and most jobs have one host: they are imported where a link is made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping

from trainkit.contract.environ import CLUSTER_KEY
from trainkit.errors import ConfigError, Mistake

_SHORTEST = 16  # characters; who records a handshake may try all shorter keys at leisure


def key_for(environ: Mapping[str, str], *, job: str, hosts: Iterable[str]) -> bytes:
    """The key that all hosts of a job have: 32 bytes from CLUSTER_KEY, else from what all of them know anyway.

    Raises ConfigError where the variable holds too little to be a key.
    """
    import hashlib

    given = environ.get(CLUSTER_KEY)
    if given is None:
        return hashlib.sha256(b"trainkit, job and hosts\0" + json.dumps([job, *hosts]).encode()).digest()
    text = given.strip()  # a key that was read from a file ends in a newline on some hosts, and on others not
    if len(text) < _SHORTEST:
        problem = f"holds {len(text)} characters, and a key has at least {_SHORTEST}"
        remedy = "Set it alike on all hosts, for instance to what `openssl rand -hex 32` prints, or not at all"
        raise ConfigError([Mistake("environment", CLUSTER_KEY, None, problem, remedy)])
    return hashlib.sha256(b"trainkit, cluster key\0" + os.fsencode(text)).digest()


def nonce() -> str:
    """A number that was never used before."""
    return os.urandom(16).hex()


class BrokenSeal(Exception):
    """A message that the other end did not say here and now."""


class Seal:
    """One connection's seals: of what this end says, and of what it hears. `facts` are alike at both ends."""

    _LENGTH = 32  # hexadecimal digits of an HMAC, which are 128 bits

    def __init__(self, key: bytes, *facts: str, first: bool) -> None:
        session = _digest(key, json.dumps(facts).encode())
        # A key for each direction: what one end has said is no word of the other's.
        ends = [_digest(session, end) for end in (b"first", b"host")]
        self._own, self._others = ends if first else reversed(ends)
        self._pad = _digest(session, b"secret")
        self._said = self._heard = 0

    @property
    def proven(self) -> bool:
        """Whether the other end has shown that it knows the key."""
        return self._heard > 0

    def seal(self, message: bytes) -> bytes:
        """The next message that this end says, with its seal."""
        self._said += 1
        return _mac(self._own, self._said, message)[: self._LENGTH] + b" " + message

    def open(self, line: bytes) -> bytes:
        """The next message that the other end says. Raises BrokenSeal where it is not."""
        import hmac

        seal, _, message = line.partition(b" ")
        if not hmac.compare_digest(seal, _mac(self._others, self._heard + 1, message)[: self._LENGTH]):
            raise BrokenSeal
        self._heard += 1
        return message

    def cover(self, secret: bytes) -> bytes:
        """`secret`, at most 32 bytes, as it may be sent, and back. For one of them on each connection, and no more."""
        return bytes(one ^ two for one, two in zip(secret, self._pad, strict=False))


def _mac(key: bytes, number: int, message: bytes) -> bytes:
    return _digest(key, number.to_bytes(8, "big") + message).hex().encode()


def _digest(key: bytes, message: bytes) -> bytes:
    import hmac

    return hmac.digest(key, message, "sha256")
