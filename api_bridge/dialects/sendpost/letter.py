"""The JSON of a send as types, and the answer for each recipient. Pure.

The types are lenient where clients differ (null for an optional field, a copy as a bare address, both spellings of the
pool) and strict where a guess would change who gets what.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

MAX_RECIPIENTS = 1000
"""Entries of ``to``."""
MAX_COPIES = 50
"""Entries of ``cc``, and of ``bcc``, of one recipient."""
MAX_GROUPS = 20
MAX_GROUP = 128

_Name = Annotated[str, Meta(max_length=256)]


class EmailAddress(Struct):
    """Who a message is from, or where replies go."""

    email: str
    name: _Name | None = None


class CopyTo(Struct):
    """Who gets a copy."""

    email: str
    name: _Name | None = None
    customFields: dict[str, Any] | None = None  # noqa: N815  # names in the JSON


_Copies = Annotated[list[CopyTo | str], Meta(max_length=MAX_COPIES)]


class Recipient(Struct):
    """Who gets a message of its own."""

    email: str
    name: _Name | None = None
    cc: _Copies | None = None
    bcc: _Copies | None = None
    customFields: dict[str, Any] | None = None  # noqa: N815


class Attachment(Struct):
    """A file; its type follows from its name."""

    content: str
    filename: Annotated[str, Meta(min_length=1, max_length=255)]


class EmailMessage(Struct):
    """Body of a send."""

    from_: EmailAddress = field(name="from")
    to: Annotated[list[Recipient], Meta(min_length=1, max_length=MAX_RECIPIENTS)]
    replyTo: EmailAddress | None = None  # noqa: N815
    subject: Annotated[str, Meta(max_length=998)] | None = None
    preText: Annotated[str, Meta(max_length=200)] | None = None  # noqa: N815
    htmlBody: str | None = None  # noqa: N815
    textBody: str | None = None  # noqa: N815
    ampBody: str | None = None  # noqa: N815
    template: str | None = None
    ippool: str | None = None
    ipPool: str | None = None  # noqa: N815
    headers: dict[str, str] | None = None
    trackOpens: bool | None = None  # noqa: N815
    trackClicks: bool | None = None  # noqa: N815
    groups: Annotated[list[str], Meta(max_length=MAX_GROUPS)] | None = None
    attachments: list[Attachment] | None = None
    webhookEndpoint: Annotated[str, Meta(max_length=2048)] | None = None  # noqa: N815


class TemplateMessage(EmailMessage):
    """Body of a send with a template."""

    templateId: str | int | None = None  # noqa: N815
    templateVariables: dict[str, Any] | None = None  # noqa: N815


class EmailResponse(Struct):
    """What became of one recipient; ``errorCode`` 0: accepted."""

    to: str
    submittedAt: int  # noqa: N815
    messageId: str  # noqa: N815
    errorCode: int  # noqa: N815
    message: str


def words(value: Any) -> str:
    """The value of a custom field as it stands in a text."""
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


def copy_of(given: CopyTo | str) -> CopyTo:
    """A copy in its full form."""
    return CopyTo(given) if isinstance(given, str) else given
