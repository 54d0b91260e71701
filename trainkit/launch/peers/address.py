"""Where the first host listens for the others."""

from __future__ import annotations

import fcntl
import socket
import struct

from trainkit.errors import TrainkitError
from trainkit.launch.peers.resolving import resolve
from trainkit.plan.launch import LaunchPlan

_SIOCGIFADDR = 0x8915  # Linux's request for an interface's address; elsewhere it fails, which is an answer too


def listen(plan: LaunchPlan) -> socket.socket:
    """The socket where hosts of this job arrive. Raises TrainkitError where the port is taken."""
    address = (own_address(plan), plan.link_port)
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise TrainkitError(
            f"{plan.host} cannot listen at {address[0] or 'any address'}:{plan.link_port} for the other hosts: "
            f"{error.strerror}. Set TRAINKIT_PORT to a free port, on all hosts alike"
        ) from None
    listener.listen(min(len(plan.world.hosts) * 2, 4096))
    listener.setblocking(False)
    return listener


def own_address(plan: LaunchPlan) -> str:
    """Where to listen: on the job's interface; on every address ("") where that one is not to be found.

    Not on what our own name resolves to, in general: Debian and Ubuntu make that 127.0.1.1. Local hosts share the
    loopback interface, and there names are all there is.
    """
    if plan.host in plan.job.addresses:
        return plan.job.addresses[plan.host]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = (plan.job.cluster.interface or "").encode()[:15]
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", name))
            address = socket.inet_ntoa(answer[20:24])
            return resolve(plan.host) if address.startswith("127.") else address
        except OSError:
            return ""
