"""No network while testing: importing this refuses every Python socket that leaves the machine.

An audit hook cannot be taken off again and sees every socket of the interpreter, also those that a
library opens. The folder of this file is on PYTHONPATH during tests (conftest.py), so that
``sitecustomize`` brings the hook into every Python process the tests start: notebook kernels,
pytest-xdist workers and command-line runs.
"""

import ipaddress
import socket
import sys

NAMES = {"", "localhost", socket.gethostname()}
WITH_ADDRESS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
WITH_HOST = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


class NetworkRefused(RuntimeError):
    """Not an OSError: a library that carries on quietly without a network should be seen."""


def is_local(host: object) -> bool:
    """True for None, this machine's name and the loopback addresses."""
    if host is None:
        return True
    text = host.decode() if isinstance(host, bytes | bytearray) else str(host)
    try:
        return ipaddress.ip_address(text.split("%")[0]).is_loopback
    except ValueError:
        return text in NAMES


def refuse(event: str, args: tuple) -> None:
    if event in WITH_ADDRESS:
        sock, address = args
        if (
            sock.family not in (socket.AF_INET, socket.AF_INET6)
            or address is None
            or is_local(address[0])
        ):
            return
        raise NetworkRefused(f"{event} to {address}: tests may open sockets to this machine only")
    if event in WITH_HOST and not is_local(args[0]):
        raise NetworkRefused(f"{event} of {args[0]!r}: tests may look up this machine only")


sys.addaudithook(refuse)
