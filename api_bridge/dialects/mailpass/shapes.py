"""From the JSON of MailPass to messages. Pure, but for tracking links and boundaries.

Fields are checked one after the other, in the order of the documentation; the first that is wrong is named. ``null`` is
absence. Unknown fields are passed over. Errors: ``Problem`` 400.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from barua.mta.v1.injection_service_pb2 import SubmitMessageRequest

from api_bridge import fieldtext, messageids, mime
from api_bridge.dialects.mailpass.errors import invalid
from api_bridge.fieldtext import FieldError
from api_bridge.mime import Mailbox, Message
from api_bridge.tracking.tracker import Tracker

MAX_MESSAGES = 100
"""Messages of a batch."""
MAX_RECIPIENTS = 1000
"""Of one message, copies included."""
MAX_TAGS, MAX_TAG = 20, 128
MAX_PROPERTIES = 32 * 1024
"""Octets of what is kept with a message: its metadata and addresses."""

MAX_SUBTYPE, MAX_DIAGNOSTIC, MAX_URL = 500, 1000, 2000

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")
_SECRET = re.compile(r"[!-~]{16,200}")
_MESSAGE_ID = re.compile(r"<?([0-9a-z]{6})\.([1-9][0-9]{9})@([^@<>\s/]{1,255})>?")


class Letter(NamedTuple):
    """A message as it was asked for, checked."""

    to: str
    subject: str
    html: str
    text: str
    from_email: str
    from_name: str
    reply_to: str
    cc: Sequence[str]
    bcc: Sequence[str]
    tags: Sequence[str]
    metadata: Mapping[str, Any]

    @property
    def recipients(self) -> list[str]:
        """All addresses, each once, the first one first."""
        return list(dict.fromkeys((self.to, *self.cc, *self.bcc)))


class Bounce(NamedTuple):
    """A bounce that somebody reports."""

    email: str
    type: str
    subtype: str
    diagnostic_code: str


class Hook(NamedTuple):
    """What somebody wants of a webhook. Empty, or None: it was not said."""

    url: str
    events: list[str]
    is_active: bool | None
    secret: str


class Defaults(NamedTuple):
    """What holds for messages of a batch that do not say otherwise."""

    from_email: str = ""
    from_name: str = ""


@dataclass(frozen=True, slots=True)
class Composer:
    """Makes submissions of letters. ``host`` is what Message-IDs of this installation end with."""

    tracker: Tracker
    opens: bool
    clicks: bool
    host: str
    peer: str
    batch: bool = False

    def compose(self, letter: Letter) -> SubmitMessageRequest:
        """The submission of a letter. Raises Problem for what cannot be written into a header."""
        tracked = bool(letter.html) and (self.opens or self.clicks)
        reference = self.tracker.reference() if tracked else b""
        html = self.tracker.track(letter.html, reference, opens=self.opens, clicks=self.clicks)
        try:
            content = mime.compose(_message(letter, html))
        except FieldError as error:
            raise invalid(_sentence(error)) from None
        return SubmitMessageRequest(
            sender=letter.from_email,
            recipients=letter.recipients,
            content=content,
            from_display_name="" if letter.from_email else letter.from_name,
            tags=letter.tags,
            properties=self._properties(letter),
            reference=reference,
            record_suppressed=len(letter.recipients) > 1,
            whole=True,
        )

    def _properties(self, letter: Letter) -> str:
        kept = {
            "dialect": "mailpass",
            "host": self.host,
            "batch": self.batch,
            "from": _named(letter.from_email, letter.from_name),
            "reply_to": _named(letter.reply_to, ""),
            "to": {"email": letter.to, "cc": [_named(one, "") for one in letter.cc],
                   "bcc": [_named(one, "") for one in letter.bcc]},
            "metadata": letter.metadata,
            "track_opens": self.tracker.on and self.opens and bool(letter.html),
            "track_clicks": self.tracker.on and self.clicks and bool(letter.html),
            "client_address": self.peer,
        }  # fmt: skip
        given = {name: value for name, value in kept.items() if value}
        text = json.dumps(given, ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) > MAX_PROPERTIES:
            raise invalid(f"The metadata field is too large: {MAX_PROPERTIES} bytes are kept, addresses included.")
        return text


def letter(item: Any, defaults: Defaults = Defaults()) -> Letter:  # noqa: B008 - frozen
    """A message of a request. Raises Problem 400 that names the first field that is wrong."""
    if not isinstance(item, dict):
        raise invalid("The message must be a JSON object.")
    fields = _Fields(item)
    to = fields.address("to", required=True)
    subject = fields.header("subject", required=True)
    html, text = fields.string("html"), fields.string("text")
    if not html and not text:
        raise invalid("The html field is required when text is not present.")
    made = Letter(
        to=to,
        subject=subject,
        html=html,
        text=text,
        from_email=fields.address("from_email") or defaults.from_email,
        from_name=fields.header("from_name") or defaults.from_name,
        reply_to=fields.address("reply_to"),
        cc=fields.addresses("cc"),
        bcc=fields.addresses("bcc"),
        tags=fields.tags(),
        metadata=fields.metadata(),
    )
    if len(made.recipients) > MAX_RECIPIENTS:
        raise invalid(f"The message has {len(made.recipients)} recipients; at most {MAX_RECIPIENTS} are possible.")
    return made


def batch(body: Mapping[str, Any]) -> tuple[list[Any], Defaults]:
    """The messages of a batch, unchecked, and what holds for all of them. Raises Problem 400."""
    messages = body.get("messages")
    if messages is None:
        raise invalid("The messages field is required.")
    if not isinstance(messages, list):
        raise invalid("The messages field must be an array.")
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise invalid(f"The messages field must have 1 to {MAX_MESSAGES} items.")
    fields = _Fields(body)
    return messages, Defaults(fields.address("from_email"), fields.header("from_name"))


def bounce(body: Mapping[str, Any]) -> Bounce:
    """A reported bounce. Raises Problem 400."""
    fields = _Fields(body)
    email = fields.address("email", required=True)
    return Bounce(
        email,
        fields.choice("bounce_type", ("hard", "soft", "complaint")),
        fields.short("bounce_subtype", MAX_SUBTYPE),
        fields.short("diagnostic_code", MAX_DIAGNOSTIC),
    )


def webhook(body: Mapping[str, Any], events: Collection[str], *, partial: bool = False) -> Hook:
    """A webhook that is to be made or, if ``partial``, changed. Raises Problem 400."""
    fields = _Fields(body)
    url = fields.short("url", MAX_URL, required=not partial or "url" in body)
    wanted = fields.names("events", events)
    if not wanted and not partial:
        wanted = list(events)
    return Hook(url, wanted, fields.truth("is_active"), "" if partial else fields.secret("secret"))


def to_of(item: Any) -> str:
    """What a message of a batch says whom it is for, right or wrong."""
    to = item.get("to") if isinstance(item, dict) else None
    return to if isinstance(to, str) else ""


def message_id(id_: int, host: str) -> str:
    """The Message-ID of an id."""
    return f"<{messageids.base36(id_).split('-')[1]}.{messageids.unix_ms(id_) // 1000}@{host}>"


def id_of(text: str) -> tuple[str, str] | None:
    """The id in a path, as control finds it, and the host in it: a Message-ID or a queue id; None: it is neither."""
    match = _MESSAGE_ID.fullmatch(text)
    if match is not None and text.startswith("<") == text.endswith(">"):
        return f"{match[1]}.{match[2]}@{match[3]}", match[3]
    return (text, "") if messageids.from_decimal(text) is not None else None


def properties_of(text: str) -> dict[str, Any]:
    """What was kept with a message; nothing if it is no JSON object."""
    try:
        value = json.loads(text) if text else None
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


class _Fields:
    """The fields of a JSON object, each checked as it is read."""

    def __init__(self, item: Mapping[str, Any]) -> None:
        self._item = item

    def string(self, name: str, *, required: bool = False) -> str:
        value = self._item.get(name)
        if value is None or value == "":
            if required:
                raise invalid(f"The {name} field is required.")
            return ""
        if not isinstance(value, str):
            raise invalid(f"The {name} field must be a string.")
        if required and not value.strip():
            raise invalid(f"The {name} field is required.")
        return value

    def header(self, name: str, *, required: bool = False) -> str:
        """Text for a header field."""
        return _checked(name, self.string(name, required=required))

    def address(self, name: str, *, required: bool = False) -> str:
        value = self.string(name, required=required).strip(" ")
        return _address(name, value) if value else ""

    def addresses(self, name: str) -> list[str]:
        items = self._strings(name)
        return list(dict.fromkeys(_address(f"{name}.{index}", item.strip(" ")) for index, item in enumerate(items)))

    def tags(self) -> list[str]:
        tags = list(dict.fromkeys(self._strings("tags")))
        if len(tags) > MAX_TAGS:
            raise invalid(f"The tags field must have at most {MAX_TAGS} items.")
        if not all(1 <= len(tag) <= MAX_TAG and tag.isprintable() for tag in tags):
            raise invalid(f"The tags field must hold texts of 1 to {MAX_TAG} printable characters.")
        return tags

    def short(self, name: str, limit: int, *, required: bool = False) -> str:
        """A text of one line."""
        value = self.string(name, required=required)
        if len(value) > limit or not value.isprintable():
            raise invalid(f"The {name} field must have at most {limit} printable characters.")
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        value = self.string(name, required=True)
        if value not in choices:
            raise invalid(f"The {name} field must be one of: {', '.join(choices)}.")
        return value

    def names(self, name: str, choices: Collection[str]) -> list[str]:
        wanted = list(dict.fromkeys(self._strings(name)))
        if not all(item in choices for item in wanted):
            raise invalid(f"The {name} field must hold some of: {', '.join(choices)}.")
        return wanted

    def truth(self, name: str) -> bool | None:
        value = self._item.get(name)
        if value is not None and not isinstance(value, bool):
            raise invalid(f"The {name} field must be true or false.")
        return value

    def secret(self, name: str) -> str:
        value = self.string(name)
        if value and not _SECRET.fullmatch(value):
            raise invalid(f"The {name} field must have 16 to 200 printable characters without spaces.")
        return value

    def metadata(self) -> dict[str, Any]:
        value = self._item.get("metadata")
        if value is None or value == []:  # an empty array of PHP
            return {}
        if not isinstance(value, dict):
            raise invalid("The metadata field must be an object.")
        if _has_nul(value):
            raise invalid("The metadata field must not contain NUL characters.")
        return value

    def _strings(self, name: str) -> list[str]:
        value = self._item.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise invalid(f"The {name} field must be an array of strings.")
        if len(value) > MAX_RECIPIENTS:
            raise invalid(f"The {name} field must have at most {MAX_RECIPIENTS} items.")
        return value


def _has_nul(value: Any) -> bool:
    """Whether there is a NUL in a text of a value: databases do not keep it."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))


def _message(letter: Letter, html: str) -> Message:
    return Message(
        subject=letter.subject,
        to=[Mailbox(letter.to)],
        html=html,
        text=letter.text,
        reply_to=Mailbox(letter.reply_to, field="reply_to") if letter.reply_to else None,
        author=Mailbox(letter.from_email, letter.from_name, "from_email") if letter.from_email else None,
        cc=[Mailbox(one, field="cc") for one in letter.cc],
    )


def _address(name: str, value: str) -> str:
    try:
        plain = mime.address(name, value)
    except FieldError:
        plain = ""
    if not _DOMAIN.fullmatch(plain.rpartition("@")[2]):
        raise invalid(f"The {name} field must be a valid email address.")
    return plain


def _checked(name: str, value: str) -> str:
    try:
        return fieldtext.check(name, value)
    except FieldError as error:
        raise invalid(_sentence(error)) from None


def _sentence(error: FieldError) -> str:
    return f"The {error.field} field {str(error).removeprefix(error.field).strip()}."


def _named(email: str, name: str) -> dict[str, str]:
    return {key: value for key, value in (("email", email), ("name", name)) if value}
