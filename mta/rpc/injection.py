"""InjectionService: a message over gRPC, under the rules of SMTP submission."""

import asyncio
import ipaddress
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2

from barua.mta.v1 import injection_service_pb2 as pb
from barua.mta.v1 import injection_service_pb2_grpc as services

from mta.custody import admission
from mta.custody.intake import Intake
from mta.custody.submission import Accepted, Origin, Source, Submission
from mta.message.address import Address, AddressError, parse_path
from mta.policy.lookup import Policy
from mta.policy.records import Tenant
from mta.rpc.authentication import CallerAuthentication
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.rpc import status_of
from mta.runtime.streams import stream_name

Context = grpc.aio.ServicerContext[Any, Any]

PEER_KEY = "x-barua-peer"
"""Metadata with the IP address of whoever asked the bridge, for the Received field."""


class InjectionService(services.InjectionServiceServicer):
    """Serves ``barua.mta.v1.InjectionService``."""

    def __init__(
        self, intake: Intake, policy: Policy, authentication: CallerAuthentication, max_recipients: int
    ) -> None:
        self._intake = intake
        self._policy = policy
        self._authentication = authentication
        self._max_recipients = max_recipients

    def add_to(self, server: grpc.aio.Server) -> str:
        """Serve on ``server``; the service's full name, for reflection."""
        services.add_InjectionServiceServicer_to_server(self, server)
        return pb.DESCRIPTOR.services_by_name["InjectionService"].full_name

    async def SubmitMessage(self, request: pb.SubmitMessageRequest, context: Context) -> pb.SubmitMessageResponse:
        """Accept one message; see the proto."""
        caller = self._authentication.caller(context)
        line = self._line(caller.tenant_id, request.tenant_id)
        sender = self._sender(line, request.sender)
        stream = _stream(request.stream)
        wanted = list(dict.fromkeys(request.recipients))
        if not 1 <= len(wanted) <= self._max_recipients:
            text = f"give 1 to {self._max_recipients} recipients; there are {len(wanted)}"
            raise Refusal(Reason.INVALID_ARGUMENT, text, field="recipients")
        admitted, refused = self._admit(line, wanted, stream)
        if not admitted:
            raise refused[wanted[0]]
        if not request.content:
            raise Refusal(Reason.INVALID_ARGUMENT, "content is empty; it must be the message", field="content")
        submission = Submission(
            line=line,
            sender=sender,
            sender_name=request.from_display_name,
            recipients=tuple(admitted.values()),
            content=request.content,
            smtputf8=True,
            origin=Origin(Source.GRPC, "gRPC", None, _peer(context)),
            stream=stream,
            provider=request.smtp_provider,
        )
        if request.validate_only:
            self._intake.check(submission)
            return _response(wanted, admitted, refused, None)
        return _response(wanted, admitted, refused, await self._submit(submission))

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
        self, line: tuple[Tenant, ...], wanted: list[str], stream: str
    ) -> tuple[dict[str, Address], dict[str, Refusal]]:
        """Recipients that get a copy, by the text of the request, each mailbox once; and why others do not."""
        admitted: dict[str, Address] = {}
        refused: dict[str, Refusal] = {}
        seen: set[str] = set()
        for text in wanted:
            try:
                address = _parse(text, "recipients")
                if address.is_literal:
                    raise Refusal(
                        Reason.INVALID_ARGUMENT, "mail to address literals is not accepted", field="recipients"
                    )
                admission.recipient(self._policy, line, address, stream)
            except Refusal as refusal:
                refused[text] = refusal
                continue
            if address.mailbox not in seen:
                seen.add(address.mailbox)
                admitted[text] = address
        return admitted, refused

    async def _submit(self, submission: Submission) -> Accepted:
        """The intake's answer. The caller's going away does not undo what is already being stored."""
        answer: asyncio.Future[Accepted | Refusal] = asyncio.get_running_loop().create_future()

        def on_answer(result: Accepted | Refusal) -> None:
            if not answer.done():
                answer.set_result(result)

        self._intake.submit(submission, on_answer)
        result = await answer
        if isinstance(result, Refusal):
            raise result
        return result


def _response(
    wanted: list[str], admitted: dict[str, Address], refused: dict[str, Refusal], accepted: Accepted | None
) -> pb.SubmitMessageResponse:
    ids = dict(zip(admitted, accepted.recipient_ids, strict=True)) if accepted is not None else {}
    ok = status_pb2.Status(code=code_pb2.OK)
    results = []
    for text in wanted:
        if text in admitted:
            results.append(pb.RecipientResult(recipient=text, recipient_id=ids.get(text, 0), status=ok))
        elif text in refused:
            results.append(pb.RecipientResult(recipient=text, status=status_of(refused[text])))
    return pb.SubmitMessageResponse(
        message_id=accepted.receipt.message_id if accepted is not None else 0,
        results=results,
        message_id_header=accepted.message_id_header if accepted is not None else "",
    )


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


def _peer(context: Context) -> str | None:
    value = dict(context.invocation_metadata() or ()).get(PEER_KEY, "")
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        return None
