"""Looks at the DNS of every domain once an hour, and does what follows from it.

What was found is kept with the domain. A claim whose challenge is there is verified. A verified domain whose challenge
is gone stays verified and is marked. A domain that rotates its keys by itself gets new ones when they are due, and
switches to them when their records are there. Once in a while, what is old is cleared away.

Several control programs share the work: each look is claimed in the database. One domain that cannot be dealt with
holds up no other. Limits: one event loop; ``AT_ONCE`` domains at a time.
"""

import asyncio
import time
from datetime import UTC, datetime

from prometheus_client import Counter

from control import rotation
from control.database import FAILURES, Connection, Database
from control.domaincheck import subject
from control.domaincheck.checker import Checker
from control.model.checks import Check, CheckKind, CheckState, state_of
from control.sealing import Sealer
from control.store import dkim_keys, domains, senders, sending
from control.store.domains import Domain
from mta.runtime.log import get_logger

log = get_logger(__name__)

PAUSE_SECONDS = 15.0
"""Between looks for domains that are due."""
AT_ONCE = 32
"""Domains looked at at once, and claimed at once, so that a stop leaves few of them waiting for the next hour."""
CLEAR_SECONDS = 3600.0

_looks = Counter("barua_control_domain_checks_total", "Hourly looks at the DNS of a domain, by result.", ["result"])


class DomainSweep:
    """The task."""

    def __init__(self, database: Database, sealer: Sealer, checker: Checker) -> None:
        self._database = database
        self._sealer = sealer
        self._checker = checker
        self._clear_at = 0.0

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                while await self.look_at_due():
                    pass
                await self._clear()
            except FAILURES as error:
                log.warning("domain_checks_postponed", error=type(error).__name__, text=str(error))
            await asyncio.sleep(PAUSE_SECONDS)

    async def look_at_due(self) -> int:
        """Look at some of the domains that are due; how many they were."""
        due = await self._database.transact(lambda connection: domains.claim_due(connection, AT_ONCE))
        await asyncio.gather(*map(self._guarded, due))
        return len(due)

    async def _guarded(self, domain: Domain) -> None:
        try:
            await self._look(domain)
            _looks.labels("done").inc()
        except FAILURES as error:
            _looks.labels("failed").inc()
            log.warning("domain_check_failed", domain=domain.domain, error=type(error).__name__, text=str(error))
        except Exception:  # what one domain's DNS holds must not keep the others from being looked at
            _looks.labels("failed").inc()
            log.exception("domain_check_broke", domain=domain.domain)

    async def _look(self, domain: Domain) -> None:
        ways = await self._database.transact(lambda c: sending.ways_of(c, domain.tenant_id, domain.domain))
        found = await self._checker.check(subject.wanted(domain, ways))
        kept = await self._database.transact(lambda connection: domains.keep_checks(connection, domain, found))
        if not kept.verified:
            if state_of(found, CheckKind.CHALLENGE) is CheckState.OK:
                await self._database.transact(lambda connection: domains.mark_verified(connection, domain))
                log.info("domain_verified", domain=domain.domain, tenant=domain.tenant_id)
            return
        if kept.settings.rotation_days:
            await self._rotate(kept, found)

    async def _rotate(self, domain: Domain, found: list[Check]) -> None:
        waiting = dkim_keys.awaited(domain.keys)
        if waiting:
            there = {check.selector for check in found if check.kind is CheckKind.DKIM and check.state is CheckState.OK}
            if not there.issuperset(key.selector for key in waiting):
                return

            async def finish(connection: Connection) -> None:
                locked = await domains.get(connection, domain.tenant_id, domain.domain, lock=True)
                await rotation.finish(connection, locked, waiting)

            await self._database.transact(finish)
            log.info("dkim_keys_rotated", domain=domain.domain, selectors=[key.selector for key in waiting])
        elif rotation.is_due(domain, datetime.now(UTC)):
            new = await rotation.successors(self._sealer, domain)

            async def begin(connection: Connection) -> None:
                locked = await domains.get(connection, domain.tenant_id, domain.domain, lock=True)
                await rotation.begin(connection, locked, new)

            await self._database.transact(begin)
            log.info("dkim_keys_made", domain=domain.domain, selectors=[key.selector for key in new])

    async def _clear(self) -> None:
        if time.monotonic() < self._clear_at:
            return
        self._clear_at = time.monotonic() + CLEAR_SECONDS
        await self._database.transact(dkim_keys.delete_old)
        await self._database.transact(senders.forget_codes)
