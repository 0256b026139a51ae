"""Works on lists that wait to be validated, a piece of one at a time, so that a long list delays a short one little.

Several control programs share the work: each takes a list for the length of a piece. A program that dies in the middle
leaves its list to the others after ``CLAIM_SECONDS``; a piece that is checked twice counts once.
"""

import asyncio

from prometheus_client import Counter

from control.addresslists.load import load
from control.database import FAILURES, Connection, Database
from control.maildomains import MailDomains
from control.model.caller import ROOT_TENANT
from control.services import validationshapes as shapes
from control.services.validator import Validator
from control.store import listvalidations, tenants
from control.store.listvalidations import Checked, ListValidation
from control.store.tenants import Tenant
from mta.runtime.log import get_logger
from mta.runtime.options import Options
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

PIECE = 500
"""Addresses checked before the next list has its turn."""
CLAIM_SECONDS = 120.0
"""Longer than a piece takes, whatever the DNS does."""
POLL_SECONDS = 1.0
"""Between looks for a list, when there was none."""
CLEAN_SECONDS = 600.0
"""Between looks for lists that are too old."""

_validated = Counter("barua_control_addresses_validated_total", "Addresses of lists that got their verdict.")


def new_validator(options: Options, database: Database) -> Validator:
    """A validator with the lists and nameservers of the options. Raises OptionsError for a list that cannot be read."""
    wanted = options.control.validation
    domains = MailDomains(options.control.dns_nameservers, wanted.dns_timeout_seconds)
    return Validator(database, domains, load(wanted))


class ValidationJobs:
    """The worker of one control program."""

    def __init__(self, database: Database, validator: Validator, kept_days: int) -> None:
        self._database = database
        self._validator = validator
        self._kept_days = kept_days

    async def run(self) -> None:
        """Work for ever."""
        cleaned = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            try:
                if clock() - cleaned > CLEAN_SECONDS:
                    cleaned = clock()
                    await self._database.transact(lambda c: listvalidations.remove_old(c, self._kept_days))
                worked = await self._work()
            except FAILURES as error:
                log.warning("validation_postponed", error=type(error).__name__, text=str(error))
                worked = False
            except Exception:  # a mistake about one list must not end the others
                log.exception("validation_broke")
                worked = False
            if not worked:
                await asyncio.sleep(POLL_SECONDS)

    async def _work(self) -> bool:
        """Check the next piece of the list that waited longest; False if none waits."""
        found = await self._database.transact(lambda c: listvalidations.claim(c, CLAIM_SECONDS))
        if found is None:
            return False
        tenant, lines = await self._database.transact(lambda c: _read(c, found))
        if tenant is None:
            await self._database.transact(lambda c: listvalidations.delete(c, found.tenant_id, found.validation_id))
            return True
        judged = await self._validator.validate(tenant, [address for _, address in lines], found.stream)
        checked = [
            Checked(line, entry.verdict.value, shapes.to_validation(entry, line).SerializeToString())
            for (line, _), entry in zip(lines, judged, strict=True)
        ]
        await self._database.transact(lambda c: listvalidations.record(c, found, checked))
        _validated.inc(len(checked))
        return True


async def _read(connection: Connection, found: ListValidation) -> tuple[Tenant | None, list[tuple[int, str]]]:
    """The tenant, None if it is gone, and the lines to check."""
    try:
        tenant = await tenants.visible(connection, ROOT_TENANT, found.tenant_id)
    except Refusal as refusal:
        if refusal.reason is not Reason.NOT_FOUND:
            raise
        return None, []
    return tenant, await listvalidations.next_lines(connection, found, PIECE)
