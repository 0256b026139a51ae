"""From the JSON of a send to one message for each recipient.

``Batch`` checks what all copies share when it is made, and makes the copies one by one: recipients differ in their
address, their custom fields and their links, so what does not depend on those (files, header fields, texts without
places) is made once. A recipient whose address is none gets no copy and a reason in ``rejected``; everything else that
cannot be so refuses the whole send, before anything of it is sent.

Values never make header fields: each goes through ``fieldtext``, which refuses line breaks.

Errors: ``Problem`` 413, 422. Pure, except for random references and boundaries; any thread, one at a time.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from barua.mta.v1.injection_service_pb2 import SubmitMessageRequest

from api_bridge import fieldtext, mime, plaintext
from api_bridge.dialects.sendpost import errors
from api_bridge.dialects.sendpost.letter import MAX_GROUP, CopyTo, Recipient, TemplateMessage, copy_of, words
from api_bridge.fieldtext import FieldError
from api_bridge.substitution import Text
from api_bridge.tracking.tracker import Tracker

CHUNK_BYTES = 24 * 1024 * 1024
"""Messages that go to the MTA in one call, which takes 64 MiB."""
TOTAL_BYTES = 256 * 1024 * 1024
"""All copies of one send."""
ATTACHMENT_BYTES = 25 * 1024 * 1024
"""All files of a message, before they are encoded."""
MAX_CHUNK = 1000
"""Messages of one call, which takes no more."""
MAX_FILES = 100
MAX_PROPERTIES = 32_000
"""Octets kept with a message; without the custom fields if they are too many."""
OWN_FIELDS = frozenset({"from", "to", "subject"})
"""Header fields that are documented to have no effect among ``headers``."""

_IN_TAG = re.compile(r"<[^<>]*\{\{(?![ \t]*\.?unsubscribe[ \t]*\}\})[^<>]*>")
_Result = TypeVar("_Result")
_WHITE = re.compile(r"[ \t\r\n\f\v]+")


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored template."""

    name: str
    subject: str
    html: str
    text: str


@dataclass(frozen=True, slots=True)
class Sending:
    """What a send depends on beside its body."""

    tracker: Tracker
    pool: str = ""
    """Id of the pool for the MTA; the request's name of it was found."""
    mock_domain: str = ""
    """Nothing is sent: all addresses are replaced by ones at this domain. Empty: it is sent."""
    peer: str = ""


class Batch:
    """All copies of one send. Raises Problem."""

    def __init__(self, letter: TemplateMessage, stored: Stored | None, sending: Sending) -> None:
        self._letter = letter
        self._sending = sending
        subject, html, text = _texts(letter, stored)
        self._subject, self._html, self._amp = Text(subject), Text(html), Text(letter.ampBody or "")
        self._pre = Text(letter.preText or "")
        # The text of HTML can be derived before it is filled, unless values bring HTML of their own.
        derived = bool(html) and not text and not self._html.raw and len(html) <= plaintext.MAX_SOURCE
        self._text = Text(plaintext.from_html(html) if derived else text)
        _kept("preText", letter.preText)
        _kept("ippool", letter.ippool or letter.ipPool)
        self._author = _mailbox(letter.from_.email, letter.from_.name, "from")
        reply = letter.replyTo
        self._reply_to = _mailbox(reply.email, reply.name, "replyTo") if reply else None
        self._headers = [
            (name, value) for name, value in (letter.headers or {}).items() if name.lower() not in OWN_FIELDS
        ]
        self._files = _named(lambda: mime.files(_attachments(letter)))
        self._groups = _groups(letter)
        self._opens = letter.trackOpens is not False
        self._clicks = letter.trackClicks is not False
        self._endpoint = _endpoint(letter.webhookEndpoint)
        self._values = {name: words(value) for name, value in (letter.templateVariables or {}).items()}
        texts = (self._subject, self._html, self._text, self._amp, self._pre)
        self._unsubscribes = any("unsubscribe" in one.names for one in texts)
        tracked = bool(self._html.source) and (self._opens or self._clicks)
        self._linked = sending.tracker.on and (tracked or self._unsubscribes)
        self._properties = self._shared_properties(stored)
        _named(
            lambda: mime.compose(
                mime.Message("", (), reply_to=self._reply_to, author=self._author, headers=self._headers), b"-"
            )
        )
        self._body = b"" if self._personal() else self._composed_body(html, self._text.source, {})
        self.rejected: dict[int, str] = {}
        self.owners: dict[int, int] = {}
        """Of messages with negative places: the recipient in ``to`` that they are copies for."""
        self._addresses = [self._envelope(index, recipient) for index, recipient in enumerate(letter.to)]

    @property
    def sender(self) -> str:
        """The envelope sender."""
        return self._author.address

    def chunks(self) -> Iterator[list[tuple[int, SubmitMessageRequest]]]:
        """The messages with their places in ``to``, as many at a time as go into one call. Raises Problem at once.

        Those with links are for one address each, so that it is known who follows them; the ones for ``cc`` and ``bcc``
        have negative places.
        """
        wanted = self._wanted()
        if not wanted:
            return
        first = self._copy(*wanted[0][1:])
        if len(first.content) * len(wanted) > TOTAL_BYTES:
            most = max(1, TOTAL_BYTES // len(first.content))
            text = f"The message is too large for {len(wanted)} recipients in one call; send it to at most {most}."
            raise errors.SendPostProblem(413, text)
        if len(first.content) * len(wanted) > CHUNK_BYTES or len(wanted) > MAX_CHUNK:
            for _, index, _ in wanted:  # nothing of it may be refused any more when the first chunk is sent
                self._head(index, self._filling(index, b""), b"-")
        chunk, size = [(wanted[0][0], first)], len(first.content)
        for place, index, addresses in wanted[1:]:
            copy = self._copy(index, addresses)
            if size + len(copy.content) > CHUNK_BYTES or len(chunk) == MAX_CHUNK:
                yield chunk
                chunk, size = [], 0
            chunk.append((place, copy))
            size += len(copy.content)
        yield chunk

    def _wanted(self) -> list[tuple[int, int, list[str]]]:
        """Place, recipient and envelope of each message."""
        indexes = [index for index in range(len(self._letter.to)) if index not in self.rejected]
        if not self._linked:
            return [(index, index, self._addresses[index]) for index in indexes]
        own = [(index, index, self._addresses[index][:1]) for index in indexes]
        copies = [(index, address) for index in indexes for address in self._addresses[index][1:]]
        self.owners = {-1 - number: index for number, (index, _) in enumerate(copies)}
        return own + [(-1 - number, index, [address]) for number, (index, address) in enumerate(copies)]

    def _copy(self, index: int, addresses: list[str]) -> SubmitMessageRequest:
        reference = self._sending.tracker.reference()
        values = self._filling(index, reference)
        body = self._body
        if not body:
            html = self._tracked(values, reference)
            body = self._composed_body(html, self._text.fill(values), values)
        return SubmitMessageRequest(
            sender=self._author.address,
            recipients=addresses,
            content=self._head(index, values, body),
            tags=self._groups,
            properties=self._own_properties(index),
            reference=reference,
            record_suppressed=True,
            pool=self._sending.pool,
        )

    def _filling(self, index: int, reference: bytes) -> Mapping[str, str]:
        """The values for one recipient: their own before those for all."""
        own = self._letter.to[index].customFields or {}
        values = {**self._values, **{name: words(value) for name, value in own.items()}}
        values["unsubscribe"] = self._sending.tracker.unsubscribe_url(reference) if self._unsubscribes else ""
        return values

    def _tracked(self, values: Mapping[str, str], reference: bytes) -> str:
        """The HTML of one recipient. Values that cannot make links are put in last: then links are looked for once."""
        tracker = self._sending.tracker
        if not self._html.source:
            return ""
        if self._html.fixed or not (self._html.raw or _IN_TAG.search(self._html.source)):
            tracked = tracker.track(self._html.source, reference, opens=self._opens, clicks=self._clicks)
            text = self._html if tracked is self._html.source else Text(tracked)
            return text.fill_html(values)
        return tracker.track(self._html.fill_html(values), reference, opens=self._opens, clicks=self._clicks)

    def _composed_body(self, html: str, text: str, values: Mapping[str, str]) -> bytes:
        """Everything after the header fields."""
        message = mime.Message(
            "",
            (),
            html=html,
            text=text,
            amp=self._amp.fill_html(values),
            preheader=self._pre.fill(values),
        )
        return mime.body(message, self._files)

    def _head(self, index: int, values: Mapping[str, str], body: bytes) -> bytes:
        recipient = self._letter.to[index]
        place = f"to[{index}]"
        subject = self._subject.fill(values)
        message = mime.Message(
            subject,
            [_shown(recipient, place)],
            reply_to=self._reply_to,
            headers=self._headers,
            author=self._author,
            cc=[_shown(copy_of(one), f"{place}.cc[{at}]") for at, one in enumerate(recipient.cc or ())],
            unsubscribe=values["unsubscribe"],
        )
        try:
            return mime.compose(message, body)
        except FieldError as error:
            if error.field == "subject":
                raise self._bad_subject(index, error) from None
            raise errors.invalid_body(error.field, f"{error}.") from None

    def _bad_subject(self, index: int, error: FieldError) -> Exception:
        own = self._letter.to[index].customFields or {}
        for name in sorted(self._subject.names):
            value = words(own[name]) if name in own else self._values.get(name, "")
            if not _is_header_text(value):
                field = f"to[{index}].customFields.{name}" if name in own else f"templateVariables.{name}"
                text = f"{field} must not contain line breaks or other control characters: it is put into the subject."
                return errors.invalid_body(field, text)
        return errors.invalid_body("subject", f"{error}.")

    def _envelope(self, index: int, recipient: Recipient) -> list[str]:
        """The envelope's recipients of one copy; none if one of them is no address."""
        place = f"to[{index}]"
        copies = [("cc", recipient.cc or ()), ("bcc", recipient.bcc or ())]
        for name, value in (recipient.customFields or {}).items():
            _kept(f"{place}.customFields", name)
            _kept(f"{place}.customFields.{name}", value)
        for at, one in enumerate(recipient.bcc or ()):
            _kept(f"{place}.bcc[{at}].name", copy_of(one).name)
        try:
            addresses = [mime.address(f"{place}.email", recipient.email)]
            for kind, some in copies:
                addresses += [
                    mime.address(f"{place}.{kind}[{at}].email", copy_of(one).email) for at, one in enumerate(some)
                ]
        except FieldError as error:
            self.rejected[index] = f"{error}."
            return []
        if self._sending.mock_domain:
            return [_mocked(address, self._sending.mock_domain) for address in addresses]
        return addresses

    def _personal(self) -> bool:
        """Whether the bodies of two recipients may differ."""
        return self._linked or not all(one.fixed for one in (self._html, self._text, self._amp, self._pre))

    def _shared_properties(self, stored: Stored | None) -> bytes:
        letter = self._letter
        shared = {
            "dialect": "sendpost",
            "from": letter.from_,
            "reply_to": letter.replyTo,
            "pool": letter.ippool or letter.ipPool,
            "groups": self._groups,
            "pre_text": letter.preText,
            "track_opens": self._opens,
            "track_clicks": self._clicks,
            "webhook_endpoint": self._endpoint,
            "template": stored.name if stored else None,
            "client_address": self._sending.peer,
            "headers": dict(self._headers),
            "attachments": [
                {"filename": one.filename, "size": len(one.content) * 3 // 4} for one in letter.attachments or ()
            ],
        }
        encoded = msgspec.json.encode(
            {name: value for name, value in shared.items() if value not in (None, "", [], {})}
        )
        if len(encoded) > MAX_PROPERTIES // 2:
            text = f"headers and the other details of the message are longer than {MAX_PROPERTIES // 2} bytes."
            raise errors.invalid_body("headers", text)
        return encoded[:-1]

    def _own_properties(self, index: int) -> str:
        recipient = self._letter.to[index]
        to = {
            "email": recipient.email,
            "name": recipient.name,
            "cc": [_person(copy_of(one)) for one in recipient.cc or ()],
            "bcc": [_person(copy_of(one)) for one in recipient.bcc or ()],
            "custom_fields": recipient.customFields,
        }
        kept = {name: value for name, value in to.items() if value}
        encoded = msgspec.json.encode(kept)
        for name in ("custom_fields", "bcc", "cc", "name"):
            if len(self._properties) + len(encoded) < MAX_PROPERTIES:
                break
            kept.pop(name, None)
            encoded = msgspec.json.encode(kept)
        return (self._properties + b',"to":' + encoded + b"}").decode()


def _texts(letter: TemplateMessage, stored: Stored | None) -> tuple[str, str, str]:
    """Subject, HTML and text: those of a template, the subject unless the request has one."""
    subject = letter.subject or (stored.subject if stored else "")
    html, text = letter.htmlBody or "", letter.textBody or ""
    if stored is not None:
        html, text = stored.html, stored.text
    if not subject:
        raise errors.invalid_body("subject", "subject is required, unless a template has one.")
    if not html and not text and not letter.ampBody:
        raise errors.invalid_body("htmlBody", "htmlBody, textBody or a template is required.")
    return subject, html, text


def _mailbox(address: str, name: str | None, field: str) -> mime.Mailbox:
    plain = _named(lambda: mime.address(f"{field}.email", address))
    _named(lambda: fieldtext.check(f"{field}.name", name or ""))
    return mime.Mailbox(plain, name or "", field)


def _kept(field: str, value: Any) -> None:
    """Refuse a value that is kept with the message if it has a NUL in it: databases do not take it. Raises Problem."""
    if _has_nul(value):
        raise errors.invalid_body(field, f"{field} must not contain NUL characters.")


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(name) or _has_nul(item) for name, item in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))


def _shown(recipient: Recipient | CopyTo, place: str) -> mime.Mailbox:
    return mime.Mailbox(recipient.email, recipient.name or "", f"{place}.name")


def _person(copy: CopyTo) -> Mapping[str, str]:
    return {"email": copy.email, "name": copy.name} if copy.name else {"email": copy.email}


def _mocked(address: str, domain: str) -> str:
    """An address at the mock domain that tells which one it stands for."""
    local, _, host = address.rpartition("@")
    kept = re.sub(r"[^A-Za-z0-9._-]", "-", f"{local}={host}")[:60].strip(".") or "recipient"
    return f"{re.sub(r'[.]+', '.', kept)}@{domain}"


def _attachments(letter: TemplateMessage) -> list[mime.Attachment]:
    given = letter.attachments or []
    if len(given) > MAX_FILES:
        raise errors.invalid_body("attachments", f"attachments must have at most {MAX_FILES} items.")
    files: list[mime.Attachment] = []
    for index, one in enumerate(given):
        place = f"attachments[{index}]"
        try:
            content = base64.b64decode(_WHITE.sub("", one.content), validate=True)
        except (binascii.Error, ValueError):
            raise errors.invalid_body(f"{place}.content", f"{place}.content is not valid Base64.") from None
        fieldtext.check(f"{place}.filename", one.filename)
        files.append(mime.Attachment(one.filename, content, field=place))
    if sum(len(file.content) for file in files) > ATTACHMENT_BYTES:
        raise errors.invalid_body("attachments", f"attachments are larger than {ATTACHMENT_BYTES} bytes together.")
    return files


def _groups(letter: TemplateMessage) -> Sequence[str]:
    groups = list(dict.fromkeys(letter.groups or ()))
    for index, group in enumerate(letter.groups or ()):
        if not 1 <= len(group) <= MAX_GROUP or not group.isprintable():
            text = f"groups[{index}] must have 1 to {MAX_GROUP} characters, without control characters."
            raise errors.invalid_body(f"groups[{index}]", text)
    return groups


def _endpoint(url: str | None) -> str:
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and url.isprintable()
    except ValueError:
        good = False
    if not good or " " in url:
        raise errors.invalid_body("webhookEndpoint", "webhookEndpoint must be a URL such as https://example.com/hook.")
    return url


def _is_header_text(value: str) -> bool:
    try:
        fieldtext.check("subject", value)
    except FieldError:
        return False
    return True


def _named(work: Callable[[], _Result]) -> _Result:
    """What ``work`` returns; a FieldError as the Problem of its field."""
    try:
        return work()
    except FieldError as error:
        field = "headers" if error.field.startswith("header ") else error.field
        raise errors.invalid_body(field, f"{error}.") from None
