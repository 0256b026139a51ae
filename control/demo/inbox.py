"""The demo inbox: ``python -m control.demo.inbox --config FILE``. Takes every message by SMTP and shows them over HTTP.

Beside it runs the demo's DNS, see ``nameserver``.

The SMTP side is aiosmtpd, an implementation independent of ours; it answers 250 when the message is stored. DKIM is
verified in one background thread when the inbox is idle, and before a page or list is shown (for at most
``VIEW_SECONDS``; entries not reached by then are shown with ``"dkim": null``).

Loop rules: one event loop; the store is written from the loop's thread, because a message takes less time to store than
to hand to another.

Limits: for demonstrations: no authentication, no TLS, and it listens where ``inbox.*_listen`` says.
"""

import argparse
import asyncio
import contextlib
import email.errors
import email.header
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from aiosmtpd.smtp import SMTP

from barua_client import Connection, bearer
from control.bootstrap.records import txt_records
from control.bootstrap.token import read_token
from control.demo import nameserver, pages
from control.demo.signatures import Keys, verify
from control.demo.store import Entry, Store
from mta.runtime import lifecycle
from mta.runtime import log as logs
from mta.runtime.options import Options, OptionsError, load, split_address

VIEW_SECONDS = 5.0
IDLE_SECONDS = 0.5
"""The inbox is idle when no message came for so long."""
BATCH = 20

_SUBJECT = re.compile(rb"^subject[ \t]*:((?:[^\n]|\n[ \t])*)", re.IGNORECASE | re.MULTILINE)

log = logs.get_logger(__name__)


class Inbox:
    """Handler of the SMTP side, and the verifier behind both sides."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.store = store
        self._keys = keys
        self._last = float("-inf")
        self._verifying = asyncio.Lock()

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        """Store one message; called by aiosmtpd at the end of data."""
        self._last = asyncio.get_running_loop().time()
        content = bytes(envelope.content or b"")
        try:
            self.store.add(envelope.mail_from or "", envelope.rcpt_tos, subject(content), content)
        except Exception:
            log.exception("message_not_stored")
            return "451 4.3.0 The message could not be stored; try again"
        return "250 2.0.0 Stored"

    async def verify_entries(self, entries: list[Entry]) -> None:
        """Verify some messages before they are shown, within VIEW_SECONDS."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VIEW_SECONDS):
                await self._verify([entry.id for entry in entries])

    async def verify_when_idle(self) -> None:
        """Verify the rest, a few at a time, while nothing comes in. Runs for ever."""
        while True:
            await asyncio.sleep(IDLE_SECONDS)
            if asyncio.get_running_loop().time() - self._last > IDLE_SECONDS:
                await self._verify(await asyncio.to_thread(self.store.unverified, BATCH))

    async def _verify(self, numbers: list[int]) -> None:
        async with self._verifying:
            for number in numbers:
                content = await asyncio.to_thread(self.store.content, number)
                if content is None:
                    continue
                records = await self._keys.for_message(content)
                if records is None:
                    return
                results = await asyncio.to_thread(verify, content, records)
                await asyncio.to_thread(self.store.verified, number, results)


def subject(content: bytes) -> str:
    """The decoded Subject field, on one line; empty if there is none or it cannot be read."""
    header = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[0]
    found = _SUBJECT.search(header)
    if found is None:
        return ""
    try:
        text = found[1].decode("utf-8", "replace")  # RFC 6532 §3.2 allows UTF-8 as it is
        decoded = str(email.header.make_header(email.header.decode_header(text)))
    except (ValueError, LookupError, UnicodeError, email.errors.HeaderParseError):
        return ""
    return " ".join(decoded.encode("utf-8", "replace").decode().split())


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: ``lifecycle`` has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(options: Options, drain: lifecycle.Drain) -> None:
    """Run until drained. Raises OptionsError when an address cannot be listened on."""
    token = read_token(options.path("secrets", "operator.token"))
    store = Store(options.path("inbox"), options.inbox.messages)
    tasks = lifecycle.Tasks()
    async with Connection(options.node.control_address, bearer(token)) as operator:
        inbox = Inbox(store, Keys(lambda: txt_records(operator)))
        smtp = await _listen_smtp(options, inbox)
        names = await nameserver.listen(options.inbox.dns_listen, options.path(nameserver.FOLDER), tasks)
        http = _Server(
            uvicorn.Config(
                pages.application(store, inbox.verify_entries), log_config=None, access_log=False, lifespan="off"
            )
        )
        serving = tasks.start(http.serve(sockets=[_listen_http(options)]), "http")
        tasks.start(inbox.verify_when_idle(), "verify")
        lifecycle.notify("READY=1")
        log.info("inbox_ready", http=options.inbox.http_listen, smtp=options.inbox.smtp_listen)
        await drain.stopped()
        smtp.close()
        names.close()
        http.should_exit = True
        await asyncio.wait({serving}, timeout=3.0)
        await tasks.close()
    store.close()


class _Smtp(SMTP):
    """aiosmtpd with room for the long lines that people do send (RFC 5322 §2.1.1 allows 998 octets)."""

    line_length_limit = 1 << 20


async def _listen_smtp(options: Options, inbox: Inbox) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    host, port = split_address(options.inbox.smtp_listen)

    def protocol() -> SMTP:
        return _Smtp(
            inbox,
            hostname="inbox.localhost",
            ident="Barua demo inbox",
            enable_SMTPUTF8=True,
            data_size_limit=2 * options.mta.limits.message_bytes,
            loop=loop,
        )

    try:
        return await loop.create_server(protocol, host, port)
    except OSError as error:
        raise OptionsError(f"inbox.smtp_listen: cannot listen on {host}:{port}: {error.strerror}") from error


def _listen_http(options: Options) -> socket.socket:
    host, port = split_address(options.inbox.http_listen)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise OptionsError(f"inbox.http_listen: cannot listen on {host}:{port}: {error.strerror}") from error


def main() -> None:
    """Parse the command line and run."""
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="control.demo.inbox")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    logs.configure("inbox", "info")
    lifecycle.run(lambda drain: serve(load(arguments.config), drain))


if __name__ == "__main__":
    main()
