"""Sending through the bridge: requests and recipients per second, and what each program spends on one.

``python -m benchmarks.bridge``. A whole installation as ``barua up`` runs it, with an embedded PostgreSQL that syncs,
and beside it, on the same processors, a client with 32 connections that stay open (``httpload``). For each API a
message to one recipient, and to 100 with one request. An answer means that the message is on disk. The recipients are
of the mock domain: there is no remote server on these processors, but everything else happens that happens to mail:
credits are leased and spent, outcomes settled, events journalled and counted.

First the client sends as fast as it gets answers; then at half of that rate, at fixed times, for the latency. Printed
with each rate is the processor time that each program spent on a request: on a machine that is busy with something
else the rate is too low, and these are not. At the end the numbers of messages that the workers accepted and of the
answers of success must agree: otherwise there is no result.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from barua.control.v1 import oauth_client_pb2, oauth_service_pb2
from barua.control.v1.oauth_service_pb2_grpc import OAuthServiceStub

from benchmarks import machine
from benchmarks.httpload import MARK
from control.embedded import EmbeddedPostgres
from mta.runtime.options import Options
from tests.support.stack import ACCOUNT, DOMAIN, Stack, changed

RESULTS = Path(__file__).resolve().parent / "results"
GOALS = {1: 1000.0, 100: 2000.0}
"""Recipients per second on two cores, by the recipients of one request."""
GOAL_P99_MS = 50.0
"""At half load."""
MOCK = "play.test"
CREDITS = 50_000_000
HTML = "<html><body><h1>Your order</h1><p>Dear customer, it is on its way.</p>" + "<p>Some more text.</p>" * 40
MARKED = MARK.decode()


@dataclass(frozen=True, slots=True)
class Keys:
    """What the requests show."""

    api_key: str
    token: str


@dataclass(frozen=True, slots=True)
class Figures:
    """One measured case. Processor times are microseconds per request."""

    api: str
    recipients: int
    requests_per_second: float
    recipients_per_second: float
    median_ms: float
    p99_ms: float
    half_load_median_ms: float
    half_load_p99_ms: float
    cpu_us: dict[str, int]


class WrongCount(Exception):
    """What was answered and what was stored differ."""


def mspace(keys: Keys, recipients: Sequence[str]) -> tuple[str, dict[str, str], Any]:
    """MSpace's send."""
    to = recipients[0] if len(recipients) == 1 else list(recipients)
    return "/email/api/send", {}, {"apiKey": keys.api_key, "to": to, "subject": "Your order", "body": HTML}


def sendpulse(keys: Keys, recipients: Sequence[str]) -> tuple[str, dict[str, str], Any]:
    """SendPulse's send: one message for all."""
    email = {
        "html": base64.b64encode(HTML.encode()).decode(),
        "text": "Your order is on its way.",
        "subject": "Your order",
        "from": {"name": "Shop", "email": f"noreply@{DOMAIN}"},
        "to": [{"name": "Customer", "email": recipient} for recipient in recipients],
    }
    return "/smtp/emails", {"Authorization": f"Bearer {keys.token}"}, {"email": email}


def sendpost(keys: Keys, recipients: Sequence[str]) -> tuple[str, dict[str, str], Any]:
    """SendPost's send: a message of its own for each."""
    body = {
        "from": {"email": f"noreply@{DOMAIN}", "name": "Shop"},
        "to": [{"email": recipient, "name": "Customer"} for recipient in recipients],
        "subject": "Your order",
        "htmlBody": HTML,
        "trackOpens": False,
        "trackClicks": False,
    }
    return "/api/v1/subaccount/email", {"X-SubAccount-ApiKey": keys.api_key}, body


APIS: dict[str, Callable[[Keys, Sequence[str]], tuple[str, dict[str, str], Any]]] = {
    "mspace": mspace,
    "sendpulse": sendpulse,
    "sendpost": sendpost,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bridge", description=__doc__)
    parser.add_argument("--apis", nargs="+", choices=list(APIS), default=list(APIS))
    parser.add_argument("--recipients", nargs="+", type=int, default=[1, 100])
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each of the two runs of a case")
    parser.add_argument("--dkim", action="store_true", help="sign (Ed25519 and RSA-2048)")
    parser.add_argument("--folder", type=Path, help="where the spools are; the current folder's file system if absent")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="barua-bridge-", dir=chosen.folder or Path.cwd()))
    try:
        facts = machine.facts(folder)
        change = partial(_for_load, dkim=chosen.dkim)
        with Stack(folder, workers=chosen.workers, change=change, own_postgres=False) as stack:
            bench = Bench(stack, chosen.connections, chosen.seconds)
            found = [bench.case(api, count) for count in chosen.recipients for api in chosen.apis]
    finally:
        shutil.rmtree(folder)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"bridge-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    load = {"connections": chosen.connections, "workers": chosen.workers, "dkim": chosen.dkim}
    result = {"machine": facts, "load": load, "results": [asdict(figures) for figures in found]}
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")
    return 0 if all(figures.recipients_per_second >= GOALS.get(figures.recipients, 0) for figures in found) else 1


class Bench:
    """A running installation and its client."""

    def __init__(self, stack: Stack, connections: int, seconds: float) -> None:
        self._stack = stack
        self._connections = connections
        self._seconds = seconds
        self._keys = Keys(stack.operator.create_api_key(ACCOUNT), _token(stack))

    def case(self, api: str, recipients: int) -> Figures:
        """Measure a case, and print it. Raises WrongCount."""
        request = self._request(api, recipients)
        self._load(request, 1.0, 0.0)  # the first requests pay for caches, leases and connections
        before, cpu = self._accepted(), self._cpu()
        full = self._load(request, self._seconds, 0.0)
        spent = {name: used - cpu[name] for name, used in self._cpu().items()} | {"client": full["cpu_seconds"]}
        stored, answered = self._accepted() - before, sum(full["statuses"].values())
        if stored != answered * recipients:
            raise WrongCount(f"{answered} answers for {recipients} recipients each, but {stored} are stored")
        rate = full["requests"] / full["seconds"]
        half = self._load(request, self._seconds, rate / 2)
        figures = Figures(
            api,
            recipients,
            round(rate, 1),
            round(rate * recipients, 1),
            *_latency(full["times"]),
            *_latency(half["times"]),
            {name: round(seconds * 1e6 / full["requests"]) for name, seconds in spent.items()},
        )
        print(
            f"{api:9} {recipients:4} to a request: {figures.requests_per_second:7.0f} requests/s,"
            f" {figures.recipients_per_second:7.0f} recipients/s, p99 {figures.p99_ms:.0f} ms; at half load median"
            f" {figures.half_load_median_ms:.1f} ms, p99 {figures.half_load_p99_ms:.1f} ms; us of processor per"
            f" request: {', '.join(f'{name} {used}' for name, used in figures.cpu_us.items())}",
            flush=True,
        )
        return figures

    def _request(self, api: str, recipients: int) -> bytes:
        addresses = [f"r{number}-{MARKED}@{MOCK}" for number in range(recipients)]
        path, fields, body = APIS[api](self._keys, addresses)
        content = json.dumps(body).encode()
        head = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(content))} | fields
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + content

    def _load(self, request: bytes, seconds: float, rate: float) -> dict[str, Any]:
        host, _, port = self._stack.options.bridge.listen.rpartition(":")
        asked = {
            "host": host,
            "port": int(port),
            "request": request.decode("latin-1"),
            "connections": self._connections,
            "seconds": seconds,
            "rate": rate,
        }
        command = [sys.executable, "-m", "benchmarks.httpload"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            command, input=json.dumps(asked), env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise WrongCount(f"the client failed: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        if set(found["statuses"]) - {"lost"} != {"200"} or found["statuses"].get("lost"):
            raise WrongCount(f"not all requests succeeded: {found['statuses']}\n{found['sample']}")
        return found

    def _accepted(self) -> int:
        """Recipients that the workers have stored so far."""
        return sum(
            _metric(self._stack.options.mta.metrics_port_base + index, 'barua_recipients_accepted_total{source="grpc"}')
            for index in range(self._stack.options.mta.workers)
        )

    def _cpu(self) -> dict[str, float]:
        """Processor seconds so far."""
        stack = self._stack
        postgres = EmbeddedPostgres(stack.home / "postgres").pid or 0
        return {
            "bridge": _cpu([stack.bridge.pid]),
            "workers": _cpu([worker.pid for worker in stack.workers]),
            "node": _cpu([stack.node.pid]),
            "control": _cpu([stack.control.pid]),
            "postgres": _cpu(_family(postgres)),
        }


def _for_load(options: Options, *, dkim: bool) -> Options:
    """With the mock domain, and an account that has credits for everything."""
    tenants = []
    for tenant in options.bootstrap.tenants:
        domains = [replace(domain, signing=dkim) for domain in tenant.domains]
        tenants.append(replace(tenant, credits=2 * CREDITS if not tenant.parent else CREDITS, domains=domains))
    options = replace(options, bootstrap=replace(options.bootstrap, tenants=tenants))
    return changed(options, "mta", mock_domain=MOCK)


def _token(stack: Stack) -> str:
    """A token of an OAuth client of the account."""
    stub, operator = OAuthServiceStub(stack.operator.control), stack.operator
    client = oauth_client_pb2.OAuthClient(display_name="bench", scopes=["mail", "suppressions", "messages:read"])
    made = operator.call(
        stub.CreateOAuthClient,
        oauth_service_pb2.CreateOAuthClientRequest(parent=f"tenants/{ACCOUNT}", oauth_client=client),
    )
    request = oauth_service_pb2.IssueTokenRequest(client_id=made.client_id, client_secret=made.client_secret)
    return str(operator.call(stub.IssueToken, request).access_token)


def _latency(times: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds."""
    return round(times[len(times) // 2] * 1000, 2), round(times[len(times) * 99 // 100] * 1000, 2)


def _metric(port: int, name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(name)))


def _cpu(pids: Sequence[int]) -> float:
    """Processor seconds of processes, user and system."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *map(int, children.read_text().split())] if children.exists() else []


if __name__ == "__main__":
    raise SystemExit(main())
