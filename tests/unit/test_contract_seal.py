"""The seals of the link: what fits, and what does not."""

from __future__ import annotations

import pytest

from trainkit.contract.seal import CLUSTER_KEY, BrokenSeal, Seal, key_for, nonce
from trainkit.contract.settings import strange
from trainkit.errors import ConfigError

HOSTS = ("algo-1", "algo-2")
KEY = key_for({}, job="job", hosts=HOSTS)


def pair(*facts: str, key: bytes = KEY) -> tuple[Seal, Seal]:
    """Both ends of one connection, the first host's first."""
    return Seal(key, *facts, first=True), Seal(key, *facts, first=False)


def fits(seal: Seal, line: bytes) -> bool:
    try:
        seal.open(line)
    except BrokenSeal:
        return False
    return True


def test_what_one_end_says_the_other_hears_in_order() -> None:
    first, host = pair("a")
    for message in (b"{}", b'{"beat": true}', b""):
        assert host.open(first.seal(message)) == message
        assert first.open(host.seal(message)) == message
    assert first.proven
    assert host.proven


def test_not_a_bit_of_a_message_can_be_changed() -> None:
    first, host = pair("a")
    line = host.seal(b'{"passed": 7}')
    for position in range(len(line) * 8):
        changed = bytearray(line)
        changed[position // 8] ^= 1 << position % 8
        assert not fits(first, bytes(changed))
    assert not first.proven
    assert fits(first, line)


def test_a_message_fits_once_and_at_its_place() -> None:
    first, host = pair("a")
    one, two = host.seal(b"1"), host.seal(b"2")
    assert not fits(first, two)
    assert fits(first, one)
    assert not fits(first, one)
    assert fits(first, two)


def test_nobodys_own_words_come_back_to_him() -> None:
    first, host = pair("a")
    assert not fits(host, host.seal(b"x"))
    assert not fits(first, first.seal(b"x"))


@pytest.mark.parametrize("line", [b"", b" ", b"x", b"\xff" * 32 + b" {}", b'{"beat": true}'])
def test_garbage_fits_nowhere(line: bytes) -> None:
    assert not fits(pair("a")[0], line)


def test_a_seal_belongs_to_one_connection_under_one_key() -> None:
    first, _ = pair("job", "algo-2", nonce(), nonce())
    for facts, key in ((("job", "algo-2", nonce(), nonce()), KEY), (("a", "bc"), KEY), (("ab", "c"), KEY)):
        assert not fits(first, pair(*facts, key=key)[1].seal(b"x"))
    ours, theirs = pair("ab", "c")[0], pair("a", "bc")[1]
    assert not fits(ours, theirs.seal(b"x"))
    assert not fits(pair("a")[0], pair("a", key=key_for({CLUSTER_KEY: "k" * 16}, job="job", hosts=HOSTS))[1].seal(b"x"))


def test_all_hosts_of_a_job_derive_one_key_and_other_jobs_another() -> None:
    assert key_for({}, job="job", hosts=list(HOSTS)) == KEY
    others = [("other", HOSTS), ("job", ("algo-1",)), ("job", ("algo-2", "algo-1")), ("job", ("algo-1algo-2",))]
    assert len({KEY, *(key_for({}, job=job, hosts=hosts) for job, hosts in others)}) == 1 + len(others)


def test_a_cluster_key_that_was_set_is_the_key_whatever_whitespace_a_file_added() -> None:
    given = key_for({CLUSTER_KEY: "correct horse battery"}, job="job", hosts=HOSTS)
    assert given == key_for({CLUSTER_KEY: "correct horse battery\n"}, job="job", hosts=HOSTS)
    assert len({given, KEY, key_for({CLUSTER_KEY: "correct horse battery!"}, job="job", hosts=HOSTS)}) == 3


@pytest.mark.parametrize("text", ["", "  \n", "tooshort"])
def test_too_short_a_cluster_key_is_a_mistake_that_is_named_without_being_shown(text: str) -> None:
    with pytest.raises(ConfigError, match=r"environment: TRAINKIT_CLUSTER_KEY.*Set it alike on all hosts") as caught:
        key_for({CLUSTER_KEY: text}, job="job", hosts=HOSTS)
    assert "tooshort" not in str(caught.value)


def test_the_cluster_key_is_no_misspelled_setting() -> None:
    assert strange({CLUSTER_KEY: "k" * 16}) == []


def test_a_covered_secret_is_read_by_the_other_end_and_by_nobody_without_the_key() -> None:
    secret = bytes(range(32))
    first, host = (Seal(b"k" * 32, "facts", first=who) for who in (True, False))
    stranger = Seal(b"j" * 32, "facts", first=False)

    covered = first.cover(secret)

    assert host.cover(covered) == secret
    assert secret not in (covered, stranger.cover(covered))
