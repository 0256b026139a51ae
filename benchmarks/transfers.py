"""Credit transfers: many clients of one control program over gRPC, each transfer durable and idempotent.

``python -m benchmarks.transfers``. Control runs as it does in production, as a process of its own with its embedded
PostgreSQL (fsync on) in ``--folder``; the clients are coroutines of this process. Every transfer carries a request id
and moves a random amount between a reseller and one of its accounts, either way. When all are done, every balance must
be what the answers said, and the audit of the ledger must find nothing: otherwise there is no result.

The rate is printed with the processor time that each part took per transfer: on a machine that is busy with something
else the rate is too low, and these are not. The result is written to ``benchmarks/results`` with the facts of the
machine.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop

from barua.control.v1 import credential_service_pb2, credit_service_pb2, tenant_pb2, tenant_service_pb2
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.credit_service_pb2_grpc import CreditServiceStub
from barua.control.v1.tenant_service_pb2_grpc import TenantServiceStub

from benchmarks import machine
from control.embedded import EmbeddedPostgres
from mta.runtime import rpc
from tests.support.ports import free_port

RESULTS = Path(__file__).resolve().parent / "results"
GOAL = 1000.0
"""Transfers per second with 32 clients on two cores."""
GRANTED = 1_000_000
ACCOUNTS = 2
"""Of each reseller."""
START_SECONDS = 120
CALL_SECONDS = 30.0

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One measured run. Processor times are milliseconds per transfer."""

    clients: int
    credentials: str
    transfers: int
    seconds: float
    rate: float
    median_ms: float
    p99_ms: float
    control_cpu_ms: float
    postgres_cpu_ms: float
    clients_cpu_ms: float


class WrongBalance(Exception):
    """Credits appeared or vanished."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfers", description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--as", dest="credentials", choices=("operator", "key"), default="operator",
                        help="whose credentials: the operator's token, or an API key of each reseller")  # fmt: skip
    parser.add_argument("--folder", type=Path, help="where the database is; the current folder's file system if absent")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="barua-transfers-", dir=chosen.folder or Path.cwd()))
    try:
        facts = machine.facts(folder)
        result = uvloop.run(_measured(folder, chosen.clients, chosen.seconds, chosen.credentials))
    finally:
        shutil.rmtree(folder)
    print(
        f"{result.rate:.0f} transfers/s with {result.clients} clients ({result.credentials}), median"
        f" {result.median_ms:.1f} ms, p99 {result.p99_ms:.1f} ms; processor time per transfer: control"
        f" {result.control_cpu_ms:.2f} ms, PostgreSQL {result.postgres_cpu_ms:.2f} ms, clients"
        f" {result.clients_cpu_ms:.2f} ms; goal {GOAL:.0f}/s"
    )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"transfers-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps({"machine": facts, "result": asdict(result)}, indent=2) + "\n")
    print(f"written to {path}")
    return 0 if result.rate >= GOAL else 1


async def _measured(folder: Path, clients: int, seconds: float, credentials: str) -> Result:
    address = f"127.0.0.1:{free_port()}"
    home = folder / "home"
    config = folder / "barua.toml"
    config.write_text(
        f"home = {json.dumps(str(home))}\n[control]\nlisten = '{address}'\nmetrics_listen = '127.0.0.1:{free_port()}'\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "control", "serve", "--config", str(config)]
    log = (folder / "control.log").open("wb")
    control = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: ASYNC220 - as above
    channel = rpc.channel(address)
    try:
        await _until_serving(channel, control)
        token = (home / "secrets" / "operator.token").read_text().strip()
        bench = Bench(channel, (("authorization", f"Bearer {token}"),), clients)
        await bench.prepare(credentials)
        await bench.run(1.0)
        postgres = EmbeddedPostgres(home / "postgres").pid or 0
        before = (_cpu([control.pid]), _cpu(_family(postgres)), time.process_time())
        times, elapsed = await bench.run(seconds)
        after = (_cpu([control.pid]), _cpu(_family(postgres)), time.process_time())
        await bench.check()
    finally:
        await channel.close()
        control.terminate()
        control.wait()
        log.close()
    times.sort()
    cpu = [1000 * (end - start) / len(times) for start, end in zip(before, after, strict=True)]
    return Result(
        clients,
        credentials,
        len(times),
        elapsed,
        len(times) / elapsed,
        1000 * times[len(times) // 2],
        1000 * times[len(times) * 99 // 100],
        *cpu,
    )


class Bench:
    """The clients and what they know of the balances."""

    def __init__(self, channel: grpc.aio.Channel, operator: Metadata, clients: int) -> None:
        self._tenants = TenantServiceStub(channel)
        self._credentials = CredentialServiceStub(channel)
        self._credits = CreditServiceStub(channel)
        self._operator = operator
        self._clients = clients
        self._metadata: list[Metadata] = []
        self._balances: Counter[str] = Counter()

    async def prepare(self, credentials: str) -> None:
        """Make a reseller with accounts for each client."""
        for number in range(self._clients):
            reseller = f"reseller{number}"
            await self._tenant("operator", reseller)
            for account in range(ACCOUNTS):
                await self._tenant(reseller, f"account{number}-{account}")
            grant = credit_service_pb2.GrantCreditsRequest(tenant=f"tenants/{reseller}", amount=GRANTED)
            await self._call(self._credits.GrantCredits, grant)
            self._balances[f"tenants/{reseller}"] = GRANTED
            self._metadata.append(self._operator if credentials == "operator" else await self._key(reseller))

    async def run(self, seconds: float) -> tuple[list[float], float]:
        """Transfer for so long; how long each took, and all together."""
        start = time.perf_counter()
        deadline = start + seconds
        times = await asyncio.gather(*(self._client(number, deadline) for number in range(self._clients)))
        return [one for client in times for one in client], time.perf_counter() - start

    async def check(self) -> None:
        """Raise WrongBalance unless all balances are what the answers said, and the ledger agrees."""
        for tenant, expected in self._balances.items():
            has = await self._call(self._credits.GetBalance, credit_service_pb2.GetBalanceRequest(tenant=tenant))
            if has.balance != expected or has.available < 0:
                raise WrongBalance(f"{tenant} has {has.balance} credits and should have {expected}")
        request = credit_service_pb2.AuditCreditsRequest(tenant="tenants/operator")
        audit = await self._call(self._credits.AuditCredits, request)
        if audit.discrepancies or audit.available != self._clients * GRANTED:
            raise WrongBalance(f"the audit found {audit}")

    async def _client(self, number: int, deadline: float) -> list[float]:
        times: list[float] = []
        reseller = f"tenants/reseller{number}"
        while time.perf_counter() < deadline:
            account = f"tenants/account{number}-{random.randrange(ACCOUNTS)}"
            amount = random.randint(1, 100)
            down = self._balances[account] < amount or random.random() < 0.5
            source, destination = (reseller, account) if down else (account, reseller)
            request = credit_service_pb2.TransferCreditsRequest(
                source=source, destination=destination, amount=amount, request_id=str(uuid.uuid4())
            )
            start = time.perf_counter()
            answer = await self._call(self._credits.TransferCredits, request, self._metadata[number])
            times.append(time.perf_counter() - start)
            self._balances[source] -= amount
            self._balances[destination] += amount
            if (answer.source.balance, answer.destination.balance) != (
                self._balances[source],
                self._balances[destination],
            ):
                raise WrongBalance(f"{answer} was answered, {self._balances[source]} should be left")
        return times

    async def _tenant(self, parent: str, tenant_id: str) -> None:
        kind = tenant_pb2.Tenant.KIND_RESELLER if parent == "operator" else tenant_pb2.Tenant.KIND_ACCOUNT
        request = tenant_service_pb2.CreateTenantRequest(
            parent=f"tenants/{parent}", tenant_id=tenant_id, tenant=tenant_pb2.Tenant(kind=kind)
        )
        await self._call(self._tenants.CreateTenant, request)

    async def _key(self, tenant_id: str) -> Metadata:
        request = credential_service_pb2.CreateApiKeyRequest(parent=f"tenants/{tenant_id}")
        request.api_key.scopes.append("credits")
        key = await self._call(self._credentials.CreateApiKey, request)
        return (("authorization", f"Bearer {key.secret_key}"),)

    async def _call(self, method: Any, request: Any, metadata: Metadata | None = None) -> Any:
        return await method(request, metadata=metadata or self._operator, timeout=CALL_SECONDS)


async def _until_serving(channel: grpc.aio.Channel, control: "subprocess.Popen[bytes]") -> None:
    async with asyncio.timeout(START_SECONDS):
        while not await rpc.is_serving(channel, 2.0):
            if control.poll() is not None:
                raise RuntimeError(f"control ended with status {control.returncode}")
            await asyncio.sleep(0.1)


def _family(parent: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


def _cpu(pids: Sequence[int]) -> float:
    """Processor seconds of processes."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    raise SystemExit(main())
