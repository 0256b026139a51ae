"""Readiness of children, told the way systemd has it told (sd_notify(3)): one datagram ``READY=1`` per program.

A ``ReadySocket`` is an abstract Unix datagram socket; children get its name in NOTIFY_SOCKET. The kernel attaches the
sender's process id, so that nobody else on the machine can say that a program is ready. Belongs to the loop's thread.

Limits: Linux only (abstract names, SCM_CREDENTIALS).
"""

import asyncio
import os
import secrets
import socket
import struct
from collections.abc import Callable

_CREDENTIALS = struct.Struct("3i")
MAX_DATAGRAM = 4096


class ReadySocket:
    """Hears READY=1 and calls ``on_ready(pid)``."""

    def __init__(self, on_ready: Callable[[int], None]) -> None:
        self._on_ready = on_ready
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._name = f"barua-{os.getpid()}-{secrets.token_hex(8)}"
        self._socket.bind("\0" + self._name)

    @property
    def address(self) -> str:
        """The value of NOTIFY_SOCKET."""
        return "@" + self._name

    def listen(self) -> None:
        """Begin to hear; needs a running loop."""
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def close(self) -> None:
        """Stop hearing."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(MAX_DATAGRAM, socket.CMSG_SPACE(_CREDENTIALS.size))
        except BlockingIOError:
            return
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and b"READY=1" in data.split(b"\n"):
                pid, _, _ = _CREDENTIALS.unpack(value[: _CREDENTIALS.size])
                self._on_ready(pid)
