"""Rotation of DKIM keys: new keys beside the active ones, and the switch once their records are in the DNS.

Used by the service, for callers, and by ``domainsweep``, for domains that rotate by themselves. Functions with a
connection change a domain that is locked (``domains.get`` with ``lock``).

Errors: FAILED_PRECONDITION if the keys are not the ones that were looked at.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from control import dkimkeys
from control.database import Connection
from control.dkimkeys import Algorithm, KeyPair
from control.model.apikeys import random_name
from control.sealing import Sealer
from control.store import dkim_keys, domains
from control.store.dkim_keys import DkimKey, NewKey
from control.store.domains import Domain
from mta.runtime.refusals import Reason, Refusal


def sealed(sealer: Sealer, pair: KeyPair, tenant_id: str, domain: str, *, rotation: bool = False) -> NewKey:
    """A key pair as it is kept."""
    private = sealer.seal(pair.private_key, tenant_id, domain, pair.selector)
    return NewKey(pair.selector, pair.algorithm, pair.bits, pair.public_key, private, pair.imported, rotation)


async def successors(sealer: Sealer, domain: Domain) -> list[NewKey]:
    """A new key for each active one, of its kind and length; weak ones get the usual length."""
    mark = random_name(6)
    made = []
    for key in dkim_keys.active(domain.keys):
        algorithm = Algorithm(key.algorithm)
        bits = key.bits if key.bits in dkimkeys.RSA_BITS else dkimkeys.checked_bits(algorithm, 0)
        pair = await dkimkeys.generate_one(algorithm, bits, dkimkeys.new_selector(algorithm, mark))
        made.append(sealed(sealer, pair, domain.tenant_id, domain.domain, rotation=True))
    return made


async def begin(connection: Connection, domain: Domain, new: Sequence[NewKey]) -> list[DkimKey]:
    """Keep the new keys, unless a rotation has begun meanwhile."""
    if dkim_keys.awaited(domain.keys):
        raise changed_meanwhile()
    return await dkim_keys.insert(connection, domain.tenant_id, domain.domain, new)


async def finish(connection: Connection, domain: Domain, looked_at: Sequence[DkimKey]) -> list[DkimKey]:
    """Switch to the keys of a rotation whose records were found, if they are still the ones that wait."""
    if _identity(dkim_keys.awaited(domain.keys)) != _identity(looked_at):
        raise changed_meanwhile()
    return await switch(connection, domain, looked_at)


async def switch(connection: Connection, domain: Domain, keys: Sequence[DkimKey]) -> list[DkimKey]:
    """Sign with these keys from now on; log it."""
    made = await dkim_keys.activate(connection, domain.tenant_id, domain.domain, [key.selector for key in keys])
    await domains.log_change(connection, domain.domain)
    return made


def is_due(domain: Domain, now: datetime) -> bool:
    """Whether a domain that rotates by itself needs new keys."""
    if not domain.verified or not domain.settings.rotation_days or dkim_keys.awaited(domain.keys):
        return False
    oldest = min((key.activated_at for key in dkim_keys.active(domain.keys) if key.activated_at), default=None)
    return oldest is not None and oldest + timedelta(days=domain.settings.rotation_days) <= now


def changed_meanwhile() -> Refusal:
    """The refusal for keys that are not the ones that were looked at."""
    text = "the keys of this domain were changed at the same moment; look at them and try again"
    return Refusal(Reason.FAILED_PRECONDITION, text)


def _identity(keys: Sequence[DkimKey]) -> dict[str, bytes]:
    return {key.selector: key.public_key for key in keys}
