"""When logins, API keys and OAuth clients were used last."""

# ruff: noqa: S608 - the only text put into statements is the table's and the column's name below

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

from control.database import Connection


class Credential(StrEnum):
    """What can be used."""

    LOGIN = "login"
    API_KEY = "api_key"
    OAUTH_CLIENT = "oauth_client"


_IDS = {Credential.LOGIN: "username", Credential.API_KEY: "key_id", Credential.OAUTH_CLIENT: "client_id"}


async def mark(connection: Connection, kind: Credential, times: Mapping[str, datetime]) -> None:
    """Keep when these were used, unless a use within the minute before is known."""
    await connection.execute(
        f"UPDATE {kind} SET last_used_at = used.at FROM unnest($1::text[], $2::timestamptz[]) AS used (id, at)"
        f" WHERE {_IDS[kind]} = used.id"
        " AND (last_used_at IS NULL OR last_used_at < used.at - interval '1 minute')",
        list(times),
        list(times.values()),
    )
