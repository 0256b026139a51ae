"""Suppressions over gRPC: scopes, streams, expiry, lists, batches, imports, exports and checks."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import credential_service_pb2, suppression_pb2, suppression_service_pb2
from barua.control.v1.suppression_pb2 import Suppression

from control import gate
from control.database import Database
from control.store import policy_log, suppressions
from mta.runtime import rpc
from mta.runtime.refusals import Reason, Refusal
from tests.integration.control.harness import Control, Metadata, basic, new_id
from tests.integration.control.test_policy_stream import head_of, keys, watching

HARD, UNSUBSCRIBE = Suppression.REASON_HARD_BOUNCE, Suppression.REASON_UNSUBSCRIBE


def stamp(moment: datetime) -> Timestamp:
    proto = Timestamp()
    proto.FromDatetime(moment)
    return proto


def soon(seconds: float) -> Timestamp:
    return stamp(datetime.now(UTC) + timedelta(seconds=seconds))


async def create(
    control: Control, parent: str, address: str, metadata: Metadata | None = None, **values: Any
) -> Suppression:
    request = suppression_service_pb2.CreateSuppressionRequest(
        parent=parent, address=address, suppression=Suppression(**values)
    )
    made: Suppression = await control.call(control.suppressions.CreateSuppression, request, metadata)
    return made


async def listed(control: Control, parent: str, order_by: str = "", size: int = 2, **filter_: Any) -> list[str]:
    """The ids of a list, read page by page."""
    found: list[str] = []
    request = suppression_service_pb2.ListSuppressionsRequest(
        parent=parent,
        page_size=size,
        order_by=order_by,
        filter=suppression_service_pb2.SuppressionFilter(**filter_),
    )
    while True:
        answer = await control.call(control.suppressions.ListSuppressions, request)
        found += [entry.name.partition("/suppressions/")[2] for entry in answer.suppressions]
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


async def check(
    control: Control, parent: str, addresses: Iterable[str], stream: str = "", metadata: Metadata | None = None
) -> list[suppression_service_pb2.SuppressionCheck]:
    request = suppression_service_pb2.CheckSuppressionsRequest(parent=parent, addresses=addresses, stream=stream)
    answer = await control.call(control.suppressions.CheckSuppressions, request, metadata)
    return list(answer.results)


async def imported(
    control: Control, pieces: Iterable[suppression_service_pb2.ImportSuppressionsRequest], metadata: Any = None
) -> suppression_service_pb2.ImportSuppressionsResponse:
    call = control.suppressions.ImportSuppressions(iter(pieces), metadata=metadata or control.operator, timeout=60)
    answer: suppression_service_pb2.ImportSuppressionsResponse
    try:
        answer = await call
    except Exception as error:
        raise rpc.refusal_of(error) from error  # type: ignore[arg-type]
    return answer


@pytest.mark.each_postgres
async def test_everything_about_one_is_kept(control: Control) -> None:
    tenant = await control.tenant("tenant")
    ends = soon(3600)
    made = await create(
        control,
        tenant,
        "Ann@Example.NET",
        basic("tenant"),
        stream="News",
        reason=HARD,
        note="gone",
        evidence="550 5.1.1\r\n no such user",
        source_message_id=77,
        expire_time=ends,
    )
    assert made.name == f"{tenant}/suppressions/news:ann@example.net"
    assert (made.address, made.stream, made.reason, made.note) == ("ann@example.net", "news", HARD, "gone")
    assert (made.evidence, made.source_message_id) == ("550 5.1.1 no such user", 77)
    assert made.expire_time == ends
    assert "tenant" in made.created_by
    assert made.etag == "1"
    assert made.uid > 0
    get = suppression_service_pb2.GetSuppressionRequest(name=f"{tenant}/suppressions/NEWS:Ann@Example.NET")
    # A stream in a name is written as it is kept.
    assert await control.refused(control.suppressions.GetSuppression, get) is Reason.INVALID_ARGUMENT
    get.name = made.name
    assert await control.call(control.suppressions.GetSuppression, get) == made
    get.name = f"{tenant}/suppressions/ann@example.net"
    assert await control.refused(control.suppressions.GetSuppression, get) is Reason.NOT_FOUND
    again = await create(control, tenant, "ann@example.net", stream="news")
    assert (again.uid, again.etag, again.reason) == (made.uid, "2", Suppression.REASON_MANUAL)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("suppression.stream", {"stream": "no spaces"}),
        ("suppression.stream", {"stream": "x" * 64}),
        ("suppression.reason", {"reason": 99}),
        ("suppression.note", {"note": "x" * 501}),
        ("suppression.note", {"note": "a\nb"}),
        ("suppression.evidence", {"evidence": "x" * 1001}),
        ("suppression.source_message_id", {"source_message_id": -1}),
        ("suppression.expire_time", {"expire_time": Timestamp(seconds=1)}),
        ("suppression.expire_time", {"expire_time": Timestamp(seconds=2**40)}),
    ],
)
async def test_a_bad_field_is_named(control: Control, field: str, values: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        await create(control, "tenants/operator", "a@x.test", **values)
    assert (refused.value.reason, refused.value.field) == (Reason.INVALID_ARGUMENT, field)


async def test_an_update_changes_what_the_mask_names(control: Control) -> None:
    made = await create(control, "tenants/operator", "a@x.test", note="old", evidence="e", expire_time=soon(99))
    request = suppression_service_pb2.UpdateSuppressionRequest(
        suppression=Suppression(name=made.name, note="new", etag=made.etag)
    )
    changed = await control.call(control.suppressions.UpdateSuppression, request)
    assert (changed.note, changed.evidence, changed.expire_time) == ("new", "e", made.expire_time)
    assert await control.refused(control.suppressions.UpdateSuppression, request) is Reason.STALE_ETAG
    request.suppression.etag = ""
    request.update_mask.CopyFrom(FieldMask(paths=["expire_time", "reason"]))
    changed = await control.call(control.suppressions.UpdateSuppression, request)
    assert not changed.HasField("expire_time")
    request.update_mask.CopyFrom(FieldMask(paths=["address"]))
    assert await control.refused(control.suppressions.UpdateSuppression, request) is Reason.INVALID_ARGUMENT
    request.update_mask.CopyFrom(FieldMask(paths=["*"]))
    request.suppression.name = "tenants/operator/suppressions/b@x.test"
    assert await control.refused(control.suppressions.UpdateSuppression, request) is Reason.NOT_FOUND


async def test_one_whose_time_is_over_is_gone_and_then_removed(control: Control, database: Database) -> None:
    made = await create(control, "tenants/operator", "a@x.test", expire_time=soon(3600))
    assert [result.suppressed for result in await check(control, "tenants/operator", ["a@x.test"])] == [True]
    async with watching(control) as replica:
        await replica.until(await head_of(database))
        (record,) = [change for key, change in replica.records.items() if key[0] == "suppression"]
        assert record.suppression.expire_time == made.expire_time
        await database.transact(lambda c: c.execute("UPDATE suppression SET expires_at = now()"))
        assert [result.suppressed for result in await check(control, "tenants/operator", ["a@x.test"])] == [False]
        get = suppression_service_pb2.GetSuppressionRequest(name=made.name)
        assert await control.refused(control.suppressions.GetSuppression, get) is Reason.NOT_FOUND
        assert await listed(control, "tenants/operator") == []
        await database.transact(lambda c: suppressions.remove_expired(c, 10))  # or housekeeping was here before
        await replica.until(await head_of(database))
        assert keys(replica, "suppression") == set()


async def test_lists_are_filtered_and_come_in_two_orders(control: Control) -> None:
    tenant = await control.tenant("tenant")
    for address, stream, reason in (
        ("c@b.test", "", 1),
        ("a@b.test", "news", 2),
        ("a@b.test", "", 3),
        ('"x y"@a.test', "", 4),
        ("ab@a.test", "news", 5),
    ):
        await create(control, tenant, address, stream=stream, reason=reason)
    everything = ['"x y"@a.test', "a@b.test", "news:a@b.test", "news:ab@a.test", "c@b.test"]
    assert await listed(control, tenant) == everything
    newest = ["news:ab@a.test", '"x y"@a.test', "a@b.test", "news:a@b.test", "c@b.test"]
    assert await listed(control, tenant, "create_time desc") == newest
    assert await listed(control, tenant, stream="news") == ["news:a@b.test", "news:ab@a.test"]
    assert await listed(control, tenant, stream="") == ['"x y"@a.test', "a@b.test", "c@b.test"]
    assert await listed(control, tenant, reasons=[1, 3]) == ["a@b.test", "c@b.test"]
    assert await listed(control, tenant, address_prefix="A") == ["a@b.test", "news:a@b.test", "news:ab@a.test"]
    assert await listed(control, tenant, address_prefix="ab") == ["news:ab@a.test"]
    assert await listed(control, tenant, domain="B.test") == ["a@b.test", "news:a@b.test", "c@b.test"]
    assert await listed(control, tenant, start_time=soon(60)) == []
    assert await listed(control, tenant, end_time=soon(60)) == everything
    request = suppression_service_pb2.ListSuppressionsRequest(parent=tenant, page_size=1)
    token = (await control.call(control.suppressions.ListSuppressions, request)).next_page_token
    request.page_token = token
    request.filter.domain = "a.test"
    assert await control.refused(control.suppressions.ListSuppressions, request) is Reason.INVALID_ARGUMENT
    request.page_token, request.order_by = "", "colour"
    assert await control.refused(control.suppressions.ListSuppressions, request) is Reason.INVALID_ARGUMENT


async def test_a_check_tells_scopes_without_what_others_know(control: Control) -> None:
    reseller = await control.tenant("reseller")
    account = await control.tenant("account", "reseller")
    await create(control, "tenants/operator", "a@x.test", note="secret", reason=4)
    await create(control, reseller, "a@x.test", note="ours", reason=2)
    await create(control, account, "b@x.test", stream="news", reason=3)
    await create(control, reseller, "b@x.test")

    def told(result: suppression_service_pb2.SuppressionCheck) -> list[tuple[int, int, str, str]]:
        return [(m.scope, m.reason, m.stream, m.suppression.note) for m in result.matches]

    wanted = ["A@x.test", "b@x.test", "c@x.test", "no address"]
    a, b, c, bad = await check(control, account, wanted, "", basic("account"))
    assert told(a) == [(2, 2, "", ""), (3, 4, "", "")]
    assert told(b) == [(2, 1, "", "")]
    assert not c.suppressed
    assert bad.invalid_reason
    assert (a.canonical_address, bad.canonical_address) == ("a@x.test", "")
    (news,) = await check(control, account, ["b@x.test"], "news", basic("account"))
    assert told(news) == [(1, 3, "news", ""), (2, 1, "", "")]
    assert news.matches[0].suppression.name == f"{account}/suppressions/news:b@x.test"
    (seen,) = await check(control, account, ["a@x.test"], "", basic("reseller"))
    assert told(seen) == [(2, 2, "", "ours"), (3, 4, "", "")]
    (seen,) = await check(control, account, ["a@x.test"])
    assert told(seen) == [(2, 2, "", "ours"), (3, 4, "", "secret")]
    many = suppression_service_pb2.CheckSuppressionsRequest(parent=account, addresses=["a@x.test"] * 1001)
    assert await control.refused(control.suppressions.CheckSuppressions, many) is Reason.INVALID_ARGUMENT


async def test_a_batch_is_made_whole_or_not_at_all(control: Control) -> None:
    tenant = await control.tenant("tenant")
    request = suppression_service_pb2.BatchCreateSuppressionsRequest(
        parent=tenant,
        suppressions=[
            Suppression(address="b@x.test", note="first"),
            Suppression(address="a@x.test"),
            Suppression(address="B@x.test", note="second"),
        ],
        request_id=new_id(),
    )
    answer = await control.call(control.suppressions.BatchCreateSuppressions, request)
    assert [(entry.address, entry.note) for entry in answer.suppressions] == [("b@x.test", "second"), ("a@x.test", "")]
    assert await control.call(control.suppressions.BatchCreateSuppressions, request) == answer
    request.suppressions.extend([Suppression(address="c@x.test"), Suppression(address="nowhere")])
    request.request_id = new_id()
    with pytest.raises(Refusal) as refused:
        await control.call(control.suppressions.BatchCreateSuppressions, request)
    assert refused.value.field == "suppressions[4].address"
    assert await listed(control, tenant) == ["a@x.test", "b@x.test"]


async def test_an_import_counts_and_a_second_one_changes_nothing(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    await create(control, tenant, "user1@x.test", note="before")

    def pieces(**options: Any) -> Iterable[suppression_service_pb2.ImportSuppressionsRequest]:
        yield suppression_service_pb2.ImportSuppressionsRequest(parent=tenant, **options)
        long_ago = stamp(datetime(2020, 1, 1, tzinfo=UTC))
        for start in range(0, 3000, 1000):
            lines = [
                Suppression(address=f"User{number}@x.test", reason=UNSUBSCRIBE, create_time=long_ago)
                for number in range(start, start + 1000)
            ]
            yield suppression_service_pb2.ImportSuppressionsRequest(
                suppressions=[*lines, Suppression(address="nowhere"), lines[0]]
            )

    dry = await imported(control, pieces(validate_only=True), basic("tenant"))
    assert (dry.line_count, dry.created_count, dry.error_count) == (3006, 3000, 3)
    kept = await imported(control, pieces(keep_existing=True), basic("tenant"))
    assert (kept.created_count, kept.updated_count, kept.unchanged_count, kept.error_count) == (2999, 0, 4, 3)
    assert [(error.line, error.address) for error in kept.errors] == [(n, "nowhere") for n in (1001, 2003, 3005)]
    done = await imported(control, pieces(), basic("tenant"))
    assert (done.created_count, done.updated_count, done.unchanged_count) == (0, 1, 3002)
    before = await head_of(database)
    again = await imported(control, pieces(), basic("tenant"))
    assert (again.created_count, again.updated_count, again.unchanged_count) == (0, 0, 3003)
    assert await head_of(database) == before
    first = suppression_service_pb2.GetSuppressionRequest(name=f"{tenant}/suppressions/user2@x.test")
    assert (await control.call(control.suppressions.GetSuppression, first)).create_time.seconds == 1577836800
    highest = "SELECT max(number) - count(*) FROM suppression"
    assert await database.transact(lambda c: c.fetchval(highest)) == 0


async def test_an_import_that_cannot_be_is_refused(control: Control) -> None:
    tenant = await control.tenant("tenant")
    request = suppression_service_pb2.ImportSuppressionsRequest
    line = Suppression(address="a@x.test")
    for reason, pieces in (
        (Reason.INVALID_ARGUMENT, []),
        (Reason.INVALID_ARGUMENT, [request(suppressions=[line])]),
        (Reason.INVALID_ARGUMENT, [request(parent=tenant), request(parent=tenant)]),
        (Reason.INVALID_ARGUMENT, [request(parent=tenant, suppressions=[line] * 5001)]),
        (Reason.NOT_FOUND, [request(parent="tenants/operator", suppressions=[line])]),
    ):
        with pytest.raises(Refusal) as refused:
            await imported(control, pieces, basic("tenant"))
        assert refused.value.reason is reason
    assert await listed(control, tenant) == []
    assert await listed(control, "tenants/operator") == []


async def test_a_large_import_reaches_a_node_that_was_away(control: Control, database: Database) -> None:
    tenant = await control.tenant("tenant")
    count = 100_000

    def pieces() -> Iterable[suppression_service_pb2.ImportSuppressionsRequest]:
        yield suppression_service_pb2.ImportSuppressionsRequest(parent=tenant)
        for start in range(0, count, 5000):
            lines = [Suppression(address=f"user{number:06}@x.test") for number in range(start, start + 5000)]
            yield suppression_service_pb2.ImportSuppressionsRequest(suppressions=lines)

    done = await imported(control, pieces())
    assert (done.created_count, done.error_count) == (count, 0)
    head = await database.transact(policy_log.head)
    async with watching(control, head.revision - count, head.lineage) as replica:
        await replica.until(head.revision)
        assert len(keys(replica, "suppression")) == count


async def test_a_list_is_exported_whole_and_from_where_it_broke(control: Control) -> None:
    tenant = await control.tenant("tenant")
    lines = [Suppression(address=f"user{number:04}@x.test") for number in range(2500)]
    await imported(control, [suppression_service_pb2.ImportSuppressionsRequest(parent=tenant, suppressions=lines)])
    request = suppression_service_pb2.ExportSuppressionsRequest(parent=tenant)
    pages = [page async for page in exported(control, request)]
    found = [entry.address for page in pages for entry in page.suppressions]
    assert found == [line.address for line in lines]
    request.page_token = pages[-2].next_page_token
    rest = [entry.address async for page in exported(control, request) for entry in page.suppressions]
    assert rest == found[2000:]
    request = suppression_service_pb2.ExportSuppressionsRequest(parent=tenant)
    request.filter.address_prefix = "user000"
    (page,) = [page async for page in exported(control, request)]
    assert [entry.address for entry in page.suppressions] == found[:10]


async def exported(
    control: Control, request: suppression_service_pb2.ExportSuppressionsRequest
) -> AsyncIterator[suppression_service_pb2.ExportSuppressionsResponse]:
    stream = control.suppressions.ExportSuppressions(request, metadata=control.operator, timeout=60)
    async for page in stream:
        yield page


async def test_a_policy_is_inherited_and_changed(control: Control) -> None:
    reseller = await control.tenant("reseller")
    account = await control.tenant("account", "reseller")

    async def holds(tenant: str) -> suppression_pb2.SuppressionPolicy:
        request = suppression_service_pb2.GetSuppressionPolicyRequest(name=f"{tenant}/suppressionPolicy")
        answer = await control.call(control.suppressions.GetSuppressionPolicy, request, basic("account"))
        policy: suppression_pb2.SuppressionPolicy = answer.effective_policy
        return policy

    assert (await holds(account)).hard_bounces == suppression_pb2.SWITCH_ON
    assert (await holds(account)).soft_bounce_count == 3
    change = suppression_service_pb2.UpdateSuppressionPolicyRequest(
        policy=suppression_pb2.SuppressionPolicy(
            name=f"{reseller}/suppressionPolicy", hard_bounces=suppression_pb2.SWITCH_OFF, soft_bounce_count=5
        )
    )
    changed = await control.call(control.suppressions.UpdateSuppressionPolicy, change)
    assert (changed.hard_bounces, changed.soft_bounce_count, changed.etag) == (suppression_pb2.SWITCH_OFF, 5, "1")
    assert not changed.HasField("pause_count")
    assert (await holds(account)).hard_bounces == suppression_pb2.SWITCH_OFF
    assert (await holds(account)).soft_bounce_count == 5
    change.policy.name = f"{account}/suppressionPolicy"
    change.policy.hard_bounces = suppression_pb2.SWITCH_ON
    change.policy.ClearField("soft_bounce_count")
    change.policy.pause_count = 0
    await control.call(control.suppressions.UpdateSuppressionPolicy, change, basic("account"))
    policy = await holds(account)
    assert (policy.hard_bounces, policy.soft_bounce_count, policy.pause_count) == (suppression_pb2.SWITCH_ON, 5, 0)
    change.policy.pause_count = 11
    assert await control.refused(control.suppressions.UpdateSuppressionPolicy, change) is Reason.INVALID_ARGUMENT
    change.policy.pause_count, change.policy.etag = 1, "7"
    assert await control.refused(control.suppressions.UpdateSuppressionPolicy, change) is Reason.STALE_ETAG


async def test_an_import_ends_with_the_login_that_sends_it(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "RECHECK_SECONDS", 0.05)
    tenant = await control.tenant("tenant")
    request = suppression_service_pb2.ImportSuppressionsRequest

    async def kept() -> list[str]:
        listed = suppression_service_pb2.ListSuppressionsRequest(parent=tenant)
        answer = await control.call(control.suppressions.ListSuppressions, listed)
        return [entry.address for entry in answer.suppressions]

    async def pieces() -> AsyncIterator[suppression_service_pb2.ImportSuppressionsRequest]:
        yield request(parent=tenant, suppressions=[Suppression(address="first@x.test")])
        await asyncio.sleep(0.1)
        yield request(suppressions=[Suppression(address="second@x.test")])
        async with asyncio.timeout(60):
            while len(await kept()) < 2:  # noqa: ASYNC110 - another program knows
                await asyncio.sleep(0.02)
        delete = credential_service_pb2.DeleteLoginRequest(name=f"{tenant}/logins/tenant")
        await control.call(control.credentials.DeleteLogin, delete)
        await asyncio.sleep(0.1)
        yield request(suppressions=[Suppression(address="third@x.test")])

    call = control.suppressions.ImportSuppressions(pieces(), metadata=basic("tenant"), timeout=60)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await call
    assert rpc.refusal_of(ended.value).reason is Reason.UNAUTHENTICATED
    assert await kept() == ["first@x.test", "second@x.test"]


async def filled(control: Control) -> str:
    """A tenant with suppressions of several kinds and times; its name."""
    acme = await control.tenant("acme")
    now = datetime.now(UTC)
    lines = [
        Suppression(address=address, reason=reason, stream=stream, create_time=stamp(now - timedelta(days=days)))
        for address, reason, stream, days in (
            ("Ann@Shop.example", HARD, "", 5),
            ("bob@shop.example", UNSUBSCRIBE, "", 4),
            ("cid_100@other.example", Suppression.REASON_MANUAL, "", 3),
            ("cid_100@other.example", Suppression.REASON_COMPLAINT, "news", 2),
            ("dan@other.example", Suppression.REASON_COMPLAINT, "", 1),
        )
    ]
    batch = suppression_service_pb2.BatchCreateSuppressionsRequest(parent=acme, suppressions=lines)
    await control.call(control.suppressions.BatchCreateSuppressions, batch)
    return acme


@pytest.mark.each_postgres
async def test_lists_are_searched_skipped_and_counted(control: Control) -> None:
    acme = await filled(control)
    ids = ["ann@shop.example", "bob@shop.example", "cid_100@other.example", "news:cid_100@other.example"]
    ids.append("dan@other.example")
    assert await listed(control, acme, "create_time") == ids
    assert await listed(control, acme, "create_time desc") == ids[::-1]
    assert await listed(control, acme, search="SHOP.ex") == ids[:2]
    assert await listed(control, acme, search="d_1") == ids[2:4]
    assert await listed(control, acme, search="d%1") == []
    request = suppression_service_pb2.ListSuppressionsRequest(parent=acme, order_by="create_time", skip=2, page_size=2)
    request.count_total = True
    answer = await control.call(control.suppressions.ListSuppressions, request)
    assert [entry.stream for entry in answer.suppressions] == ["", "news"]
    assert answer.total_size == 5
    uid = answer.suppressions[1].uid
    assert await listed(control, acme, number=uid) == ids[3:4]
    request.page_token, request.skip = answer.next_page_token, 0
    assert [
        found.address for found in (await control.call(control.suppressions.ListSuppressions, request)).suppressions
    ] == ids[4:]
    by_address = suppression_service_pb2.ListSuppressionsRequest(parent=acme, skip=4)
    assert len((await control.call(control.suppressions.ListSuppressions, by_address)).suppressions) == 1
    for field, value in ("skip", -1), ("order_by", "address desc"):
        wrong = suppression_service_pb2.ListSuppressionsRequest(**({"parent": acme} | {field: value}))  # type: ignore[arg-type]
        assert await control.refused(control.suppressions.ListSuppressions, wrong) is Reason.INVALID_ARGUMENT


async def test_suppressions_are_counted_by_reason(control: Control) -> None:
    acme = await filled(control)

    async def counted(**filter_: Any) -> tuple[int, list[tuple[int, int]]]:
        request = suppression_service_pb2.CountSuppressionsRequest(
            parent=acme, filter=suppression_service_pb2.SuppressionFilter(**filter_)
        )
        answer = await control.call(control.suppressions.CountSuppressions, request)
        return answer.count, [(found.reason, found.count) for found in answer.reason_counts]

    complaint = Suppression.REASON_COMPLAINT
    total, reasons = await counted()
    assert (total, reasons[0], len(reasons)) == (5, (complaint, 2), 4)
    assert await counted(reasons=[HARD, UNSUBSCRIBE]) == (2, [(HARD, 1), (UNSUBSCRIBE, 1)])
    now = datetime.now(UTC)
    times = {"start_time": stamp(now - timedelta(days=2.5)), "end_time": stamp(now - timedelta(days=1.5))}
    assert await counted(**times) == (1, [(complaint, 1)])
    assert await counted(search="nobody") == (0, [])


@pytest.mark.each_postgres
async def test_a_batch_is_taken_back_whole_or_not_at_all(control: Control, database: Database) -> None:
    acme = await filled(control)
    delete = control.suppressions.BatchDeleteSuppressions

    def batch(*addresses: str, **more: Any) -> suppression_service_pb2.BatchDeleteSuppressionsRequest:
        return suppression_service_pb2.BatchDeleteSuppressionsRequest(parent=acme, addresses=addresses, **more)

    assert await control.refused(delete, batch("ann@shop.example", "nobody@shop.example")) is Reason.NOT_FOUND
    assert await control.refused(delete, batch("ann@shop.example", "no address")) is Reason.INVALID_ARGUMENT
    for count in 0, 1001:
        assert await control.refused(delete, batch(*(f"a{i}@x.test" for i in range(count)))) is Reason.INVALID_ARGUMENT
    assert len(await listed(control, acme)) == 5
    await control.call(delete, batch("ann@shop.example", validate_only=True))
    assert len(await listed(control, acme)) == 5
    request = batch("BOB@shop.example", "Nobody@shop.example", "bob@SHOP.example", allow_missing=True)
    request.request_id = new_id()
    before = await database.transact(policy_log.head)
    answer = await control.call(delete, request)
    assert [found.address for found in answer.suppressions] == ["bob@shop.example"]
    assert answer.missing_addresses == ["Nobody@shop.example"]
    assert await database.transact(policy_log.head) != before
    assert await control.call(delete, request) == answer
    # Of all streams, unless one is named; of all reasons, unless some are.
    only = batch("cid_100@other.example", stream="", reasons=[Suppression.REASON_COMPLAINT], allow_missing=True)
    assert not (await control.call(delete, only)).suppressions
    answer = await control.call(delete, batch("cid_100@other.example", "dan@other.example"))
    assert [found.stream for found in answer.suppressions] == ["", "news", ""]
    assert await listed(control, acme) == ["ann@shop.example"]
