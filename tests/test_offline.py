"""Nothing leaves the machine while testing: not from here, and not from the processes that tests
start."""

import socket
import subprocess
import sys

import pytest

import offline

ELSEWHERE = "192.0.2.1"  # TEST-NET-1 (RFC 5737): nobody's address


def test_connections_to_elsewhere_are_refused():
    with socket.socket() as sock, pytest.raises(offline.NetworkRefused, match="this machine only"):
        sock.connect((ELSEWHERE, 80))
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(offline.NetworkRefused):
        sock.sendto(b"x", (ELSEWHERE, 53))
    with pytest.raises(offline.NetworkRefused):
        socket.getaddrinfo("example.org", 443)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_connections_work(host):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert client.getpeername() == server.getsockname()
    assert socket.getaddrinfo(host, 80)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        (None, True),
        (b"localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("localhost.example.org", False),
    ],
)
def test_is_local(host, local):
    assert offline.is_local(host) is local


def test_child_processes_are_guarded_too():
    code = f"import socket; socket.create_connection(('{ELSEWHERE}', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "NetworkRefused" in done.stderr
