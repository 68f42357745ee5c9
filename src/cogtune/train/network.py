"""The address at which other machines reach this one.

COGTUNE_INTERFACE names the network interface that the machines share (ib0); NCCL and gloo use it too, unless
NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME name another. COGTUNE_MASTER_ADDR is the name or address of the first machine, if
the interface cannot say it.
"""

import os
import socket
from contextlib import suppress

import psutil

from cogtune.errors import UserError

INTERFACE, MASTER = "COGTUNE_INTERFACE", "COGTUNE_MASTER_ADDR"
_ADVICE = f"set {INTERFACE} to the network interface that the machines share (see `ip addr`), or {MASTER} to the first machine's address"


def own_address() -> str:
    """A name or address of this machine that resolves here: Slurm's name of a node need not. Raises UserError."""
    if address := os.environ.get(MASTER):
        return address
    if interface := os.environ.get(INTERFACE):
        return _address_of(interface)
    for name in (os.environ.get("SLURMD_NODENAME"), socket.gethostname(), socket.getfqdn()):
        with suppress(OSError):
            if name and socket.getaddrinfo(name, None):
                return name
    raise UserError(f"no name of this machine ({socket.gethostname()}) resolves to an address; {_ADVICE}")


def check_resolves(host: str, rank: int) -> None:
    """Raises UserError on a machine that does not know ``host``."""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise unreachable(host, rank, f"{error}") from None


def unreachable(address: str, rank: int, why: str) -> UserError:
    """The error of a rank that cannot connect to the first machine."""
    return UserError(
        f"rank {rank} on {socket.gethostname()} cannot reach the first machine at {address} ({why}); {_ADVICE}"
    )


def use_interface() -> None:
    """Have NCCL and gloo use the interface of COGTUNE_INTERFACE, before they start."""
    if interface := os.environ.get(INTERFACE):
        _address_of(interface)
        for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
            os.environ.setdefault(name, interface)


def _address_of(interface: str) -> str:
    addresses = psutil.net_if_addrs()
    if interface not in addresses:
        raise UserError(
            f"{INTERFACE}={interface}: {socket.gethostname()} has no such network interface; it has {', '.join(addresses)}"
        )
    for family in (socket.AF_INET, socket.AF_INET6):
        for entry in addresses[interface]:
            if entry.family == family:
                return entry.address
    raise UserError(f"{INTERFACE}={interface}: this interface of {socket.gethostname()} has no IP address")
