r"""Reads SMTP transcripts and plays them against a server, which may be the pure session or a live one.

A transcript is a text file of lines:

``#``            a comment, or, at the top, what the dialogue shows.
``server: …``    settings of :class:`mta.smtp.ServerConfig` this dialogue needs, such as ``size_limit=100 starttls``,
                 and ``tls`` for a connection that is encrypted from the start.
``split: whole`` the dialogue depends on how the bytes are cut: play it with each group of ``C:`` in one piece only.
``C: text``      the client sends the text and CRLF. Consecutive ``C:`` lines are sent in one piece.
``C+ text``      the same without CRLF.
``S: text``      a line of the server; the lines of one reply follow each other. ``…`` at the end stands for any rest.
``TLS``          both sides do the TLS handshake.
``MESSAGE text`` a message with exactly this content has been handed over by now; ``\r\n`` is written out.
``NO MESSAGE``   none has been handed over since the last ``MESSAGE``.
``OPEN``         the server has nothing more to say and keeps the connection open.
``CLOSED``       the server has nothing more to say and closes the connection.

Escapes in ``C`` and ``MESSAGE`` lines: ``\r \n \0 \xHH \\`` and ``\(text*number)`` for a repetition.

To play against a live server give :func:`play` a :class:`Transport` of your own and ``exact=False``: then only codes
and enhanced codes of replies are compared, because names and texts are the server's own. A transport that cannot see
handed-over messages raises ``LookupError`` in ``take_message``; those lines are then passed over.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FOLDER = Path(__file__).parent / "smtp"

_ESCAPE = re.compile(r"\\(?:([rn0\\])|x([0-9A-Fa-f]{2})|\(([^*]*)\*(\d+)\))")
_NAMED = {"r": "\r", "n": "\n", "0": "\0", "\\": "\\"}
_STATUS = re.compile(r"(\d{3})(?:[ -]([245]\.\d{1,3}\.\d{1,3})(?= |$))?")


class Transport(Protocol):
    """The client's end of a connection."""

    def send(self, data: bytes) -> None:
        """Send one piece."""

    def receive_line(self) -> bytes:
        """The server's next line without CRLF. Raises ``EOFError`` when there is none."""

    def start_tls(self) -> None:
        """Do the handshake."""

    def is_open(self) -> bool:
        """The server keeps the connection open. Raises ``AssertionError`` when it has more to say."""

    def take_message(self) -> bytes | None:
        """The content of the next message handed over, ``None`` when there is none."""


@dataclass(frozen=True)
class Step:
    """One step of a dialogue: ``kind`` is the word it starts with, ``data`` what is sent or expected."""

    kind: str
    data: bytes
    line: int


@dataclass(frozen=True)
class Dialogue:
    """A transcript, read. ``settings`` are the words of its ``server:`` lines."""

    name: str
    settings: dict[str, str]
    whole_only: bool
    steps: tuple[Step, ...]


def load(path: Path) -> Dialogue:
    """Read one transcript. Raises ``ValueError`` for a line that is none of the above."""
    settings: dict[str, str] = {}
    whole_only = False
    steps: list[Step] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.startswith("server: "):
            for word in line[8:].split():
                name, _, value = word.partition("=")
                settings[name] = value
        elif line == "split: whole":
            whole_only = True
        elif line and not line.startswith("#"):
            steps.append(_read_step(path, number, line))
    return Dialogue(path.stem, settings, whole_only, tuple(_grouped(steps)))


def _read_step(path: Path, number: int, line: str) -> Step:
    if line in ("TLS", "NO MESSAGE", "OPEN", "CLOSED"):
        return Step(line, b"", number)
    kind, _, text = line.partition(" ")
    if kind == "C:":
        return Step("C", _unescape(text) + b"\r\n", number)
    if kind == "C+":
        return Step("C", _unescape(text), number)
    if kind == "S:":
        return Step("S", text.encode(), number)
    if kind == "MESSAGE":
        return Step("MESSAGE", _unescape(text), number)
    raise ValueError(f"{path}:{number}: not a line of a transcript: {line!r}")


def _grouped(steps: list[Step]) -> Iterator[Step]:
    """Consecutive ``C`` steps become one; so do the lines of one reply."""
    held: Step | None = None
    for step in steps:
        if held is not None and step.kind == held.kind == "C":
            held = Step("C", held.data + step.data, held.line)
            continue
        if held is not None and step.kind == held.kind == "S" and _continues(held.data):
            held = Step("S", held.data + b"\n" + step.data, held.line)
            continue
        if held is not None:
            yield held
        held = step
    if held is not None:
        yield held


def _continues(reply: bytes) -> bool:
    return reply.rpartition(b"\n")[2][3:4] == b"-"


def _unescape(text: str) -> bytes:
    def replace(match: re.Match[str]) -> str:
        if match[1]:
            return _NAMED[match[1]]
        return chr(int(match[2], 16)) if match[2] else match[3] * int(match[4])

    return _ESCAPE.sub(replace, text).encode("latin-1")


def play(dialogue: Dialogue, transport: Transport, *, exact: bool = True) -> None:
    """Play the dialogue. Raises ``AssertionError`` naming transcript and line where the server departs from it."""
    for step in dialogue.steps:
        try:
            _play_step(step, transport, exact=exact)
        except (AssertionError, EOFError) as error:
            raise AssertionError(
                f"{dialogue.name}, line {step.line}: {str(error) or 'the server is silent'}"
            ) from error


def _play_step(step: Step, transport: Transport, *, exact: bool) -> None:
    match step.kind:
        case "C":
            transport.send(step.data)
        case "S":
            _expect_reply(step.data.decode().split("\n"), transport, exact=exact)
        case "TLS":
            transport.start_tls()
        case "OPEN" | "CLOSED":
            assert transport.is_open() is (step.kind == "OPEN"), f"the connection should be {step.kind.lower()}"
        case _:
            _expect_message(step, transport)


def _expect_message(step: Step, transport: Transport) -> None:
    try:
        message = transport.take_message()
    except LookupError:
        return
    expected = step.data if step.kind == "MESSAGE" else None
    assert message == expected, f"handed over was {message!r}, expected {expected!r}"


def _expect_reply(expected: list[str], transport: Transport, *, exact: bool) -> None:
    received = [transport.receive_line().decode("ascii")]
    while received[-1][3:4] == "-":
        received.append(transport.receive_line().decode("ascii"))
    if not exact:
        said, wanted = _STATUS.match(received[-1]), _STATUS.match(expected[-1])
        assert said and wanted, f"no reply: {received}"
        assert said.groups() == wanted.groups(), f"received {received}, expected {expected}"
        return
    matches = len(received) == len(expected) and all(map(_line_matches, received, expected))
    assert matches, f"received {received}, expected {expected}"


def _line_matches(received: str, expected: str) -> bool:
    return received.startswith(expected[:-1]) if expected.endswith("…") else received == expected
