"""ResubscriptionService: asking people who unsubscribed whether they want mail again."""

import hashlib
from typing import Any

import grpc

from barua.control.v1 import resubscription_service_pb2 as proto
from barua.control.v1.resubscription_service_pb2_grpc import ResubscriptionServiceServicer

from control import questions
from control.authentication import caller
from control.database import Connection, Database
from control.model import addresses, fields, names
from control.model.caller import acting_for_platform
from control.services.mailer import MtaMailer
from control.services.mutation import Mutations
from control.store import resubscriptions, tenants
from mta.runtime import links
from mta.runtime.keyring import KeyFile
from mta.runtime.links import Link, Purpose
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]

PATH = "/t/r/"
"""Where the bridge takes the tokens, below ``bridge.public_url``."""
DEFAULT_LANGUAGE = "en"


class ResubscriptionServicer(ResubscriptionServiceServicer):
    """See the proto. ``public_url`` is where recipients reach the bridge; empty: there is no such place."""

    def __init__(
        self, database: Database, mutations: Mutations, mailer: MtaMailer, keys: KeyFile, public_url: str
    ) -> None:
        self._database = database
        self._mutations = mutations
        self._mailer = mailer
        self._keys = keys
        self._public_url = public_url.rstrip("/")

    async def RequestResubscription(
        self, request: proto.RequestResubscriptionRequest, context: _Context
    ) -> proto.RequestResubscriptionResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        address = addresses.canonical_address(request.address, "address")
        sender = addresses.canonical_address(request.sender, "sender")
        language = _language(request.language_code)
        earlier = await self._mutations.earlier(request, proto.RequestResubscriptionResponse)
        if earlier is not None:
            return earlier
        reference = _reference(me, tenant_id, request)

        async def begin(connection: Connection) -> None:
            await tenants.visible(connection, me, tenant_id, lock=True)
            if not self._public_url:
                raise Refusal(Reason.FAILED_PRECONDITION, "links in messages are not set up on this platform")
            await resubscriptions.begin(connection, tenant_id, address, reference, language)

        await self._database.transact(begin, keep=not request.validate_only, repeatable=True)
        if request.validate_only:
            return proto.RequestResubscriptionResponse()
        message_id = await self._ask(tenant_id, address, sender, language, reference)

        async def effect(connection: Connection) -> proto.RequestResubscriptionResponse:
            return proto.RequestResubscriptionResponse(message_id=message_id)

        return await self._mutations.run(request, proto.RequestResubscriptionResponse, effect)

    async def ConfirmResubscription(
        self, request: proto.ConfirmResubscriptionRequest, context: _Context
    ) -> proto.ConfirmResubscriptionResponse:
        """See the proto. No caller is known here: the token proves what it tells."""
        try:
            link = links.verify(self._keys.ring(), request.token, Purpose.RESUBSCRIBE)
        except links.InvalidToken:
            raise _invalid_token() from None
        with acting_for_platform():
            language = await self._database.transact(
                lambda connection: resubscriptions.confirm(connection, link.reference), repeatable=True
            )
        if language is None:
            raise _invalid_token()
        return proto.ConfirmResubscriptionResponse(language_code=language)

    async def _ask(self, tenant_id: str, address: str, sender: str, language: str, reference: bytes) -> int:
        """Have the question mailed; the message's id.

        One that the mail server is not known to have taken does not count; one whose asker went away before it could
        answer does: else nobody who hangs up had a limit.
        """
        token = links.sign(self._keys.ring(), Link(Purpose.RESUBSCRIBE, reference))
        message = questions.message(language, sender, address, f"{self._public_url}{PATH}{token}")
        try:
            key = f"resubscription-{reference.hex()}"
            return await self._mailer.send_for(tenant_id, sender, address, message, key)
        except Refusal:
            await self._database.transact(lambda connection: resubscriptions.failed(connection, reference))
            raise


def _language(code: str) -> str:
    language = code.lower() or DEFAULT_LANGUAGE
    if language not in questions.LANGUAGES:
        known = ", ".join(sorted(questions.LANGUAGES))
        raise fields.invalid("language_code", f"language_code must be one of {known}")
    return language


def _reference(me: str, tenant_id: str, request: proto.RequestResubscriptionRequest) -> bytes:
    """New, or the same for the same request: a repetition is the same question, and mailed once."""
    if not request.request_id:
        return links.new_reference()
    request_id = fields.identifier(request.request_id, "request_id")
    body = f"{me}\n{tenant_id}\n{request_id}\n{request.address}\n{request.sender}"
    return hashlib.sha256(body.encode()).digest()[: links.REFERENCE_OCTETS]


def _invalid_token() -> Refusal:
    return Refusal(Reason.NOT_FOUND, "the link is not valid, or no longer", field="token")
