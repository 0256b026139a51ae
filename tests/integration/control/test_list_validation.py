"""Validation of addresses over gRPC, with a DNS that the test makes."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from barua.control.v1 import list_validation_service_pb2 as pb
from barua.control.v1.list_validation_pb2 import AddressValidation, ListValidation
from barua.control.v1.suppression_pb2 import SUPPRESSION_SCOPE_PLATFORM, Suppression

from control import maildomains
from control.database import Connection, Database
from control.store import listvalidations
from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, basic, new_id
from tests.integration.control.test_bounce_suppressions import BOUNCED, DELIVERED, Journal, consumed
from tests.integration.control.test_suppressions import create
from tests.support.dns import DnsServer, Failure

DELIVERABLE, RISKY, UNDELIVERABLE, UNKNOWN = 1, 2, 3, 4
ACME = "tenants/acme"


@pytest.fixture
async def acme(control: Control, dns_server: DnsServer) -> str:
    """A tenant, in a world of five domains."""
    dns_server.set("good.test", "MX", "20 b.good.test.", "10 a.good.test.")
    dns_server.set("plain.test", "A", "192.0.2.1")
    dns_server.set("null.test", "MX", "0 .")
    dns_server.set("empty.test", "TXT", '"no mail here"')
    dns_server.set("gmial.com", "MX", "10 mx.gmial.com.")
    dns_server.set("mailinator.com", "MX", "10 mx.mailinator.com.")
    dns_server.fail("broken.test", Failure.SERVFAIL)
    return await control.tenant("acme")


async def validated(control: Control, *addresses: str, stream: str = "") -> list[AddressValidation]:
    request = pb.ValidateAddressesRequest(parent=ACME, addresses=addresses, stream=stream)
    answer = await control.call(control.validations.ValidateAddresses, request, basic("acme"))
    return list(answer.results)


async def uploaded(control: Control, pieces: Iterable[pb.UploadListValidationRequest]) -> ListValidation:
    call = control.validations.UploadListValidation(iter(pieces), metadata=basic("acme"), timeout=60)
    answer: ListValidation
    try:
        answer = await call
    except Exception as error:
        raise rpc.refusal_of(error) from error  # type: ignore[arg-type]
    return answer


async def done(control: Control, name: str) -> ListValidation:
    async with asyncio.timeout(60):
        while True:
            found: ListValidation = await control.call(
                control.validations.GetListValidation, pb.GetListValidationRequest(name=name), basic("acme")
            )
            if found.state == ListValidation.STATE_DONE:
                return found
            await asyncio.sleep(0.05)


async def results(control: Control, name: str, size: int = 100, **wanted: Any) -> list[AddressValidation]:
    request = pb.ListAddressValidationsRequest(parent=name, page_size=size, **wanted)
    found: list[AddressValidation] = []
    while True:
        answer = await control.call(control.validations.ListAddressValidations, request, basic("acme"))
        found += answer.address_validations
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


@pytest.mark.each_postgres
async def test_addresses_are_validated_at_once(control: Control, acme: str, dns_server: DnsServer) -> None:
    found = await validated(
        control,
        "Ann@Good.test",
        "postmaster@good.test",
        "ann@plain.test",
        "ann@null.test",
        "ann@empty.test",
        "ann@gone.test",
        "ann@broken.test",
        "ann@mailinator.com",
        "ann@gmial.com",
        "no address",
        "ann@good.test",
    )
    verdicts = [entry.verdict for entry in found]
    assert verdicts == [
        DELIVERABLE, RISKY, RISKY, UNDELIVERABLE, UNDELIVERABLE, UNDELIVERABLE, UNKNOWN, RISKY, RISKY, UNDELIVERABLE,
        DELIVERABLE,
    ]  # fmt: skip
    assert found[0].canonical_address == "ann@good.test"
    assert list(found[0].mail_hosts) == ["a.good.test", "b.good.test"]
    assert found[8].suggestion == "ann@gmail.com"
    assert found[9].canonical_address == ""
    assert all(entry.explanation for entry in found)
    before = dns_server.queries.copy()
    await validated(control, "bob@good.test", "bob@gone.test")
    assert dns_server.queries == before


async def test_what_happened_before_counts(control: Control, acme: str, database: Database) -> None:
    journal = Journal(control, "acme")
    await journal.tell("dead@good.test", BOUNCED, "5.7.1", "policy")
    await journal.tell("alive@good.test", DELIVERED, "2.0.0", "ok")
    await journal.tell("hard@good.test", BOUNCED, "5.1.1", "no such user")
    await consumed(control, database)
    await create(control, "tenants/operator", "held@good.test", note="secret", reason=Suppression.REASON_COMPLAINT)
    await create(control, ACME, "nell@good.test", stream="news")
    dead, alive, hard, held, news = await validated(
        control, "dead@good.test", "alive@good.test", "hard@good.test", "held@good.test", "nell@good.test"
    )
    assert (dead.verdict, list(dead.findings)) == (RISKY, [AddressValidation.FINDING_SOFT_BOUNCED])
    assert (alive.verdict, alive.last_reply) == (DELIVERABLE, "250 2.0.0 ok")
    assert alive.HasField("last_outcome_time")
    assert list(hard.findings) == [AddressValidation.FINDING_SUPPRESSED, AddressValidation.FINDING_HARD_BOUNCED]
    assert (held.verdict, held.suppression_reason) == (UNDELIVERABLE, Suppression.REASON_COMPLAINT)
    assert held.suppression_scope == SUPPRESSION_SCOPE_PLATFORM
    assert "secret" not in str(held)
    assert news.verdict == DELIVERABLE
    (news,) = await validated(control, "nell@good.test", stream="news")
    assert news.verdict == UNDELIVERABLE


async def test_a_list_is_worked_through(control: Control, acme: str) -> None:
    request = pb.CreateListValidationRequest(
        parent=ACME,
        list_validation=ListValidation(display_name="spring", stream="News"),
        addresses=["a@good.test", "nobody", "b@plain.test", "c@good.test", "d\0@good.test"],
        request_id=new_id(),
    )
    made = await control.call(control.validations.CreateListValidation, request, basic("acme"))
    assert (made.display_name, made.stream, made.address_count) == ("spring", "news", 5)
    assert await control.call(control.validations.CreateListValidation, request, basic("acme")) == made
    found = await done(control, made.name)
    assert (found.checked_count, found.deliverable_count, found.risky_count, found.undeliverable_count) == (5, 2, 1, 2)
    assert found.HasField("finish_time")
    assert [entry.line for entry in await results(control, made.name, 2)] == [1, 2, 3, 4, 5]
    bad = await results(control, made.name, verdict=UNDELIVERABLE)
    assert [entry.line for entry in bad] == [2, 5]
    assert [entry.line for entry in await results(control, made.name, skip=3)] == [4, 5]
    assert [entry.line for entry in await results(control, made.name, verdict=UNDELIVERABLE, skip=1)] == [5]
    much = pb.ListAddressValidationsRequest(parent=made.name, skip=1_000_001)
    assert await control.refused(control.validations.ListAddressValidations, much) is Reason.INVALID_ARGUMENT
    cancel = pb.CancelListValidationRequest(name=made.name)
    assert await control.refused(control.validations.CancelListValidation, cancel) is Reason.FAILED_PRECONDITION
    listed = await control.call(control.validations.ListListValidations, pb.ListListValidationsRequest(parent=ACME))
    assert [entry.name for entry in listed.list_validations] == [made.name]
    delete = pb.DeleteListValidationRequest(name=made.name)
    await control.call(control.validations.DeleteListValidation, delete, basic("acme"))
    assert await control.refused(control.validations.DeleteListValidation, delete) is Reason.NOT_FOUND


async def test_a_long_list_is_uploaded_in_pieces(control: Control, acme: str) -> None:
    given = [f"user{number}@good.test" for number in range(1200)]
    pieces = [
        pb.UploadListValidationRequest(parent=ACME, list_validation=ListValidation(display_name="long")),
        pb.UploadListValidationRequest(addresses=given[:600]),
        pb.UploadListValidationRequest(addresses=given[600:]),
    ]
    made = await uploaded(control, pieces)
    assert made.address_count == 1200
    assert (await done(control, made.name)).deliverable_count == 1200
    found = await results(control, made.name, 1000)
    assert [entry.address for entry in found] == given


async def test_an_upload_that_cannot_be_leaves_nothing(control: Control, acme: str) -> None:
    request = pb.UploadListValidationRequest
    for reason, pieces in (
        (Reason.INVALID_ARGUMENT, []),
        (Reason.INVALID_ARGUMENT, [request(parent=ACME)]),
        (Reason.INVALID_ARGUMENT, [request(parent=ACME, addresses=["a"]), request(parent=ACME)]),
        (Reason.INVALID_ARGUMENT, [request(parent=ACME, addresses=["a"] * 10_001)]),
        (Reason.INVALID_ARGUMENT, [request(parent=ACME, list_validation=ListValidation(stream="a b"))]),
        (Reason.NOT_FOUND, [request(parent="tenants/operator", addresses=["a"])]),
    ):
        with pytest.raises(Refusal) as refused:
            await uploaded(control, pieces)
        assert refused.value.reason is reason
    listed = await control.call(control.validations.ListListValidations, pb.ListListValidationsRequest(parent=ACME))
    assert list(listed.list_validations) == []


async def test_open_lists_are_limited_and_old_ones_removed(control: Control, acme: str, database: Database) -> None:
    async def made(connection: Connection, id_: str) -> None:
        await listvalidations.create(connection, "acme", id_, "", "", "")

    for number in range(10):
        await database.transact(partial(made, id_=f"{number:04}"))
    request = pb.CreateListValidationRequest(parent=ACME, addresses=["a@good.test"])
    assert await control.refused(control.validations.CreateListValidation, request) is Reason.RATE_LIMITED
    name = f"{ACME}/listValidations/0000"
    cancelled = await control.call(control.validations.CancelListValidation, pb.CancelListValidationRequest(name=name))
    assert cancelled.state == ListValidation.STATE_CANCELLED
    await control.call(control.validations.CreateListValidation, request)
    age = "UPDATE list_validation SET finished_at = now() - interval '40 days' WHERE validation_id = '0000'"
    await database.transact(lambda c: c.execute(age))
    await database.transact(lambda c: listvalidations.remove_old(c, 30))
    get = pb.GetListValidationRequest(name=name)
    assert await control.refused(control.validations.GetListValidation, get) is Reason.NOT_FOUND


async def test_one_tenant_cannot_take_all_look_ups(control: Control, acme: str, dns_server: DnsServer) -> None:
    dns_server.fail("silent.test", Failure.DROP)
    slow = [asyncio.ensure_future(validated(control, "a@silent.test")) for _ in range(9)]
    ended, _ = await asyncio.wait(slow, return_when=asyncio.FIRST_COMPLETED)
    refusals = [call.exception() for call in ended]
    assert [isinstance(one, Refusal) and one.reason for one in refusals] == [Reason.RATE_LIMITED]
    request = pb.ValidateAddressesRequest(parent=ACME, addresses=["a@good.test"])
    try:
        assert await control.refused(control.validations.ValidateAddresses, request, basic("acme")) is (
            Reason.RATE_LIMITED
        )
        answer = await control.call(control.validations.ValidateAddresses, request)  # others have their turn
        assert answer.results[0].verdict == DELIVERABLE
    finally:
        await asyncio.gather(*slow, return_exceptions=True)
    assert (await validated(control, "a@good.test"))[0].verdict == DELIVERABLE


async def test_look_ups_do_not_pile_up(monkeypatch: pytest.MonkeyPatch, dns_server: DnsServer) -> None:
    monkeypatch.setattr(maildomains, "MAX_WAITING", 3)
    for name in "abc":
        dns_server.fail(f"{name}.silent.test", Failure.DROP)
    domains = maildomains.MailDomains([f"127.0.0.1:{dns_server.port}"], 60.0)
    waiting = [asyncio.ensure_future(domains.facts(f"{name}.silent.test")) for name in "abc"]
    await asyncio.sleep(0.1)
    assert await asyncio.wait_for(domains.facts("d.silent.test"), 10) is maildomains.NO_ANSWER
    await domains.close()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_bad_requests_are_named(control: Control, acme: str) -> None:
    many = pb.ValidateAddressesRequest(parent=ACME, addresses=["a@x.test"] * 1001)
    assert await control.refused(control.validations.ValidateAddresses, many) is Reason.INVALID_ARGUMENT
    none = pb.ValidateAddressesRequest(parent=ACME)
    assert await control.refused(control.validations.ValidateAddresses, none) is Reason.INVALID_ARGUMENT
    odd = pb.ListAddressValidationsRequest(parent=f"{ACME}/listValidations/1", verdict=9)  # type: ignore[arg-type]
    assert await control.refused(control.validations.ListAddressValidations, odd) is Reason.INVALID_ARGUMENT
