"""What the command prints: tables for people, JSON for programs, one line for an error.

Values come from peers and customers: control characters never reach the terminal, and rich's markup is off for them.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text


class CliError(Exception):
    """The command failed; the text is one line for standard error. Exit status 1."""


def as_data(message: Message) -> dict[str, Any]:
    """A proto message for ``--json``: names as in the proto, nothing left out."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under column titles; numbers to the right. Piped, it is as wide as its content."""
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[index], int) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(str(value))) for value in row))
    _console().print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values, one per line."""
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        print_line(f"{name.ljust(width)}  {value}")


def print_line(text: str) -> None:
    """Print one line as it is."""
    sys.stdout.write(clean(text) + "\n")
    sys.stdout.flush()


def print_error(text: str) -> None:
    """Print one line on standard error."""
    sys.stderr.write(f"barua: {clean(' '.join(text.split()))}\n")


def moment(value: Timestamp) -> str:
    """A time for people, in UTC; empty if it is not set."""
    return value.ToDatetime().strftime("%Y-%m-%d %H:%M:%S") if value.seconds else ""


def last(name: str) -> str:
    """The last part of a resource name."""
    return name.rpartition("/")[2]


def clean(text: str) -> str:
    """Text without characters that a terminal obeys."""
    return "".join(char if char.isprintable() else "�" for char in text)


def _console() -> Console:
    piped = not sys.stdout.isatty()
    return Console(width=10_000 if piped else None, highlight=False, markup=False, emoji=False, soft_wrap=piped)
