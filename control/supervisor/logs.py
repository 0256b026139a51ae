"""Output of children: each appends to a file of its own, and what matters is also said on the terminal.

A child has its file as standard output and error, not a pipe, so that it can go on writing (and drain) if the
supervisor is killed. ``LogFile.important`` reads what was added since the last call and picks warnings and errors; when
the file is larger than ``MAX_BYTES`` it is copied to ``<name>.log.1`` and emptied, which is safe because children
append. Called from the loop's thread every half second; costs one stat when nothing was added.

Limits: lines written between copying and emptying are lost; of a flood only the last ``SCAN_BYTES`` between two calls
and ``MAX_LINES`` lines are looked at, all of it is in the file.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec

MAX_BYTES = 32 * 1024 * 1024
"""Size at which a log file is rotated; two such files per program at most."""
SCAN_BYTES = 64 * 1024
MAX_LINES = 5
"""Lines of one program said at once."""
REPEAT_SECONDS = 30.0
MAX_LINE = 400
"""Characters of one line said."""

_LIBRARY_CHATTER = re.compile(rb"[IW]\d{4} \d\d:")
"""Lines that gRPC's C core writes by itself."""
_LOUD = {"warning", "error", "critical"}
_QUIET_KEYS = {"level", "event", "time", "program", "logger", "exception", "exc_info"}


class Repeats:
    """Keeps a program that says the same again and again from filling the terminal."""

    def __init__(self) -> None:
        self._last = ""
        self._until = float("-inf")

    def new(self, line: str, now: float) -> bool:
        """Whether to say a line at ``now`` seconds: not the last one again within ``REPEAT_SECONDS``."""
        if line == self._last and now < self._until:
            return False
        self._last, self._until = line, now + REPEAT_SECONDS
        return True


class LogFile:
    """One program's log."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.log"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._read_to = os.fstat(self._descriptor).st_size

    def fileno(self) -> int:
        """Descriptor for a child's standard output and error."""
        return self._descriptor

    def close(self) -> None:
        """Close our side."""
        os.close(self._descriptor)

    def important(self) -> list[str]:
        """What was added since the last call and somebody at the terminal should see, one line each."""
        size = os.fstat(self._descriptor).st_size
        if size == self._read_to:
            return []
        start = max(self._read_to, size - SCAN_BYTES)
        with self.path.open("rb") as file:
            file.seek(start)
            added = file.read(size - start)
        whole = added.rfind(b"\n") + 1
        self._read_to = start + whole if whole else size
        if size > MAX_BYTES:
            self._rotate()
        said = [text for line in _without_tracebacks(added[:whole]) if (text := summary(line)) is not None]
        if len(said) > MAX_LINES:
            return [*said[:MAX_LINES], f"and {len(said) - MAX_LINES} more in {self.path}"]
        return said

    def last_line(self) -> str:
        """The last line with text in it, as far as it can be said; empty if there is none."""
        with self.path.open("rb") as file:
            file.seek(max(0, os.fstat(self._descriptor).st_size - SCAN_BYTES))
            lines = [line for line in file.read().splitlines() if line.strip()]
        if not lines:
            return ""
        return summary(lines[-1], loud_only=False) or ""

    def _rotate(self) -> None:
        shutil.copyfile(self.path, self.path.with_name(self.path.name + ".1"))
        os.ftruncate(self._descriptor, 0)
        self._read_to = 0


def summary(line: bytes, loud_only: bool = True) -> str | None:
    """A log line for people: ``event key=value``; None if it need not be said. Anything not JSON is loud."""
    if loud_only and (b'"level":"info"' in line or _LIBRARY_CHATTER.match(line)):
        return None
    try:
        event: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _printable(line.decode(errors="replace")) if line.strip() else None
    if not isinstance(event, dict):
        return _printable(line.decode(errors="replace"))
    if loud_only and event.get("level") not in _LOUD:
        return None
    fields = [f"{key}={value}" for key, value in event.items() if key not in _QUIET_KEYS]
    return _printable(" ".join([str(event.get("event", "")), *fields, *_cause(event)]))


def _without_tracebacks(added: bytes) -> list[bytes]:
    """Lines; of several in a row that are not JSON, only the last: that is where Python names the exception."""
    lines = [line for line in added.splitlines() if line.strip()]
    return [
        line
        for line, after in zip(lines, [*lines[1:], b"{"], strict=True)
        if line.startswith(b"{") or after.startswith(b"{")
    ]


def _cause(event: dict[str, Any]) -> list[str]:
    trace = event.get("exception")
    if isinstance(trace, list) and trace and isinstance(trace[0], dict):
        return [f"{trace[0].get('exc_type')}: {trace[0].get('exc_value')}"]
    return []


def _printable(text: str) -> str:
    # A peer's bytes may be in here; a terminal must not obey them.
    clean = "".join(char if char.isprintable() else "�" for char in text.strip())
    return clean if len(clean) <= MAX_LINE else clean[:MAX_LINE] + "…"
