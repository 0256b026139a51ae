"""Sends the platform's own messages through the MTA's InjectionService, as the operator.

They cost the operator's credits, as any message does. Errors: the Refusal of the MTA; UNAVAILABLE if it cannot be
reached within ``SEND_SECONDS``.
"""

import hashlib
from email.message import EmailMessage

import grpc

from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from control.model.caller import ROOT_TENANT
from mta.runtime import rpc
from mta.runtime.options import ClientTlsOptions

SEND_SECONDS = 15.0


class MtaMailer:
    """A ``control.confirmations.Mailer``. ``sender`` is the From address; empty: the operator's default sender."""

    def __init__(self, address: str, token: str, sender: str, tls: ClientTlsOptions) -> None:
        self._channel = rpc.channel(address, tls)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._sender = sender

    async def send(self, recipient: str, message: EmailMessage) -> None:
        """Hand a message over. Raises Refusal."""
        request = injection_service_pb2.SubmitMessageRequest(
            tenant_id=ROOT_TENANT,
            sender=self._sender,
            recipients=[recipient],
            content=message.as_bytes(),
        )
        stub = InjectionServiceStub(self._channel)
        try:
            await stub.SubmitMessage(request, metadata=self._metadata, timeout=SEND_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise rpc.refusal_of(error) from error

    async def send_for(self, tenant_id: str, sender: str, recipient: str, message: EmailMessage, key: str) -> int:
        """Hand over a tenant's message to somebody whom it suppressed, once for ``key``; its id. Raises Refusal."""
        request = injection_service_pb2.SubmitMessageRequest(
            tenant_id=tenant_id,
            sender=sender,
            recipients=[recipient],
            content=message.as_bytes(),
            despite_suppression=True,
        )
        call = injection_service_pb2.SubmitMessagesRequest(
            submissions=[injection_service_pb2.Submission(message=request)],
            idempotency_key=key,
            fingerprint=hashlib.sha256(key.encode()).digest(),
        )
        stub = InjectionServiceStub(self._channel)
        try:
            answer = await stub.SubmitMessages(call, metadata=self._metadata, timeout=SEND_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise rpc.refusal_of(error) from error
        (result,) = answer.results
        if result.status.code:
            raise rpc.refusal_in(result.status)
        return int(result.response.message_id)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close()
