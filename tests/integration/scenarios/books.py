"""The books of an installation after a scenario: what was accepted, delivered, charged, recorded and queued agrees."""

import sqlite3

from tests.integration.scenarios.load import Load
from tests.support.fastsink import FastSink
from tests.support.stack import ACCOUNT, ACCOUNT_CREDITS, Stack
from tests.support.waiting import wait_until


def check(stack: Stack, sink: FastSink, load: Load, *, tenant: str = ACCOUNT, granted: int = ACCOUNT_CREDITS) -> None:
    """Wait until all is delivered and told, then compare. Every message of ``load`` has one recipient.

    No loss: whatever was answered 250 is at the sink. No ghost: the sink has nothing else but attempts that were never
    answered. Credits: one per different message at the sink, and the ledger adds up. History: one record each.
    """
    stack.wait_until_empty(60)
    delivered = set(sink.copies)
    assert load.accepted - delivered == set(), "answered 250 and not delivered"
    assert delivered - load.accepted - load.unanswered == set(), "delivered and never sent"
    operator = stack.operator
    wait_until(lambda: operator.balance(tenant).consumed >= len(delivered), "control knows of all usage", 60)
    balance = operator.balance(tenant)
    assert balance.consumed == len(delivered)
    assert balance.available + balance.reserved == granted - len(delivered)
    stack.wait_for_history(tenant, len(delivered), 60)
    records = operator.history(tenant)
    assert len(records) == len(delivered)
    assert {record.state for record in records} == {2}, "not all are recorded as delivered"
    assert queued_rows(stack) == 0


def queued_rows(stack: Stack) -> int:
    """Messages and recipients in the spool files, read by the sqlite3 module alone."""
    count = 0
    for index in range(len(stack.workers)):
        with sqlite3.connect(f"file:{stack.options.path('spool', f'worker-{index}.db')}?mode=ro", uri=True) as file:
            (found,) = file.execute("SELECT (SELECT count(*) FROM message) + (SELECT count(*) FROM recipient)")
        file.close()
        count += found[0]
    return count
