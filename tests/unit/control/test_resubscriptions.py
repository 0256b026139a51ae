"""Questions whether somebody wants mail again: which of them count, and what makes two of them the same."""

import asyncio
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from barua.control.v1 import resubscription_service_pb2 as proto

from control.authentication import set_caller
from control.model.caller import Caller, Role
from control.services.resubscriptions import ResubscriptionServicer
from mta.runtime.keyring import KeyFile
from mta.runtime.refusals import Reason, Refusal

REQUEST_ID = "5f0c6d5e-6c0f-4a55-9d7c-0c1f6d1f7a10"


class _Statements:
    """A connection that notes what is asked, and finds a suppression and no earlier questions."""

    def __init__(self) -> None:
        self.uncounted: list[bytes] = []

    async def execute(self, statement: str, *values: Any) -> str:
        if "counts = false" in statement:
            self.uncounted.append(values[0])
        return ""


class _Database:
    """Does what is asked after the question was noted."""

    def __init__(self) -> None:
        self.statements = _Statements()

    async def transact(self, work: Callable[[Any], Awaitable[Any]], **chosen: Any) -> None:
        if not chosen:
            await work(self.statements)


class _Mutations:
    async def earlier(self, request: Any, answer_type: Any) -> None:
        return None

    async def run(self, request: Any, answer_type: Any, effect: Callable[[Any], Awaitable[Any]]) -> Any:
        return await effect(None)


class _Mailer:
    def __init__(self, outcome: BaseException | None = None) -> None:
        self.outcome = outcome
        self.keys: list[str] = []

    async def send_for(self, tenant_id: str, sender: str, recipient: str, message: EmailMessage, key: str) -> int:
        self.keys.append(key)
        if self.outcome is not None:
            raise self.outcome
        return 7


def servicer(tmp_path: Path, mailer: _Mailer) -> tuple[ResubscriptionServicer, _Database]:
    path = tmp_path / "tracking.key"
    path.touch(0o600)
    path.write_text("ab" * 32)
    database, mutations = _Database(), _Mutations()
    made: Any = ResubscriptionServicer
    return made(database, mutations, mailer, KeyFile(path), "https://mail.example.com"), database


async def ask(servicer: ResubscriptionServicer, parent: str = "tenants/me") -> proto.RequestResubscriptionResponse:
    set_caller(Caller(Role.RESELLER, "reseller"))
    request = proto.RequestResubscriptionRequest(
        parent=parent, address="ann@example.net", sender="me@acme.test", request_id=REQUEST_ID
    )
    context: Any = None
    return await servicer.RequestResubscription(request, context)


async def test_a_question_that_was_not_taken_does_not_count(tmp_path: Path) -> None:
    asked, database = servicer(tmp_path, _Mailer(Refusal(Reason.INSUFFICIENT_CREDITS, "no credits")))
    with pytest.raises(Refusal):
        await ask(asked)
    assert len(database.statements.uncounted) == 1


async def test_a_question_counts_when_its_asker_hangs_up(tmp_path: Path) -> None:
    asked, database = servicer(tmp_path, _Mailer(asyncio.CancelledError()))
    with pytest.raises(asyncio.CancelledError):
        await ask(asked)
    assert database.statements.uncounted == []


async def test_a_request_id_is_the_same_question_for_one_tenant_alone(tmp_path: Path) -> None:
    mailer = _Mailer()
    asked, _ = servicer(tmp_path, mailer)
    for parent in ("tenants/me", "tenants/reseller", "tenants/other"):
        assert (await ask(asked, parent)).message_id == 7
    assert mailer.keys[0] == mailer.keys[1] != mailer.keys[2]
