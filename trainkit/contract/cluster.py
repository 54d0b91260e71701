"""Who takes part in the job: resourceconfig.json as a frozen value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.contract.document import Document, is_name, plain
from trainkit.errors import Mistake

FILE = "resourceconfig.json"
_KNOWN = {
    "current_host", "hosts", "current_instance_type", "current_group_name", "instance_groups",
    "network_interface_name", "topology",
}  # fmt: skip


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which algo-2 comes before algo-10. Different names have different keys, so the order is total."""
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    key = [(1, int(part)) if part.isascii() and part.isdigit() else (2, part) for part in parts]
    return (*key, (0, name))


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    name: str
    instance_type: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The hosts of the job in rank order (natural sort), and which one we are.

    The order never depends on the lists in the file: the service does not sort `instance_groups[].hosts`,
    and sorts `hosts` so that algo-10 precedes algo-2.
    """

    current_host: str
    hosts: tuple[str, ...]
    groups: tuple[InstanceGroup, ...] = ()
    current_group: str | None = None
    instance_type: str | None = None
    interface: str | None = None
    topology: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def world(self, groups: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The hosts that train together with this one, in rank order.

        In a heterogeneous cluster that is this host's own group, or all of `groups` where they name it.
        """
        if not self.groups:
            return self.hosts
        together = groups if self.current_group in groups else (self.current_group,)
        return tuple(sorted({host for g in self.groups if g.name in together for host in g.hosts}, key=natural))


def read(raw: Document, *, source: Path, mistakes: list[Mistake]) -> Cluster | None:
    """The cluster, or None with the reasons in `mistakes`."""
    before = len(mistakes)

    def wrong(key: str, value: object, problem: str, remedy: str) -> None:
        mistakes.append(Mistake(str(source), key, plain(value), problem, remedy))

    def text(key: str) -> str | None:
        value = raw.get(key)
        if value is not None and not is_name(value):
            wrong(key, value, "must be a non-empty string of printable characters", "Write the name as a string")
            return None
        return value

    hosts = _names(raw.get("hosts"), key="hosts", wrong=wrong)
    current = text("current_host")
    if raw.get("current_host") is None:
        wrong("current_host", None, "is missing", "It names this host, one of `hosts`")
    elif current is not None and hosts and current not in hosts:
        wrong("current_host", current, f"is not one of hosts ({', '.join(hosts)})", "Name one of them")

    groups = tuple(_groups(raw.get("instance_groups"), hosts=hosts, wrong=wrong))
    current_group = text("current_group_name")
    if groups and current in hosts:
        homes = [group.name for group in groups if current in group.hosts]
        if current_group is None and len(homes) == 1:
            current_group = homes[0]
        if current_group not in homes:
            wrong(
                "current_group_name", current_group, f"{current} is in {', '.join(homes) or 'no group'}",
                "It must name the group of instance_groups that lists current_host",
            )  # fmt: skip
    instance_type, interface = text("current_instance_type"), text("network_interface_name")
    if len(mistakes) > before or current is None:
        return None
    return Cluster(
        current_host=current,
        hosts=tuple(sorted(hosts, key=natural)),
        groups=groups,
        current_group=current_group,
        instance_type=instance_type,
        interface=interface,
        topology=plain(raw.get("topology")),
        extra={key: plain(value) for key, value in raw.items() if key not in _KNOWN},
    )


def _names(value: Any, *, key: str, wrong: Any) -> tuple[str, ...]:
    if value is None:
        wrong(key, None, "is missing", 'It lists the job\'s hosts: ["algo-1", …]')
        return ()
    if not isinstance(value, list) or not value or not all(map(is_name, value)):
        wrong(key, value, "must be a non-empty array of host names", 'Write it as ["algo-1", …]')
        return ()
    if len(set(value)) < len(value):
        twice = next(name for name in value if value.count(name) > 1)
        wrong(key, value, f"names {twice} twice", "Name every host once")
    return tuple(value)


def _groups(value: Any, *, hosts: tuple[str, ...], wrong: Any) -> Iterable[InstanceGroup]:
    if value is None:  # before 2022, and in both SDKs' local modes, there are no groups
        return
    if not isinstance(value, list):
        wrong("instance_groups", value, "must be an array of groups", "Leave it out, or write it as the service does")
        return
    seen: dict[str, str] = {}
    for index, group in enumerate(value):
        key = f"instance_groups[{index}]"
        if not isinstance(group, dict) or not is_name(group.get("instance_group_name")):
            wrong(key, group, "has no instance_group_name", "Give the group its name, instance_type and hosts")
            continue
        name = group["instance_group_name"]
        members = _names(group.get("hosts"), key=f"{key}.hosts", wrong=wrong)
        for host in members:
            if hosts and host not in hosts:
                wrong(f"{key}.hosts", host, "is not one of hosts", "List it in hosts too, or take it out of the group")
            if host in seen:
                wrong(f"{key}.hosts", host, f"is in group {seen[host]} too", "A host is in one group")
            seen[host] = name
        yield InstanceGroup(name, str(plain(group.get("instance_type")) or ""), tuple(sorted(members, key=natural)))
