"""The books of an account after a scenario: what was accepted, delivered, charged, recorded and queued agrees."""

import sqlite3
from collections import Counter

from tests.integration.mta.accounts import Account
from tests.integration.scenarios.load import Load
from tests.support.fastsink import FastSink
from tests.support.stack import Stack
from tests.support.waiting import wait_until

SECONDS = 180


def copies(sink: FastSink, account: Account) -> Counter[str]:
    """How often each token of an account's messages came to a sink. Tokens begin with the tenant and a dot."""
    return Counter({token: n for token, n in sink.copies.items() if token.startswith(f"{account.tenant}.")})


def check(sink: FastSink, load: Load) -> None:
    """Compare the answers to a load with everything else."""
    check_account(sink, load.account, accepted=load.accepted, unanswered=load.unanswered)


def check_account(
    sink: FastSink, account: Account, *, accepted: set[str], unanswered: frozenset[str] | set[str]
) -> None:
    """Wait until all is delivered and told, then compare. Every message has one recipient.

    No loss: whatever was answered 250 is at the sink. No ghost: the sink has nothing else but attempts that were never
    answered. Credits: one per different message at the sink, and the ledger adds up. History: one record each.
    """
    operator, tenant = account.stack.operator, account.tenant
    wait_until(lambda: not operator.queued(tenant), "nothing is queued", SECONDS)
    delivered = set(copies(sink, account))
    assert accepted - delivered == set(), "answered 250 and not delivered"
    assert delivered - accepted - unanswered == set(), "delivered although it was refused"
    wait_until(lambda: operator.balance(tenant).consumed >= len(delivered), "control knows of all usage", SECONDS)
    balance = operator.balance(tenant)
    assert balance.consumed == len(delivered)
    assert balance.available + balance.reserved == account.credits - len(delivered)
    account.stack.wait_for_history(tenant, len(delivered), SECONDS)
    records = operator.history(tenant)
    assert len(records) == len(delivered)
    assert all(record.state == 2 for record in records), "not all are recorded as delivered"


def queued_rows(stack: Stack) -> int:
    """Messages and recipients in the spool files."""
    return _count(stack, "message") + _count(stack, "recipient")


def outbox_rows(stack: Stack) -> int:
    """Events in the spool files; one at least stays in each that ever had any."""
    return _count(stack, "outbox")


def _count(stack: Stack, table: str) -> int:
    """Rows of a table over all spool files, read by the sqlite3 module alone."""
    count = 0
    for index in range(len(stack.workers)):
        file = sqlite3.connect(f"file:{stack.options.path('spool', f'worker-{index}.db')}?mode=ro", uri=True)
        count += file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        file.close()
    return count
