"""A worker's gRPC services over a real socket, for tests."""

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from barua.mta.v1 import injection_service_pb2 as pb
from barua.mta.v1 import injection_service_pb2_grpc as services
from barua.mta.v1 import worker_service_pb2_grpc as worker_services

from mta.custody.answers import Answers
from mta.policy.records import ApiKey
from mta.policy.uses import Uses
from mta.rpc.authentication import CallerAuthentication
from mta.rpc.drafts import Drafts
from mta.rpc.injection import InjectionService
from mta.rpc.worker import WorkerService
from mta.runtime.refusals import Refusal
from mta.runtime.rpc import new_server, refusal_in, refusal_of
from mta.runtime.tokens import TokenKey
from tests.unit.custody.parts import MESSAGE, Parts, open_parts
from tests.unit.node.peers import channel_to

Result = pb.SubmitMessageResponse | Refusal
SECRET = base64.b32encode(bytes(20)).decode().lower()
KEY = (("authorization", f"Bearer bk_abcdefabcdef_{SECRET}"),)
TOKEN_KEY = TokenKey(bytes(32))
OPERATOR = (("authorization", "Bearer operator-token"),)


@dataclass
class Worker:
    """A worker's services and what is behind them."""

    parts: Parts
    injection: "services.InjectionServiceAsyncStub"
    worker: "worker_services.WorkerServiceAsyncStub"

    async def submit_all(self, *submissions: pb.Submission, metadata: Any = KEY, **fields: Any) -> list[Result]:
        """Submit messages with one call; what became of each."""
        request = pb.SubmitMessagesRequest(submissions=submissions, **fields)
        answer = await self.injection.SubmitMessages(request, metadata=metadata, timeout=60)
        return [refusal_in(one.status) if one.status.code else one.response for one in answer.results]

    async def submit(self, *recipients: str, metadata: Any = KEY, **fields: Any) -> pb.SubmitMessageResponse:
        """Submit a message."""
        values = {
            "sender": "news@acme.test",
            "content": MESSAGE,
            "recipients": recipients or ["x@example.net"],
        } | fields
        return await self.injection.SubmitMessage(pb.SubmitMessageRequest(**values), metadata=metadata, timeout=60)

    async def refused(self, *recipients: str, metadata: Any = KEY, **fields: Any) -> Refusal:
        """Submit a message that has to be refused."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.submit(*recipients, metadata=metadata, **fields)
        return refusal_of(caught.value)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Worker]:
    """A worker, serving, on a spool of its own."""
    async with open_parts(folder) as parts:
        digest = hashlib.sha256(SECRET.encode()).digest()
        parts.change_policy(
            ApiKey("abcdefabcdef", "acme", digest, ("mail",)), ApiKey("readerreader", "acme", digest, ("read",))
        )
        server = new_server()
        uses = Uses()
        authentication = CallerAuthentication(parts.policy, "operator-token", uses, TOKEN_KEY)
        answers = Answers(parts.store)
        injection = InjectionService(parts.intake, Drafts(parts.policy, 100), authentication, answers)
        injection.add_to(server)
        WorkerService(parts.credits, parts.store, uses).add_to(server)
        server.add_insecure_port(f"unix:{folder / 'worker.sock'}")
        await server.start()
        async with channel_to(folder / "worker.sock") as channel:
            yield Worker(parts, services.InjectionServiceStub(channel), worker_services.WorkerServiceStub(channel))
        await server.stop(None)
        await injection.close()
        await answers.close()
