"""Checksums of blocks, and of the file that they make up."""

from __future__ import annotations

import random
import zlib

import pytest

from trainkit.checkpoint import crc

NEAR_A_BLOCK = [0, 1, 63, crc.BLOCK - 1, crc.BLOCK, crc.BLOCK + 1, 2 * crc.BLOCK, 3 * crc.BLOCK + 12345]


@pytest.mark.parametrize("size", NEAR_A_BLOCK)
def test_joined_checksums_of_blocks_are_that_of_the_file(size: int) -> None:
    content = random.Random(size).randbytes(size)
    sums = [crc.of_block(content[at : at + crc.BLOCK]) for at in range(0, size, crc.BLOCK)]
    assert len(sums) == crc.blocks(size)
    assert crc.joined(sums, size) == zlib.crc32(content)
    assert sum(crc.length(block, size) for block in range(len(sums))) == size


def test_a_block_can_be_summed_in_parts() -> None:
    content = random.Random(0).randbytes(100_000)
    assert crc.of_block(content[777:], crc.of_block(content[:777])) == crc.of_block(content) == zlib.crc32(content)
