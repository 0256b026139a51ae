"""What ``POST /smtp/emails`` asks for: from its parameters to a message, in the order in which the original checks.

``draft`` takes everything up to the body, ``finish`` the rest; between them a template is rendered, which control does.
Both are pure. Errors: ``Problem`` with the original's texts and codes, ``Undecodable`` if a part has the wrong type and
the original documents no error for it.

Empty text, null and absence are the same, and an empty array is an empty object, since PHP has one for both.
"""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api_bridge import fieldtext, mime
from api_bridge.dialects.sendpulse import errors
from api_bridge.dialects.sendpulse.decoder import Parameters, Undecodable
from api_bridge.dialects.sendpulse.errors import Known
from api_bridge.fieldtext import FieldError

MAX_RECIPIENTS = 1000
"""Addresses of one message; the same bound as the MTA's."""
MAX_FILES = 100
"""Attachments of both kinds."""
MAX_VARIABLES = 1000
"""Of a template; the same bound as control's."""
CYRILLIC_CC = "\u0441\u0441"
"""How the original's documentation spells ``cc`` in its table."""

_WHITE = re.compile(r"\s+")
_URL_SAFE = str.maketrans("-_", "+/")
_TEMPLATE_ID = re.compile(r"[A-Za-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True)
class Template:
    """A stored body to be filled."""

    id: str
    variables: dict[str, str]


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as far as its body; ``rest`` holds what is not looked at yet."""

    author: mime.Mailbox
    to: list[Any]
    subject: str
    html: str
    text: str
    template: Template | None
    rest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mail:
    """A message to be composed and its recipients, each once, in the order to, cc, bcc."""

    message: mime.Message
    recipients: list[str]
    properties: dict[str, Any] = field(default_factory=dict)


def draft(parameters: Parameters, *, raw_html: bool) -> Draft:
    """The first half. ``raw_html``: HTML that is not in Base64 is taken as it is. Raises Problem or Undecodable."""
    email = parameters.structure("email")
    if email is None:
        raise errors.EMAIL_MISSING.problem()
    if not isinstance(email, dict) and email != []:
        raise Undecodable("email is no object")
    given: dict[str, Any] = {name: value for name, value in dict(email).items() if value is not None and value != ""}
    author = _author(given.get("from"))
    to = _people(given.get("to"), errors.TO_INVALID)
    if not to:
        raise errors.TO_INVALID.problem()
    subject = _subject(given.get("subject"))
    template = _template(given["template"]) if "template" in given else None
    text = given.get("text", "")
    if not isinstance(text, str):
        raise Undecodable("text is not text")
    html = _html(given["html"], raw_html) if template is None and "html" in given else ""
    if template is None and not html and not text:
        raise errors.BODY_MISSING.problem()
    return Draft(author, to, subject, html, text, template, given)


def finish(begun: Draft, html: str, text: str) -> Mail:
    """The second half; ``html`` and ``text`` are the body. Raises Problem or Undecodable."""
    rest = begun.rest
    files = [*_binary(rest.get("attachments_binary")), *_textual(rest.get("attachments"))]
    if len(files) > MAX_FILES:
        raise errors.invalid("attachments")
    to = _mailboxes(begun.to, errors.TO_INVALID)
    cc_invalid = Known(422, errors.TO_INVALID.code, "Argument email.cc is invalid")
    cc = [
        mailbox
        for name in ("cc", CYRILLIC_CC)
        for mailbox in _mailboxes(_people(rest.get(name), cc_invalid), cc_invalid)
    ]
    bcc_invalid = Known(422, errors.TO_INVALID.code, "Argument email.bcc is invalid")
    bcc = _mailboxes(_people(rest.get("bcc"), bcc_invalid), bcc_invalid)
    reply_to = _reply_to(rest.get("reply_to"))
    recipients = _each_once((*to, *cc, *bcc))
    if len(recipients) > MAX_RECIPIENTS:
        raise errors.TOO_MANY_RECIPIENTS.problem()
    message = mime.Message(
        subject=begun.subject,
        author=begun.author,
        to=to,
        cc=cc,
        reply_to=reply_to,
        html=html,
        text=text,
        derive_text=_truth(rest.get("auto_plain_text", rest.get("auto_plaint_text"))),
        attachments=files,
    )
    return Mail(message, recipients, _properties(begun, message, files))


def _author(given: Any) -> mime.Mailbox:
    if given is None:
        raise errors.FROM_EMAIL_MISSING.problem()
    if not isinstance(given, dict) and given != []:
        raise errors.FROM_INVALID.problem()
    person = dict(given)
    address = person.get("email")
    if address is None or address == "":
        raise errors.FROM_EMAIL_MISSING.problem()
    return mime.Mailbox(_address(address, errors.FROM_EMAIL_INVALID), _name(person, errors.FROM_INVALID), "from")


def _people(given: Any, invalid: Known) -> list[dict[str, Any]]:
    """Objects with an address: a list of them, an array of PHP with other keys, or one alone."""
    if given is None or given == {}:
        return []
    if isinstance(given, dict):
        given = [given] if "email" in given else list(given.values())
    if not isinstance(given, list) or not all(isinstance(person, dict) for person in given):
        raise invalid.problem()
    for person in given:
        _name(person, invalid)
    return given


def _mailboxes(people: Sequence[dict[str, Any]], invalid: Known) -> list[mime.Mailbox]:
    return [
        mime.Mailbox(_address(person.get("email"), errors.RECIPIENT_INVALID), _name(person, invalid), "to")
        for person in people
    ]


def _each_once(mailboxes: Sequence[mime.Mailbox]) -> list[str]:
    """The addresses, as they are first written: domains have no case, local parts may (RFC 5321 §2.4)."""
    found: dict[tuple[str, str], str] = {}
    for mailbox in mailboxes:
        local, _, domain = mailbox.address.rpartition("@")
        found.setdefault((local, domain.lower()), mailbox.address)
    return list(found.values())


def _reply_to(given: Any) -> mime.Mailbox | None:
    invalid = Known(422, 422, "Argument reply_to is invalid")
    people = _people(given, invalid)
    if not people:
        return None
    if len(people) > 1:
        raise invalid.problem()
    return mime.Mailbox(_address(people[0].get("email"), invalid), _name(people[0], invalid), "reply_to")


def _address(given: Any, invalid: Known) -> str:
    if not isinstance(given, str) or given.endswith("]"):
        raise invalid.problem()
    try:
        return mime.address("email", given.strip(" "))
    except FieldError:
        raise invalid.problem() from None


def _name(person: dict[str, Any], invalid: Known) -> str:
    given = person.get("name")
    if given is None:
        return ""
    if isinstance(given, bool) or not isinstance(given, str | int):
        raise invalid.problem()
    try:
        return fieldtext.check("name", str(given).strip(" "))
    except FieldError:
        raise invalid.problem() from None


def _subject(given: Any) -> str:
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if given is None or given == "" or given == []:
        raise errors.SUBJECT_MISSING.problem()
    try:
        if not isinstance(given, str):
            raise FieldError("subject", "is not text")
        return fieldtext.check("subject", given)
    except FieldError:
        raise errors.invalid("subject", errors.SUBJECT_MISSING.code) from None


def _template(given: Any) -> Template:
    if not isinstance(given, dict) and given != []:
        raise errors.TEMPLATE_INVALID.problem()
    template = dict(given)
    id_ = template.get("id")
    if id_ is None or id_ == "":
        raise errors.TEMPLATE_ID_MISSING.problem()
    if isinstance(id_, bool) or not isinstance(id_, str | int):
        raise errors.TEMPLATE_INVALID.problem()
    variables = _variables(template.get("variables"))
    if not _TEMPLATE_ID.fullmatch(str(id_)):
        raise errors.TEMPLATE_NOT_FOUND.problem()
    return Template(str(id_), variables)


def _variables(given: Any) -> dict[str, str]:
    if given is None or given == [] or given == "":
        return {}
    if not isinstance(given, dict) or len(given) > MAX_VARIABLES:
        raise errors.VARIABLES_INVALID.problem()
    variables = {}
    for name, value in given.items():
        if isinstance(value, list | dict):
            raise errors.VARIABLES_INVALID.problem()
        variables[name] = _written(value)
    return variables


def _written(value: Any) -> str:
    """A value as PHP would print it."""
    if value is None or value is False:
        return ""
    return "1" if value is True else str(value)


def _html(given: Any, raw: bool) -> str:
    if not isinstance(given, str):
        raise Undecodable("html is not text")
    try:
        return decoded(given).decode()
    except ValueError:
        # Many clients forget to encode.
        if raw and "<" in given:
            return given
        raise Undecodable("html is not Base64 of UTF-8") from None


def decoded(text: str) -> bytes:
    """Base64 as clients write it: in lines, without padding, in the URL-safe alphabet. Raises ValueError."""
    compact = _WHITE.sub("", text).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("not Base64") from error


def _binary(given: Any) -> list[mime.Attachment]:
    return [
        _attachment(name, _file(content), "attachments_binary")
        for name, content in _files(given, errors.BINARY_INVALID)
    ]


def _file(content: str) -> bytes:
    try:
        return decoded(content)
    except ValueError:
        raise errors.BINARY_INVALID.problem() from None


def _textual(given: Any) -> list[mime.Attachment]:
    invalid = Known(422, 422, "Argument attachments is invalid")
    return [
        _attachment(name, content.encode(), "attachments", _text_type(name)) for name, content in _files(given, invalid)
    ]


def _text_type(name: str) -> str:
    """The type of a file that was given as text, if its name says that it is text; otherwise whatever the name says."""
    kind = mime.type_of(name)
    return f"{kind}; charset=utf-8" if kind.startswith("text/") else ""


def _files(given: Any, invalid: Known) -> list[tuple[str, str]]:
    if given is None or given == []:
        return []
    if not isinstance(given, dict) or len(given) > MAX_FILES:
        raise invalid.problem()
    if not all(name and isinstance(content, str) for name, content in given.items()):
        raise invalid.problem()
    return list(given.items())


def _attachment(name: str, content: bytes, kind: str, content_type: str = "") -> mime.Attachment:
    try:
        return mime.Attachment(fieldtext.check(kind, name), content, content_type, field=kind)
    except FieldError:
        raise errors.invalid(kind) from None


def _truth(given: Any) -> bool:
    if given is None or given in (True, False, 0, 1):
        return bool(given)
    if isinstance(given, str):
        return given.strip().lower() not in ("0", "false", "no", "off")
    raise errors.invalid("auto_plain_text")


def _properties(begun: Draft, message: mime.Message, files: list[mime.Attachment]) -> dict[str, Any]:
    """What views and webhooks show of the message; see ``shown``."""
    said: dict[str, Any] = {"dialect": "sendpulse", "from": _person(begun.author)}
    if message.reply_to is not None:
        said["reply_to"] = _person(message.reply_to)
    if begun.template is not None:
        said["template"] = begun.template.id
    if files:
        said["attachments"] = [{"filename": file.filename, "size": len(file.content)} for file in files]
    return said


def shown(properties: dict[str, Any]) -> str:
    """The properties as text; without the names of files, if that would be more than is kept."""
    text = json.dumps(properties, ensure_ascii=False)
    if len(text.encode()) > 30_000:
        text = json.dumps({name: value for name, value in properties.items() if name != "attachments"})
    return text


def _person(mailbox: mime.Mailbox) -> dict[str, str]:
    return {"email": mailbox.address, "name": mailbox.name}
