"""Checksums of a file and of each of its blocks, from one pass over it.

CRC-32 is zlib's, S3's and everybody's. Joining two of them (what zlib's own crc32_combine does, which Python leaves
out) costs a few operations: to append a block of n zero bytes is linear in the bits of the checksum, so it is a matrix.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import lru_cache

BLOCK = 1 << 20
"""Bytes that have a checksum of their own: a range is read and verified in blocks."""
_POLYNOMIAL = 0xEDB88320
_Matrix = tuple[int, ...]  # column i: what becomes of bit i


def of_block(data: bytes | bytearray | memoryview, before: int = 0) -> int:
    """The checksum of a block, or of its next part: `before` is that of the parts before it."""
    return zlib.crc32(data, before)


def blocks(size: int) -> int:
    """How many blocks a file of `size` bytes has."""
    return -(-size // BLOCK)


def length(block: int, size: int) -> int:
    """Bytes of this block in a file of `size` bytes: the last one is shorter."""
    return min(BLOCK, size - block * BLOCK)


def joined(sums: Iterable[int], size: int) -> int:
    """The checksum of the whole file, from its blocks'."""
    whole = 0
    for block, of_this in enumerate(sums):
        whole = _times(_zeros(length(block, size)), whole) ^ of_this
    return whole


@lru_cache(maxsize=256)
def _zeros(count: int) -> _Matrix:
    """What `count` zero bytes do to a checksum."""
    result = tuple(1 << bit for bit in range(32))
    power = _squared(_squared(_squared((_POLYNOMIAL, *(1 << bit for bit in range(31))))))  # one byte: eight bits
    while count:
        if count & 1:
            result = tuple(_times(power, column) for column in result)
        power = _squared(power)
        count >>= 1
    return result


def _times(matrix: _Matrix, vector: int) -> int:
    total = bit = 0
    while vector:
        if vector & 1:
            total ^= matrix[bit]
        vector >>= 1
        bit += 1
    return total


def _squared(matrix: _Matrix) -> _Matrix:
    return tuple(_times(matrix, column) for column in matrix)
