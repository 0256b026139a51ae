"""Millions of suppressions: what a check costs a worker, and how fast a node has what is new.

``python -m benchmarks.suppressions`` fills a real PostgreSQL with 5,000,000 suppressions of 50 tenants, lets a real
node take them all as a snapshot, and then measures

- the check of one recipient as intake does it, on addresses that are suppressed and on those that are not;
- a list of 100,000 taken in by ImportSuppressions while the node is away, and the node's catching up with it;
- the time from CreateSuppression's answer until a worker's replica has it.

The replica lies on ``--folder``, which should be on a real disk; the database is in memory. The result is printed and
written to ``benchmarks/results``. About four minutes and 4 GB of memory.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median
from typing import Any

import asyncpg

from barua.control.v1 import suppression_service_pb2 as proto
from barua.control.v1.suppression_pb2 import Suppression
from barua.control.v1.suppression_service_pb2_grpc import SuppressionServiceStub

from benchmarks import machine
from mta.policy.lookup import lineage, suppressed
from mta.replica.reader import ReplicaReader
from tests.support.stack import ACCOUNT, RESELLER, Stack

RESULTS = Path(__file__).resolve().parent / "results"
TENANTS = 50
CHECKS = 50_000
IMPORTED = 100_000
PIECE = 5_000
SHOWN_ROUNDS = 20
PATIENCE_SECONDS = 900.0
_FILL = """
    INSERT INTO suppression (tenant_id, address, stream, reason, note)
    SELECT CASE number % $3 WHEN 0 THEN 'acme' WHEN 1 THEN 'reseller' ELSE 'bulk-' || number % $3 END,
           'user' || number || '@domain' || number % 1000 || '.example.net',
           CASE WHEN number % 5 = 0 THEN 'news' ELSE '' END, 'unsubscribe', ''
      FROM generate_series($1::bigint, $2::bigint - 1) AS number
"""


def address_of(number: int) -> str:
    """The address that was suppressed with this number."""
    return f"user{number}@domain{number % 1000}.example.net"


async def fill(url: str, count: int) -> float:
    """Put suppressions into the database, past the API; the seconds it took."""
    started = time.monotonic()
    connection = await asyncpg.connect(url)
    try:
        for number in range(2, TENANTS):
            await connection.execute(
                "INSERT INTO tenant (tenant_id, parent_id, path, display_name, first_name, surname, organization,"
                " phone, default_sender) VALUES ($1, 'operator', ARRAY['operator', $1], '', '', '', '', '', '')",
                f"bulk-{number}",
            )
        for first in range(0, count, 250_000):
            await connection.execute(_FILL, first, min(first + 250_000, count), TENANTS, timeout=600)
        await connection.execute("ANALYZE suppression")
    finally:
        await connection.close()
    return time.monotonic() - started


def wait(condition: Callable[[], bool], what: str, pause_seconds: float = 0.02) -> float:
    """Wait; the seconds it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > PATIENCE_SECONDS:
            raise TimeoutError(f"{what}: not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(pause_seconds)
    return time.monotonic() - started


def revision_of(url: str) -> int:
    """The newest revision of the policy."""

    async def ask() -> int:
        connection = await asyncpg.connect(url)
        try:
            return int(await connection.fetchval("SELECT revision FROM policy_head"))
        finally:
            await connection.close()

    return asyncio.run(ask())


def peak_memory_mb(pid: int) -> int:
    """Most memory that a process had so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return 0


def checks(reader: ReplicaReader, addresses: Sequence[str], expected: bool) -> dict[str, float]:
    """Microseconds of one check, over many addresses."""
    line = lineage(reader, ACCOUNT)
    took: list[float] = []
    for address in addresses:
        started = time.perf_counter_ns()
        found = suppressed(reader, line, address, "news", time.time())
        took.append((time.perf_counter_ns() - started) / 1000)
        assert (found is not None) is expected, address
    took.sort()
    return {
        "median_us": round(median(took), 2),
        "mean_us": round(mean(took), 2),
        "p99_us": round(took[len(took) * 99 // 100], 2),
    }


def pieces() -> Iterator[proto.ImportSuppressionsRequest]:
    """A list for the account."""
    yield proto.ImportSuppressionsRequest(parent=f"tenants/{ACCOUNT}")
    for first in range(0, IMPORTED, PIECE):
        lines = [Suppression(address=f"imported{number}@list.example.net") for number in range(first, first + PIECE)]
        yield proto.ImportSuppressionsRequest(suppressions=lines)


def until_in_force(stack: Stack, reader: ReplicaReader) -> float:
    """Seconds from the answer of CreateSuppression until the replica has it."""
    address = f"{uuid.uuid4().hex}@new.example.net"
    request = proto.CreateSuppressionRequest(parent=f"tenants/{RESELLER}", address=address)
    stack.operator.call(SuppressionServiceStub(stack.operator.control).CreateSuppression, request)
    return wait(lambda: bool(reader.suppressions(address, [RESELLER])), "the suppression is in force", 0.001)


def measure(stack: Stack, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures, on an installation that runs."""
    assert stack.postgres is not None
    url, replica = stack.postgres.url, stack.home / "policy.db"
    stack.node.stop()
    for file in stack.home.glob("policy.db*"):
        file.unlink()
    say(f"filling the database with {count:,} suppressions")
    filled = asyncio.run(fill(url, count))
    revision = revision_of(url)
    started = time.monotonic()
    stack.node.start()
    wait(replica.exists, "the node makes a replica")
    reader = ReplicaReader(replica)
    wait(lambda: _reached(reader, revision), "the snapshot is in force", 0.1)
    figures: dict[str, Any] = {
        "fill_seconds": round(filled, 1),
        "snapshot_seconds": round(time.monotonic() - started, 1),
        "snapshot_peak_memory_mb": peak_memory_mb(stack.node.pid),
        "replica_mb": replica.stat().st_size // 1_000_000,
    }
    say(f"snapshot taken: {figures}")
    chance = random.Random(7)
    # Of the numbers, each fiftieth is the account's and the one after it the reseller's.
    hits = [address_of(chance.randrange(count // TENANTS) * TENANTS + chance.randrange(2)) for _ in range(CHECKS)]
    misses = [f"nobody{chance.randrange(count)}@domain{chance.randrange(1000)}.example.net" for _ in range(CHECKS)]
    checks(reader, misses[:1000], False)
    figures["check_hit"], figures["check_miss"] = checks(reader, hits, True), checks(reader, misses, False)
    stack.node.stop()
    say(f"importing {IMPORTED:,} while the node is away")
    started = time.monotonic()
    stub = SuppressionServiceStub(stack.operator.control)
    answer = stub.ImportSuppressions(pieces(), metadata=stack.operator.metadata, timeout=PATIENCE_SECONDS)
    assert answer.created_count == IMPORTED
    figures["import_lines_per_second"] = round(IMPORTED / (time.monotonic() - started))
    revision = revision_of(url)
    stack.node.start()
    # Counted from when the node is ready: what it takes to start is not about suppressions.
    figures["catch_up_seconds"] = round(wait(lambda: _reached(reader, revision), "the node has caught up", 0.01), 2)
    shown = [until_in_force(stack, reader) for _ in range(SHOWN_ROUNDS)]
    figures["in_force_ms"] = {"median": round(median(shown) * 1000, 1), "most": round(max(shown) * 1000, 1)}
    reader.close()
    return figures


def _reached(reader: ReplicaReader, revision: int) -> bool:
    reader.refresh()
    return reader.revision >= revision


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(prog="benchmarks.suppressions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=5_000_000, help="suppressions")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where the installation is made")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="barua-bench-") as name:
        folder = Path(name)
        facts = machine.facts(folder)
        print(json.dumps(facts, indent=2))
        with Stack(folder, workers=1) as stack:
            figures = measure(stack, chosen.count, lambda text: print(text, file=sys.stderr))
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    report = {"time": moment, "machine": facts, "suppressions": chosen.count, "figures": figures}
    print(json.dumps(figures, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"suppressions-{moment}.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
