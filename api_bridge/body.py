"""The body of a request: read within limits, parsed as strict JSON.

``received`` collects the body while it counts: nothing beyond the size limit is ever kept, all bodies together stay
within a budget, and a client has to keep a least rate, so that neither size nor slowness ties up memory.
``parse_object`` takes UTF-8 JSON whose top level is an object (``parse_value``: any value) and refuses what parsers
disagree about: duplicate names, NaN and Infinity, numbers beyond a double, lone surrogates. Depth and number of values
are checked before the parser recurses.

The content type is not believed: JSON is taken whatever it is called (``curl -d`` calls it a form), and real form data
gets an error that says so.

Errors: ``Problem`` with 400, 408, 413, 415 or 503. Time is linear in the size.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request

from api_bridge.connection import CYCLE
from api_bridge.problems import Problem, bad_request, overloaded

MAX_DEPTH = 64
"""Levels of arrays and objects; the APIs need five."""
MAX_VALUES = 100_000
"""Values in a body; 1000 recipients with all their fields are well below."""
IDLE_SECONDS = 15.0
"""Silence within a body."""
GRACE_SECONDS = 30.0
"""Time for a body of no size; each ``LEAST_RATE`` octets give one second more."""
LEAST_RATE = 32_768
"""Octets per second that a client has to keep up after the grace (Postfix asks for 500; bodies here are short)."""
DISCARD_SECONDS = 2.0
"""How long a body that is too large is still read, so that the client sees the answer instead of a reset."""
TOTAL_BYTES = 268_435_456
"""All bodies in memory at once; what is made of a large one is counted by ``bulk``."""

_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


class Budget:
    """Counts the octets of all bodies that are being read or handled."""

    __slots__ = ("_limit", "used")

    def __init__(self, limit: int = TOTAL_BYTES) -> None:
        self._limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Account for ``size`` more octets. Raises Problem 503 when all are taken."""
        if self.used + size > self._limit:
            raise overloaded("The server is busy with other requests; try again.", 5)
        self.used += size

    def give(self, size: int) -> None:
        """They are in use no longer."""
        self.used -= size


class _Held:
    """The part of a body that is in memory."""

    __slots__ = ("_budget", "chunks", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.chunks: list[bytes] = []
        self.size = 0

    def add(self, chunk: bytes) -> None:
        self._budget.take(len(chunk))
        self.size += len(chunk)
        self.chunks.append(chunk)

    def release(self) -> None:
        self._budget.give(self.size)
        self.chunks.clear()


@asynccontextmanager
async def received(request: Request, limit: int, budget: Budget) -> AsyncIterator[bytes]:
    """The whole body, at most ``limit`` octets, accounted for in ``budget`` until the block ends. Raises Problem."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(415, "The request body must not be compressed: send it without Content-Encoding.")
    held = _Held(budget)
    try:
        await _fill(held, request, limit)
        yield held.chunks[0] if len(held.chunks) == 1 else b"".join(held.chunks)
    finally:
        held.release()


async def _fill(held: _Held, request: Request, limit: int) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        # A client that waits for "100 Continue" has sent nothing yet and gets its answer at once.
        if request.headers.get("expect", "").lower() != "100-continue":
            await _discard(request)
        raise _too_large(limit)
    started, more = _now(), True
    while more:
        chunk, more = await _receive(request, started + GRACE_SECONDS + held.size / LEAST_RATE)
        if held.size + len(chunk) > limit:
            held.release()
            held.size = 0
            if more:
                await _discard(request)
            raise _too_large(limit)
        held.add(chunk)


def parse_object(data: bytes, content_type: str = "") -> dict[str, Any]:
    """The JSON object that ``data`` holds. ``content_type`` only makes the error text better."""
    document = parse_value(data, content_type)
    if not isinstance(document, dict):
        raise bad_request("The request body must be a JSON object, not a bare value or array.")
    return document


def parse_value(data: bytes, content_type: str = "") -> Any:
    """The JSON value that ``data`` holds, of any type. ``content_type`` only makes the error text better."""
    if not data.strip():
        raise bad_request("The request body is empty: send a JSON object.")
    _check_structure(data)
    try:
        document = _DECODER.decode(data.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError as error:
        raise bad_request(f"The request body is not UTF-8: octet {error.start} cannot be read.") from None
    except json.JSONDecodeError as error:
        raise bad_request(_not_json(error, content_type)) from None
    except (ValueError, RecursionError):
        raise bad_request("The request body holds a number that is too long.") from None
    if _SURROGATE.search(data):
        _check_surrogates(document)
    return document


def _check_structure(data: bytes) -> None:
    """Bound depth and number of values before anything recurses or is built."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH and data.count(b",") <= MAX_VALUES:
        return
    # Valid JSON has at most two strings for a value (its name and itself); millions of "" would take seconds.
    bare, strings = _STRINGS.subn(b"", data, 2 * MAX_VALUES + 2)
    if strings > 2 * MAX_VALUES + 1 or sum(map(bare.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise bad_request(f"The request body holds more than {MAX_VALUES} values.")
    depth = 0
    for bracket in _BRACKETS.finditer(bare):
        depth += 1 if bracket.group() in b"[{" else -1
        if depth > MAX_DEPTH:
            raise bad_request(f"The request body is nested more than {MAX_DEPTH} levels deep.")
        if depth < 0:
            return  # no JSON; the parser says where


def _check_surrogates(document: Any) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise bad_request("The request body holds half of a surrogate pair (\\ud800 to \\udfff alone).") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise bad_request(f'The request body has the field "{name[:80]}" twice.')
            seen.add(name)
    return result


def _constant(name: str) -> Any:
    raise bad_request(f"The request body holds {name}, which is not JSON.")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise bad_request("The request body holds a number that is too large.")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_float)


def _not_json(error: json.JSONDecodeError, content_type: str) -> str:
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _FORM_TYPES:
        return "The request body must be JSON, not form data: send Content-Type: application/json and a JSON object."
    return f"The request body is not JSON: line {error.lineno} column {error.colno} cannot be read."


def _too_large(limit: int) -> Problem:
    return Problem(413, f"The request body is larger than {limit} bytes.", {"connection": "close"})


async def _receive(request: Request, deadline: float) -> tuple[bytes, bool]:
    cycle = request.scope.get(CYCLE)
    if cycle is not None and not cycle.more_body:
        event = await request.receive()  # it is all there
    else:
        try:
            async with asyncio.timeout(max(0.0, min(IDLE_SECONDS, deadline - _now()))):
                event = await request.receive()
        except TimeoutError:
            raise Problem(408, "The request body did not arrive in time.", {"connection": "close"}) from None
    if event["type"] == "http.disconnect":
        raise Problem(400, "The client closed the connection.", {"connection": "close"})
    return event.get("body", b""), event.get("more_body", False)


async def _discard(request: Request) -> None:
    deadline = _now() + DISCARD_SECONDS
    more = True
    while more:
        try:
            _, more = await _receive(request, deadline)
        except Problem:
            return


def _now() -> float:
    return asyncio.get_running_loop().time()
