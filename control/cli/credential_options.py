"""What the verbs for logins, API keys and OAuth clients have in common: options for scopes, networks and times."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from control.cli.output import print_json, print_line
from control.cli.session import Session

TenantArgument = Annotated[str, typer.Argument(help="Tenant id.")]
DisplayNameOption = Annotated[str, typer.Option(help="Name for people.")]
ScopesOption = Annotated[
    list[str] | None,
    typer.Option("--scope", help='What it may do, such as "mail", "domains" or "credits:read"; repeatable.'),
]
NetworksOption = Annotated[
    list[str] | None, typer.Option("--network", help="Address or network it may be used from; repeatable.")
]
DaysOption = Annotated[float | None, typer.Option("--expires-in-days", help="It ends after so many days.", min=0)]
GraceOption = Annotated[
    float, typer.Option("--grace-hours", help="The secret before stays valid so long, at most 168.", min=0)
]


def end_of(days: float | None) -> Timestamp | None:
    """The time so many days from now; None without days."""
    if days is None:
        return None
    end = Timestamp()
    end.FromDatetime(datetime.now(UTC) + timedelta(days=days))
    return end


def grace_of(hours: float) -> Duration:
    """So many hours."""
    return Duration(seconds=round(hours * 3600))


def done(session: Session, text: str) -> None:
    """Print that something is done."""
    if session.json:
        print_json({"done": text})
    else:
        print_line(text)
