"""Accounts of a test's own in a running installation: tenant, login, API key, credits, a domain published in the DNS.

Each test that counts credits or looks at history makes its own, so tests may share one installation. ``make`` returns
once every worker knows all of it.
"""

import itertools
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from barua.control.v1 import credential_service_pb2, tenant_pb2
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.credit_service_pb2 import Balance
from barua.control.v1.history_service_pb2 import MessageRecord
from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from tests.support.dns import DnsServer
from tests.support.stack import PASSWORD, RESELLER, Login, Stack
from tests.support.waiting import wait_until

CREDITS = 1000
SPARE = 10
"""Accounts of the usual kind are made so many at a time: waiting for the workers to know them is most of it."""
PROBE = b"Subject: probe\r\n\r\nIs this account known here?\r\n"


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant with all that it needs to send."""

    stack: Stack
    tenant: str
    domain: str
    credits: int
    """Granted when it was made."""
    api_key: str

    @property
    def login(self) -> Login:
        """Its SMTP login."""
        return Login(self.tenant, PASSWORD)

    @property
    def sender(self) -> str:
        """An address at its domain."""
        return f"news@{self.domain}"

    @property
    def balance(self) -> Balance:
        """Its credits now."""
        return self.stack.operator.balance(self.tenant)

    def wait_until_charged(self, count: int) -> Balance:
        """Wait until control knows that ``count`` credits are spent; the balance then. Raises TimeoutError."""
        wait_until(lambda: self.balance.consumed >= count, f"{count} credits of {self.tenant} are spent")
        balance = self.balance
        assert (balance.consumed, balance.available + balance.reserved) == (count, self.credits - count)
        return balance

    def wait_for_records(self, count: int = 1, timeout_seconds: float = 60) -> list[MessageRecord]:
        """Wait until ``count`` records are finished; all records, newest first. Raises TimeoutError."""
        self.stack.wait_for_history(self.tenant, count, timeout_seconds)
        return self.stack.operator.history(self.tenant)

    def record(self, recipient: str) -> MessageRecord:
        """Wait for the finished record of a recipient; it, with its events."""
        operator = self.stack.operator

        def finished() -> list[MessageRecord]:
            return [found for found in operator.history(self.tenant, recipient) if found.state > 1]

        (found,) = wait_until(finished, f"the record of {recipient} is finished", 60)
        return operator.record(found.name)


class Accounts:
    """Makes accounts. ``dns``: where to publish their records; ``mail_host``: their domains' mail server."""

    def __init__(self, stack: Stack, dns: DnsServer | None = None, mail_host: str = "") -> None:
        self._stack = stack
        self._dns = dns
        self._mail_host = mail_host
        self._numbers = itertools.count(1)
        self._spare: list[Account] = []

    def make(self, *, credits_: int = CREDITS, parent: str = RESELLER, signing: bool = True) -> Account:
        """An account that every worker knows."""
        if (credits_, parent, signing) == (CREDITS, RESELLER, True):
            if not self._spare:
                self._spare = self._make_many(SPARE, credits_, parent, signing)
            return self._spare.pop()
        return self._make_many(1, credits_, parent, signing)[0]

    def _make_many(self, count: int, credits_: int, parent: str, signing: bool) -> list[Account]:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda _: self._create(credits_, parent, signing), range(count)))
        wait_until(lambda: all(known(self._stack, account.tenant) for account in made), "every worker knows them")
        return made

    def _create(self, credits_: int, parent: str, signing: bool) -> Account:
        operator = self._stack.operator
        tenant = f"account{next(self._numbers)}"
        domain = f"{tenant}.test"
        # Some tests make others below it.
        operator.create_tenant(tenant, parent, tenant=tenant_pb2.Tenant(kind=tenant_pb2.Tenant.KIND_RESELLER))
        operator.create_login(tenant, tenant, PASSWORD)
        key = operator.create_api_key(tenant)
        if credits_:
            operator.grant(tenant, credits_)
        operator.create_domain(tenant, domain, signing=signing)
        if self._dns is not None:
            self._publish(self._dns, tenant, domain)
        return Account(self._stack, tenant, domain, credits_, key)

    def _publish(self, dns: DnsServer, tenant: str, domain: str) -> None:
        """Put the records that control asks for into the DNS, and an MX."""
        for record in self._stack.operator.domain(tenant, domain).dns_records:
            if record.type == "TXT":
                dns.set_text(record.owner, record.data)
        dns.set(domain, "MX", f"10 {self._mail_host}.")


def known(stack: Stack, tenant: str) -> bool:
    """Whether every worker would take a message of the tenant from its default sender."""
    return all(_takes(socket(stack, index), stack.token, tenant) for index in range(len(stack.workers)))


def wait_for_policy(stack: Stack) -> None:
    """Wait until all that was changed before this call is in force at every worker.

    Changes come to workers in the order in which they were made. What a worker has looked up it keeps until it hears
    that something has changed, and then it forgets all of that at once. So a worker that knew a key and no longer does
    has forgotten everything else that is no longer so.
    """
    key = stack.operator.create_api_key(RESELLER)
    paths = [socket(stack, index) for index in range(len(stack.workers))]
    wait_until(lambda: all(_is_known(path, key) for path in paths), "every worker knows a new key")
    name = f"tenants/{RESELLER}/apiKeys/{key.split('_')[1]}"
    delete = credential_service_pb2.DeleteApiKeyRequest(name=name)
    stack.operator.call(CredentialServiceStub(stack.operator.control).DeleteApiKey, delete)
    wait_until(lambda: not any(_is_known(path, key) for path in paths), "every worker has forgotten that key")


def socket(stack: Stack, index: int) -> Path:
    """The gRPC socket of a worker."""
    return stack.options.path("run", f"worker-{index}.sock")


def _is_known(path: Path, key: str) -> bool:
    request = injection_service_pb2.SubmitMessageRequest(
        recipients=["probe@probe.test"], content=PROBE, validate_only=True
    )
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            InjectionServiceStub(channel).SubmitMessage(
                request, timeout=60, metadata=(("authorization", f"Bearer {key}"),)
            )
        except grpc.RpcError as error:
            assert error.code() is not grpc.StatusCode.UNAVAILABLE, error
            return error.code() is not grpc.StatusCode.UNAUTHENTICATED
    return True


def _takes(path: Path, token: str, tenant: str) -> bool:
    request = injection_service_pb2.SubmitMessageRequest(
        tenant_id=tenant, recipients=["probe@probe.test"], content=PROBE, validate_only=True
    )
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            InjectionServiceStub(channel).SubmitMessage(
                request, timeout=60, metadata=(("authorization", f"Bearer {token}"),)
            )
        except grpc.RpcError:
            return False
    return True


def accepted(stack: Stack) -> list[int]:
    """Recipients that each worker has answered 250 for since it started, by its own metrics."""
    return [
        round(sum(samples(stack.options.mta.metrics_port_base + index, "barua_recipients_accepted_total")))
        for index in range(len(stack.workers))
    ]


def samples(port: int, name: str) -> list[float]:
    """The values of a metric, one per set of labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return [float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name]
