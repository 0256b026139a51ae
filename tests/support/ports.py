"""Free TCP ports on loopback, and waiting until something listens on one.

Ports come from below the range that the kernel gives to outgoing connections. The processes of one test run have ranges
of their own; other runs start at a place of their own, so that suites side by side meet rarely. No port is given out
twice by one process before all of its range were. A port is free when asked for; nothing keeps another program from
taking it before its user binds it.

Errors: ``OSError`` if there is no free port, ``TimeoutError`` if nothing listens in time. Any thread.
"""

import os
import socket
import threading
import time
from contextlib import closing

_RANGE = 5_000
_PLACE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
_FIRST = 12_000 + _PLACE * _RANGE
_LAST = _FIRST + _RANGE
_lock = threading.Lock()
_next = _FIRST + (os.getpid() * 97) % _RANGE


def free_port() -> int:
    """A port that is free for TCP and UDP on 127.0.0.1 now and was not given out by this process before."""
    global _next  # one counter per process, under the lock
    with _lock:
        for _ in range(_LAST - _FIRST):
            port = _next
            _next = _FIRST if _next + 1 >= _LAST else _next + 1
            if _is_free(port):
                return port
    raise OSError(f"no free port between {_FIRST} and {_LAST} on 127.0.0.1")


def free_ports(count: int) -> list[int]:
    """``count`` different free ports."""
    return [free_port() for _ in range(count)]


def free_range(count: int) -> int:
    """The first of ``count`` free ports in a row."""
    while True:
        ports = free_ports(count)
        if ports[-1] - ports[0] == count - 1:
            return ports[0]


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with closing(socket.socket(socket.AF_INET, kind)) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a TCP connection to the port is taken."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def wait_for_port(port: int, timeout_seconds: float = 60, host: str = "127.0.0.1") -> None:
    """Return once something listens. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_seconds
    while not is_listening(port, host):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on {host}:{port} after {timeout_seconds:g} s")
        time.sleep(0.02)
