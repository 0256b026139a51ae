"""What the verbs for logins, API keys and OAuth clients have in common: options for scopes, networks, times; lists."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1.credential_pb2 import ApiKey
from barua.control.v1.oauth_client_pb2 import OAuthClient

from control.cli.output import as_data, last, moment, print_json, print_line, print_table
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


def print_secrets(session: Session, id_title: str, found: Sequence[ApiKey | OAuthClient]) -> None:
    """Print API keys or OAuth clients, without their secrets."""
    if session.json:
        print_json([as_data(secret) for secret in found])
        return
    rows = [
        (
            last(secret.name),
            "…" + secret.last_four,
            secret.display_name,
            " ".join(secret.scopes),
            " ".join(secret.allowed_networks),
            moment(secret.create_time),
            moment(secret.expire_time),
            moment(secret.last_used_time),
        )
        for secret in found
    ]
    print_table([id_title, "ends in", "name", "scopes", "networks", "made", "expires", "last used"], rows)
