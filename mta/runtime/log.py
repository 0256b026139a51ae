"""Logs: one JSON line per event on standard error, through structlog.

``configure`` once per process, then ``get_logger(__name__)``. Events are snake_case verbs in the past tense with their
variables as fields: ``log.info("message_received", id=...)``. Values are escaped by JSON, so that a peer's control
characters cannot forge a line, and long ones are cut. Never log secrets or message bodies.

Limits: a value is cut at ``MAX_VALUE`` characters.
"""

import contextlib
import json
import logging
import re
import sys
import threading
import time
from collections.abc import MutableMapping
from typing import Any, BinaryIO, cast

import msgspec
import structlog

MAX_VALUE = 1000
"""Characters of one value: longer ones come from hostile peers or are bodies."""

_UNSAFE = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]")
"""What JSON lets through and terminals or readers of lines obey: DEL, C1 controls, line separators, text direction."""

Logger = structlog.stdlib.BoundLogger
_Event = MutableMapping[str, Any]


def configure(program: str, level: str) -> None:
    """Set up logging for this process; every line carries ``program``."""
    severity = getattr(logging, level.upper())
    structlog.configure(
        processors=[_Complete(program), structlog.processors.JSONRenderer(serializer=_encode)],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=lambda *_: _Output(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(severity, logging.WARNING), handlers=[_Forward()], force=True)


def get_logger(name: str) -> Logger:
    """A logger whose lines carry ``module=name``."""
    return cast(Logger, structlog.get_logger(module=name))


class _Complete:
    """Adds what every line has and bounds what it was given.

    One processor instead of structlog's six: with two lines per message they were a tenth of a message's CPU time.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        # Local variables stay out of tracebacks: they hold passwords and bodies.
        self._tracebacks = structlog.processors.ExceptionRenderer(
            structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
        )
        self._second = 0
        self._prefix = ""

    def __call__(self, logger: Any, method: str, event: _Event) -> _Event:
        if "exc_info" in event:
            event = self._tracebacks(logger, method, event)
        for key, value in event.items():
            if type(value) is str and len(value) > MAX_VALUE:
                event[key] = value[:MAX_VALUE] + "…"
        event["level"] = "error" if method == "exception" else method
        event["time"] = self._time()
        event["program"] = self._program
        return event

    def _time(self) -> str:
        """The time in UTC as RFC 3339 has it, with milliseconds."""
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._prefix}.{nanoseconds // 1_000_000:03d}Z"


def _encode(event: Any, **_: Any) -> bytes:
    try:
        line = msgspec.json.encode(event, enc_hook=str)
    except (TypeError, ValueError):  # half a surrogate pair, a key that is no text: seen in nothing but broken input
        line = json.dumps(event, default=str, skipkeys=True).encode("ascii")
    return line if line.isascii() and b"\x7f" not in line else _UNSAFE.sub(_escaped, line)


def _escaped(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match[0].decode())


class _Output:
    """Writes lines. A log on a full disk or closed pipe must not undo what it tells of, so failures are passed over."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def msg(self, line: bytes) -> None:
        """Write one line."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._file.write(line + b"\n")
            self._file.flush()

    debug = info = warning = error = critical = exception = log = msg


class _Forward(logging.Handler):
    """Sends what libraries log through the standard library into the same stream."""

    def emit(self, record: logging.LogRecord) -> None:
        log = get_logger(record.name)
        log.log(record.levelno, "library_message", text=record.getMessage(), exc_info=record.exc_info)
