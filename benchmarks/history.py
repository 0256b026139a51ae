"""History at scale: events taken in per second, and searches by recipient over many millions of rows.

    python -m benchmarks.history [--events 200000] [--rows 10000000] [--searches 2000] [--folder DIR]

A control program of its own runs on an embedded PostgreSQL in ``--folder`` (which should not be a tmpfs), with all its
consumers. Intake: ``--holders`` holders push batches of 1000 events (as many receptions as deliveries) over gRPC, one
batch at a time each; the rate is of what is committed, and the lag of the statistics at the end is shown beside it.
Search: rows of 30 days and 1000 tenants, each recipient address five times, are loaded by COPY; then searches over
gRPC, with a tenant's login and so under row-level security, for random addresses: one tenant, and a reseller's subtree.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp

from barua.control.v1 import history_service_pb2, tenant_service_pb2
from barua.control.v1.history_service_pb2_grpc import HistoryServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub
from barua.journal.v1 import journal_service_pb2
from barua.journal.v1.event_pb2 import Event
from barua.journal.v1.journal_service_pb2_grpc import JournalServiceStub

from benchmarks.machine import facts
from mta.runtime import rpc
from tests.support.ports import free_port

BATCH = 1000
DAYS = 30
TENANTS, RESELLERS = 1000, 10
COPIES = 5
"""Messages to each address."""
PASSWORD = "correct horse"
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


class Control:
    """A control program in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._address = f"127.0.0.1:{free_port()}"
        self._process: asyncio.subprocess.Process | None = None
        self.channel = rpc.channel(self._address)

    async def __aenter__(self) -> "Control":
        config = self._folder / "barua.toml"
        config.write_text(f'[control]\nlisten = "{self._address}"\nmetrics_listen = "127.0.0.1:{free_port()}"\n')
        with (self._folder / "control.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "control", "serve", "--config", str(config),
                env=os.environ | {"BARUA_HOME": str(self._folder)}, stdout=log, stderr=log,
            )  # fmt: skip
        async with asyncio.timeout(120):
            await self._until_serving()
        return self

    async def _until_serving(self) -> None:
        while True:
            if await rpc.is_serving(self.channel, 2.0):
                return
            await asyncio.sleep(0.1)

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        await self._process.wait()

    def token(self, role: str) -> tuple[tuple[str, str], ...]:
        """Credentials of the installation."""
        text = (self._folder / "secrets" / f"{role}.token").read_text().strip()
        return (("authorization", f"Bearer {text}"),)

    def cpu_seconds(self) -> float:
        """Time that control and its PostgreSQL had on a core: tells more than rates where the machine is busy."""
        assert self._process is not None
        server = int((self._folder / "postgres" / "postmaster.pid").read_text().split()[0])
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it just ended
            if int(stat.parent.name) in (self._process.pid, server) or int(fields[1]) == server:
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    async def database(self) -> Any:
        """A connection to its database."""
        host = self._folder / "postgres"
        socket = next(host.glob(".s.PGSQL.*"))
        return await asyncpg.connect(
            host=str(host), port=int(socket.suffix[1:]), user="postgres", database="barua", timeout=30
        )


def id_at(time_: datetime, number: int = 0) -> int:
    """The id of a recipient that was accepted at a time."""
    return ((time_ - EPOCH) // timedelta(milliseconds=1) << 21) + number


async def intake(control: Control, events: int, holders: int) -> dict[str, Any]:
    """Events per second that are on record."""
    stub: Any = JournalServiceStub(control.channel)
    metadata = control.token("node")
    batches = events // BATCH // holders
    requests = [_batches(number, batches) for number in range(holders)]
    seconds: list[float] = []

    async def push(own: list[journal_service_pb2.PushEventsRequest]) -> None:
        for request in own:
            started = time.perf_counter()
            await stub.PushEvents(request, metadata=metadata, timeout=60)
            seconds.append(time.perf_counter() - started)

    started, used = time.perf_counter(), control.cpu_seconds()
    await asyncio.gather(*(push(own) for own in requests))
    took = time.perf_counter() - started
    connection = await control.database()
    behind = "SELECT event_head.number - event_cursor.number FROM event_head, event_cursor WHERE name = 'statistics'"
    lag = now = await connection.fetchval(behind)
    while now:
        await asyncio.sleep(0.05)
        now = await connection.fetchval(behind)
    caught_up = time.perf_counter() - started
    used = control.cpu_seconds() - used
    await connection.close()
    return {
        "events": batches * BATCH * holders,
        "events_per_second": round(batches * BATCH * holders / took),
        "batch_ms_p50": round(1000 * statistics.median(seconds), 1),
        "batch_ms_p99": round(1000 * _percentile(seconds, 0.99), 1),
        "statistics_lag_at_end": lag,
        "cpu_us_per_event_with_all_consumers": round(1e6 * used / (batches * BATCH * holders), 1),
        "events_per_second_with_statistics": round(batches * BATCH * holders / caught_up),
    }


def _batches(holder: int, count: int) -> list[journal_service_pb2.PushEventsRequest]:
    """Requests of one holder: half receptions, half deliveries of them."""
    name, now, sequence, made = str(uuid.uuid4()), datetime.now(UTC), 0, []
    stamp = Timestamp()
    stamp.FromDatetime(now)
    for batch in range(count):
        ids = [id_at(now + timedelta(milliseconds=batch), holder << 10 | number) for number in range(BATCH // 2)]
        events = []
        for kind in (Event.KIND_RECEIVED, Event.KIND_DELIVERED):
            for id_ in ids:
                sequence += 1
                event = Event(
                    sequence=sequence, kind=kind, time=stamp, tenant_id=f"t{id_ % TENANTS}", recipient_id=id_,
                    message_id=id_,
                )  # fmt: skip
                if kind is Event.KIND_RECEIVED:
                    event.sender, event.recipient = "news@bench.test", f"user{id_ % 999_983}@d{id_ % 97}.example.net"
                    event.subject, event.size_bytes, event.source = "A subject of the usual length", 4096, "smtp"
                else:
                    event.attempt, event.code, event.enhanced_code, event.text = 1, 250, "2.0.0", "Ok: queued as 4F3A"
                    event.remote_host = f"mx.d{id_ % 97}.example.net"
                events.append(event)
        made.append(journal_service_pb2.PushEventsRequest(holder=name, node="bench", events=events))
    return made


async def load(control: Control, rows: int) -> dict[str, Any]:
    """Fill the days with rows by COPY."""
    connection = await control.database()
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [today - timedelta(days=number) for number in range(1, DAYS + 1)]
    await connection.execute("SELECT make_history_days($1)", [day.date() for day in days])
    started = time.perf_counter()
    per_day, piece = rows // DAYS, 100_000
    numbers = random.Random(1)
    for day in days:
        for first in range(0, per_day, piece):
            count = min(piece, per_day - first)
            await connection.copy_to_table(
                "message_record",
                source=_rows(day, first, count, per_day, rows, numbers),
                columns=(
                    "recipient_id", "tenant_id", "message_id", "sender", "recipient", "recipient_key", "subject",
                    "source", "size_bytes", "state", "last_reply", "received_at", "updated_at",
                ),
                timeout=600,
            )  # fmt: skip
        print(f"  {day:%Y-%m-%d} loaded", file=sys.stderr, flush=True)
    took = time.perf_counter() - started
    await connection.execute("VACUUM (ANALYZE) message_record", timeout=1800)
    size = await connection.fetchval(
        "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits"
        " WHERE inhparent = 'message_record'::regclass"
    )
    await connection.close()
    return {"rows": per_day * DAYS, "rows_per_second": round(per_day * DAYS / took), "gigabytes": round(size / 1e9, 2)}


def _rows(day: datetime, first: int, count: int, per_day: int, rows: int, numbers: random.Random) -> io.BytesIO:
    """Rows of a day in the text format of COPY."""
    step = 86_400_000 / per_day
    lines = []
    for number in range(first, first + count):
        id_ = id_at(day + timedelta(milliseconds=int(number * step)), number & 511)
        address = numbers.randrange(rows // COPIES)
        stamp = day.isoformat()
        lines.append(
            f"{id_}\tt{address % TENANTS}\t{id_}\tnews@bench.test\tuser{address}@d{address % 97}.example.net\t"
            f"user{address}@d{address % 97}.example.net\tA subject of the usual length\tsmtp\t4096\t2\t"
            f"250 2.0.0 Ok: queued as 4F3A\t{stamp}\t{stamp}\n"
        )
    return io.BytesIO("".join(lines).encode())


async def tenants(control: Control) -> None:
    """The tree: resellers with a login, and their accounts."""
    stub: Any = TenantServiceStub(control.channel)
    for number in range(RESELLERS):
        await stub.CreateTenant(_tenant(f"r{number}", "operator", login=True), metadata=control.token("operator"))
    for number in range(TENANTS):
        request = _tenant(f"t{number}", f"r{number % RESELLERS}", login=number < RESELLERS)
        await stub.CreateTenant(request, metadata=control.token("operator"))


def _tenant(tenant: str, parent: str, *, login: bool) -> tenant_service_pb2.CreateTenantRequest:
    initial = tenant_service_pb2.InitialLogin(username=tenant, password=PASSWORD) if login else None
    return tenant_service_pb2.CreateTenantRequest(parent=f"tenants/{parent}", tenant_id=tenant, initial_login=initial)


async def searches(control: Control, rows: int, count: int) -> dict[str, Any]:
    """How long searches take, in milliseconds."""
    stub: Any = HistoryServiceStub(control.channel)
    numbers = random.Random(2)

    async def one_tenant() -> int:
        address = numbers.randrange(rows // COPIES)
        address -= address % TENANTS - address % RESELLERS  # an address of one of the first tenants
        return await _search(stub, f"t{address % RESELLERS}", address, descendants=False)

    async def subtree() -> int:
        address = numbers.randrange(rows // COPIES)
        return await _search(stub, f"r{address % RESELLERS}", address, descendants=True)

    return {
        "one_tenant_ms": await _timed(one_tenant, count),
        "reseller_subtree_ms": await _timed(subtree, count),
    }


async def _search(stub: Any, tenant: str, address: int, *, descendants: bool) -> int:
    request = history_service_pb2.ListMessageRecordsRequest(
        parent="tenants/me", recipient=f"user{address}@d{address % 97}.example.net", include_descendants=descendants
    )
    encoded = base64.b64encode(f"{tenant}:{PASSWORD}".encode()).decode()
    answer = await stub.ListMessageRecords(request, metadata=(("authorization", f"Basic {encoded}"),), timeout=60)
    return len(answer.message_records)


async def _timed(search: Callable[[], Awaitable[int]], count: int) -> dict[str, float]:
    for _ in range(RESELLERS * 5):
        await search()  # passwords are known and plans made
    seconds, found = [], 0
    for _ in range(count):
        started = time.perf_counter()
        found += await search()
        seconds.append(time.perf_counter() - started)
    return {
        "p50": round(1000 * statistics.median(seconds), 2),
        "p99": round(1000 * _percentile(seconds, 0.99), 2),
        "max": round(1000 * max(seconds), 2),
        "found_on_average": round(found / count, 1),
    }


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that is asked for."""
    result: dict[str, Any] = {"machine": facts(folder)}
    async with Control(folder) as control:
        await tenants(control)
        if arguments.events:
            result["intake"] = await intake(control, arguments.events, arguments.holders)
        if arguments.rows:
            result["load"] = await load(control, arguments.rows)
            result["search"] = await searches(control, arguments.rows, arguments.searches)
    return result


def main() -> None:
    """Read the command line, measure, print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="events to push; 0: none")
    parser.add_argument("--holders", type=int, default=4, help="holders that push side by side")
    parser.add_argument("--rows", type=int, default=10_000_000, help="records to search in; 0: none")
    parser.add_argument("--searches", type=int, default=2000, help="searches of each kind")
    parser.add_argument("--folder", type=Path, help="where the database is; else a new folder below /var/tmp")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="barua-history-", dir=arguments.folder or "/var/tmp") as folder:
        print(json.dumps(asyncio.run(run(arguments, Path(folder))), indent=2))


if __name__ == "__main__":
    main()
