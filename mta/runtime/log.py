"""Logs: one JSON line per event on standard error, through structlog.

``configure`` once per process, then ``get_logger(__name__)``. Events are snake_case verbs in the past tense with their
variables as fields: ``log.info("message_received", id=...)``. Values are escaped by JSON, so that a peer's control
characters cannot forge a line, and long ones are cut. Never log secrets or message bodies.

Limits: a value is cut at ``MAX_VALUE`` characters.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, cast

import msgspec
import structlog

MAX_VALUE = 1000
"""Characters of one value: longer ones come from hostile peers or are bodies."""

Logger = structlog.stdlib.BoundLogger


def configure(program: str, level: str) -> None:
    """Set up logging for this process; every line carries ``program``."""
    severity = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.dict_tracebacks,
            _bind_program(program),
            _cut,
            structlog.processors.JSONRenderer(serializer=_encode),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(severity, logging.WARNING), handlers=[_Forward()], force=True)


def get_logger(name: str) -> Logger:
    """A logger whose lines carry ``module=name``."""
    return cast(Logger, structlog.get_logger(module=name))


def _bind_program(program: str) -> structlog.typing.Processor:
    def bind(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["program"] = program
        return event

    return bind


def _cut(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > MAX_VALUE:
            event[key] = value[:MAX_VALUE] + "…"
    return event


def _encode(event: Any, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


class _Forward(logging.Handler):
    """Sends what libraries log through the standard library into the same stream."""

    def emit(self, record: logging.LogRecord) -> None:
        log = get_logger(record.name)
        log.log(record.levelno, "library_message", text=record.getMessage(), exc_info=record.exc_info)
