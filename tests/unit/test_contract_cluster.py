from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.contract.cluster import Cluster, InstanceGroup, natural

many = settings(max_examples=60, deadline=None, database=None)
host_names = st.text(min_size=1) | st.from_regex(r"algo-[0-9]{1,3}(-[a-z0-9]{5})?", fullmatch=True)


@many
@given(st.lists(host_names, unique=True), st.randoms(use_true_random=False))
def test_every_host_sorts_the_hosts_alike_however_its_list_is_shuffled(hosts: list[str], luck: random.Random) -> None:
    shuffled = hosts[:]
    luck.shuffle(shuffled)

    assert sorted(shuffled, key=natural) == sorted(hosts, key=natural)


@many
@given(st.sets(st.integers(1, 10_000), min_size=1))
def test_numbered_hosts_are_in_the_order_of_their_numbers(numbers: set[int]) -> None:
    hosts = sorted((f"algo-{number}" for number in numbers), key=natural)

    assert hosts == [f"algo-{number}" for number in sorted(numbers)]


@pytest.mark.parametrize(
    "ordered",
    [
        ["algo-1", "algo-2", "algo-10"],
        ["algo-1-z6yx6", "algo-2-ab3xz", "algo-10-00000"],
        ["algo-01", "algo-1"],
        ["algo", "algo-1", "algo-1-x"],
        ["ip-10-0-9-1", "ip-10-0-10-1"],
        ["algo-²", "algo-٣"],
    ],
)
def test_natural_order(ordered: list[str]) -> None:
    hosts = [*reversed(ordered)]
    hosts.sort(key=natural)

    assert hosts == ordered


HETEROGENEOUS = (
    InstanceGroup("data", "ml.c5.xlarge", ("algo-1", "algo-10")),
    InstanceGroup("dnn", "ml.p4d.24xlarge", ("algo-2", "algo-3")),
    InstanceGroup("eval", "ml.g5.xlarge", ("algo-4",)),
)
ALL = ("algo-1", "algo-2", "algo-3", "algo-4", "algo-10")


@pytest.mark.parametrize(
    ("here", "group", "together", "world"),
    [
        ("algo-2", "dnn", (), ("algo-2", "algo-3")),
        ("algo-1", "data", (), ("algo-1", "algo-10")),
        ("algo-2", "dnn", ("dnn", "data"), ("algo-1", "algo-2", "algo-3", "algo-10")),
        ("algo-1", "data", ("dnn", "data"), ("algo-1", "algo-2", "algo-3", "algo-10")),
        ("algo-4", "eval", ("dnn", "data"), ("algo-4",)),
    ],
)
def test_the_world_is_the_own_group_or_the_groups_that_train_together(
    here: str, group: str, together: tuple[str, ...], world: tuple[str, ...]
) -> None:
    assert Cluster(here, ALL, groups=HETEROGENEOUS, current_group=group).world(together) == world


def test_without_groups_every_host_is_in_the_world() -> None:
    assert Cluster("algo-2", ("algo-1", "algo-2")).world(("any",)) == ("algo-1", "algo-2")
