"""Between requests to submit a message and submissions: the only place of the worker that knows both.

``Drafts.draft`` judges everything of a request short of its content; the draft then has the submission for the intake,
and makes the answer of what the intake says. Errors: ``Refusal``.
"""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from google.rpc import code_pb2, status_pb2

from barua.mta.v1 import injection_service_pb2 as pb

from mta.custody import admission
from mta.custody.submission import Dropped, Origin, Source, Submission, Taken
from mta.message.address import Address, AddressError, parse_path
from mta.policy.lookup import Policy
from mta.policy.records import Tenant
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rpc import status_of
from mta.runtime.streams import stream_name

MAX_TAGS = 20
MAX_TAG = 128
"""Characters of a tag."""
MAX_PROPERTIES = 32 * 1024
"""Octets of the properties of a message."""
MAX_DEPTH = 64
"""Objects and arrays within each other in properties: no program that reads them comes to the end of its stack."""
REFERENCE_OCTETS = 16

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_OK = status_pb2.Status(code=code_pb2.OK)


class Draft:
    """A request that may become a message."""

    __slots__ = ("_admitted", "_dropped", "_refused", "_wanted", "submission", "validate_only")

    def __init__(
        self,
        submission: Submission,
        wanted: Sequence[str],
        admitted: Sequence[str],
        dropped: Sequence[str],
        refused: dict[str, Refusal],
        validate_only: bool,
    ) -> None:
        self.submission = submission
        self.validate_only = validate_only
        self._wanted = wanted
        self._admitted = admitted
        self._dropped = dropped
        self._refused = refused

    @property
    def tenant(self) -> str:
        """Id of the tenant it is for."""
        return self.submission.line[0].tenant_id

    def response(self, taken: Taken | None) -> pb.SubmitMessageResponse:
        """The answer to the request; ``taken`` is None if it was only to be validated."""
        ids: dict[str, int] = {}
        if taken is not None:
            ids = dict(zip(self._admitted, taken.recipient_ids, strict=True))
            ids.update(zip(self._dropped, taken.dropped_ids, strict=True))
        admitted = frozenset(self._admitted)
        results = []
        for text in self._wanted:
            if text in admitted:
                results.append(pb.RecipientResult(recipient=text, recipient_id=ids.get(text, 0), status=_OK))
            elif text in self._refused:
                status = status_of(self._refused[text])
                results.append(pb.RecipientResult(recipient=text, recipient_id=ids.get(text, 0), status=status))
        return pb.SubmitMessageResponse(
            message_id=taken.message_id if taken is not None else 0,
            results=results,
            message_id_header=taken.message_id_header if taken is not None else "",
            sender=self.submission.sender.mailbox if self.submission.sender is not None else "",
        )


class Drafts:
    """Judges requests by the policy in force."""

    def __init__(self, policy: Policy, max_recipients: int) -> None:
        self._policy = policy
        self._max_recipients = max_recipients

    def draft(self, request: pb.SubmitMessageRequest, caller_tenant: str, peer: str | None) -> Draft:
        """The draft of a request of a caller; of the operator, if ``caller_tenant`` is empty. Raises Refusal."""
        line = self._line(caller_tenant, request.tenant_id)
        sender = self._sender(line, request.sender)
        stream = _stream(request.stream)
        wanted = list(dict.fromkeys(request.recipients))
        if not 1 <= len(wanted) <= self._max_recipients:
            text = f"give 1 to {self._max_recipients} recipients; there are {len(wanted)}"
            raise Refusal(Reason.INVALID_ARGUMENT, text, field="recipients")
        if request.despite_suppression and caller_tenant:
            text = "only the platform itself may send to suppressed recipients"
            raise Refusal(Reason.PERMISSION_DENIED, text, field="despite_suppression")
        # What the account itself suppressed is left out of account then.
        suppressing = line[1:] if request.despite_suppression else line
        admitted, refused, dropped = self._admit(suppressing, wanted, stream, request.record_suppressed)
        if not admitted and not dropped:
            raise refused[wanted[0]]
        if request.whole:
            _check_whole(wanted, refused)
        if not request.content:
            raise Refusal(Reason.INVALID_ARGUMENT, "content is empty; it must be the message", field="content")
        submission = Submission(
            line=line,
            sender=sender,
            sender_name=request.from_display_name,
            recipients=tuple(admitted.values()),
            content=request.content,
            smtputf8=True,
            origin=Origin(Source.GRPC, "gRPC", None, peer),
            stream=stream,
            provider=request.smtp_provider,
            pool=request.pool,
            tags=_tags(request.tags),
            properties=_properties(request.properties),
            reference=_reference(request.reference),
            dropped=tuple([Dropped(address, refused[text].message) for text, address in dropped.items()]),
        )
        return Draft(submission, wanted, list(admitted), list(dropped), refused, request.validate_only)

    def _line(self, caller_tenant: str, named_tenant: str) -> tuple[Tenant, ...]:
        if caller_tenant and named_tenant and caller_tenant != named_tenant:
            raise Refusal(Reason.PERMISSION_DENIED, "the API key belongs to another tenant", field="tenant_id")
        tenant_id = caller_tenant or named_tenant
        if not tenant_id:
            raise Refusal(Reason.INVALID_ARGUMENT, "name the tenant to send for", field="tenant_id")
        return admission.sending_tenant(self._policy, tenant_id)

    def _sender(self, line: tuple[Tenant, ...], text: str) -> Address:
        if not text:
            return admission.default_sender_of(self._policy, line)
        address = _parse(text, "sender")
        admission.sender(self._policy, line, address)
        return address

    def _admit(
        self, line: tuple[Tenant, ...], wanted: list[str], stream: str, record_suppressed: bool
    ) -> tuple[dict[str, Address], dict[str, Refusal], dict[str, Address]]:
        """By the text of the request: recipients that get a copy, each mailbox once; why others do not; of those, the
        ones to be recorded."""
        admitted: dict[str, Address] = {}
        refused: dict[str, Refusal] = {}
        dropped: dict[str, Address] = {}
        seen: set[str] = set()
        for text in wanted:
            try:
                address = _parse(text, "recipients")
                if address.mailbox in seen:
                    continue
                if address.is_literal:
                    raise Refusal(
                        Reason.INVALID_ARGUMENT, "mail to address literals is not accepted", field="recipients"
                    )
                admission.recipient(self._policy, line, address, stream)
            except Refusal as refusal:
                refused[text] = refusal
                if record_suppressed and refusal.reason is Reason.RECIPIENT_SUPPRESSED:
                    seen.add(address.mailbox)
                    dropped[text] = address
                continue
            seen.add(address.mailbox)
            admitted[text] = address
        return admitted, refused, dropped


@lru_cache(maxsize=1024)
def peer_address(text: str | None) -> str | None:
    """The IP address of whoever asked the bridge; None if it is none."""
    try:
        return str(ipaddress.ip_address(text)) if text is not None else None
    except ValueError:
        return None


def _check_whole(wanted: Sequence[str], refused: dict[str, Refusal]) -> None:
    """Raises Refusal if the first recipient is refused, or one for anything but a suppression."""
    for text in wanted:
        refusal = refused.get(text)
        if refusal is not None and (text == wanted[0] or refusal.reason is not Reason.RECIPIENT_SUPPRESSED):
            raise refusal


def _parse(text: str, field: str) -> Address:
    try:
        return parse_path(text)
    except AddressError as error:
        raise Refusal(Reason.INVALID_ARGUMENT, f"{text!r} is not an address: {error}", field=field) from error


def _stream(text: str) -> str:
    try:
        return stream_name(text)
    except ValueError as error:
        raise Refusal(Reason.INVALID_ARGUMENT, str(error), field="stream") from error


def _tags(given: Sequence[str]) -> tuple[str, ...]:
    if not given:
        return ()
    tags = tuple(dict.fromkeys(given))
    if len(tags) > MAX_TAGS or not all(1 <= len(tag) <= MAX_TAG and tag.isprintable() for tag in tags):
        text = f"give at most {MAX_TAGS} tags, each of 1 to {MAX_TAG} printable characters"
        raise Refusal(Reason.INVALID_ARGUMENT, text, field="tags")
    return tags


def _properties(text: str) -> str:
    """The text of a JSON object that every JSON parser takes, PostgreSQL's too."""
    if not text:
        return ""
    if len(text.encode()) > MAX_PROPERTIES:
        raise Refusal(
            Reason.INVALID_ARGUMENT, f"properties must have at most {MAX_PROPERTIES} octets", field="properties"
        )
    try:
        value = msgspec.json.decode(text)  # refuses infinities and half characters
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, dict) or ("\\u0000" in text and _NUL.search(text)):
        raise Refusal(Reason.INVALID_ARGUMENT, "properties must be a JSON object, without NUL", field="properties")
    if text.count("{") + text.count("[") > MAX_DEPTH and _is_deep(value):
        why = f"properties must have at most {MAX_DEPTH} objects and arrays within each other"
        raise Refusal(Reason.INVALID_ARGUMENT, why, field="properties")
    return text


def _is_deep(value: dict[str, Any]) -> bool:
    """Whether it goes deeper than ``MAX_DEPTH``."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for several in inner for one in several if isinstance(one, dict | list)]
    return bool(level)


def _reference(octets: bytes) -> bytes:
    if len(octets) not in (0, REFERENCE_OCTETS):
        raise Refusal(Reason.INVALID_ARGUMENT, f"reference must have {REFERENCE_OCTETS} octets", field="reference")
    return octets
