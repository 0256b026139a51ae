"""The gate on a real server: streams of callers that lose their rights, and what is told of open methods."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from structlog.testing import capture_logs

from barua.control.v1 import oauth_service_pb2
from barua.control.v1.oauth_service_pb2_grpc import (
    OAuthServiceServicer,
    OAuthServiceStub,
    add_OAuthServiceServicer_to_server,
)
from barua.policy.v1 import policy_service_pb2 as policy_pb
from barua.policy.v1.policy_service_pb2_grpc import (
    PolicyServiceServicer,
    PolicyServiceStub,
    add_PolicyServiceServicer_to_server,
)

from control import gate
from control.authentication import Authenticator, peer
from control.gate import Gate
from control.model.caller import Caller, Role
from control.peers import Peer, Peers
from mta.runtime import rpc
from mta.runtime.options import ControlOptions
from mta.runtime.refusals import Reason, Refusal


class Judge:
    """Lets everybody in until it is told not to."""

    def __init__(self) -> None:
        self.role = Role.NODE
        self.closed = False
        self.asked = 0

    async def authenticate(self, authorization: str | None, where: Peer) -> Caller:
        """As ``Authenticator`` does."""
        self.asked += 1
        if self.closed:
            raise Refusal(Reason.UNAUTHENTICATED, "no longer")
        return Caller(self.role, "operator", name="somebody")


class Policies(PolicyServiceServicer):
    """Streams a step every 20 ms."""

    async def WatchPolicy(self, request: Any, context: Any) -> AsyncIterator[policy_pb.WatchPolicyResponse]:
        """For ever."""
        while True:
            yield policy_pb.WatchPolicyResponse(progress=policy_pb.Progress(revision=1))
            await asyncio.sleep(0.02)


class Tokens(OAuthServiceServicer):
    """Answers with where the call comes from."""

    async def IssueToken(self, request: Any, context: Any) -> oauth_service_pb2.IssueTokenResponse:
        """Open to all."""
        return oauth_service_pb2.IssueTokenResponse(access_token=peer().address or "nowhere")


@asynccontextmanager
async def served(folder: Path, judge: Judge) -> AsyncIterator[grpc.aio.Channel]:
    """A server with a gate, and a channel to it."""
    server = rpc.new_server([Gate(cast(Authenticator, judge), Peers(ControlOptions()))])
    add_PolicyServiceServicer_to_server(Policies(), server)  # type: ignore[abstract]
    add_OAuthServiceServicer_to_server(Tokens(), server)  # type: ignore[abstract]
    server.add_insecure_port(f"unix:{folder / 'gate.sock'}")
    await server.start()
    channel = rpc.channel(f"unix:{folder / 'gate.sock'}")
    try:
        yield channel
    finally:
        await channel.close()
        await server.stop(None)


@pytest.mark.parametrize("change", ["credentials", "role"])
async def test_a_stream_ends_soon_after_its_callers_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(gate, "RECHECK_SECONDS", 0.1)
    judge = Judge()
    async with served(tmp_path, judge) as channel:
        stream = PolicyServiceStub(channel).WatchPolicy(policy_pb.WatchPolicyRequest(node="n"))
        started = time.monotonic()
        while judge.asked < 3:
            await stream.read()
        assert time.monotonic() - started > 2 * gate.RECHECK_SECONDS
        judge.closed, judge.role = change == "credentials", Role.READ_ONLY
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async with asyncio.timeout(60):
                while await stream.read() is not grpc.aio.EOF:
                    pass
        expected = Reason.UNAUTHENTICATED if change == "credentials" else Reason.PERMISSION_DENIED
        assert rpc.refusal_of(ended.value).reason is expected


async def test_an_open_method_asks_nobody_and_knows_the_peer(tmp_path: Path) -> None:
    judge = Judge()
    judge.closed = True
    async with served(tmp_path, judge) as channel:
        request = oauth_service_pb2.IssueTokenRequest(client_id="abc", client_secret="hidden")
        with capture_logs() as lines:
            answer = await OAuthServiceStub(channel).IssueToken(request, metadata=(("x-barua-peer", "192.0.2.1"),))
        assert answer.access_token == "192.0.2.1"
        assert judge.asked == 0
        assert [(line["event"], line["peer"], line["caller"]) for line in lines] == [("call_handled", "192.0.2.1", "")]
        assert "hidden" not in str(lines)
