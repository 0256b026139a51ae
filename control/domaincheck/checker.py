"""Checks a sender domain: challenge, DKIM keys, SPF, DMARC, return path, tracking.

Each check says what should be there, what was found instead, and what to do or what follows. All of a domain's checks
run side by side within one round of look-ups, so a dead nameserver costs ``lookup.ROUND_SECONDS`` and no more.

Errors: none for what the DNS has or does not answer; that is ``CheckState.ERROR``. ``DnsAway`` from ``dmarc_policy``.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from control.domaincheck.lookup import DnsAway, Lookup, Nameservers
from control.domaincheck.spf import Evaluation
from control.model import dnsrecords, spf, taglists
from control.model.checks import Check, CheckKind, CheckState, shown
from control.model.dnsrecords import DnsRecord, SendingPlan
from control.model.spf import Address, Result, SpfError
from control.model.taglists import Dmarc, DmarcPolicy, TagListError

MAX_ADDRESSES = 16
"""Sending addresses that SPF is evaluated for."""
MAX_PARENTS = 5
"""Names above a domain whose DMARC record is looked for."""


@dataclass(frozen=True, slots=True)
class PublishedKey:
    """The public side of a DKIM key; ``algorithm`` is "rsa" or "ed25519".

    One that was made here for the claim (``ours``) proves it like the challenge: nobody else could know its record, and
    who can publish that in the DNS has the domain. A key that a tenant brought says nothing, as others may have it.
    """

    selector: str
    algorithm: str
    public_key: bytes
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a domain's DNS should have. An empty challenge or host is not looked for.

    Its mail leaves from ``sources``, and from the hosts of the plan if ``from_hosts`` says so.
    """

    domain: str
    challenge: str
    signing_off: bool
    keys: tuple[PublishedKey, ...]
    return_path_host: str = ""
    tracking_host: str = ""
    sources: tuple[str, ...] = ()
    from_hosts: bool = True


class Checker:
    """Checks domains by the nameservers it is given."""

    def __init__(self, nameservers: Nameservers, plan: SendingPlan) -> None:
        self._nameservers = nameservers
        self.plan = plan

    async def check(self, wanted: Wanted) -> list[Check]:
        """Everything."""
        async with self._nameservers.begin() as lookup:
            return _proved(list(await asyncio.gather(*self._all(lookup, wanted))), wanted.keys)

    async def check_challenge(self, domain: str, challenge: str, keys: Sequence[PublishedKey] = ()) -> Check:
        """The proof of a claim alone: the challenge, or one of those ``keys`` that are ours."""
        ours = [key for key in keys if key.ours]
        async with self._nameservers.begin() as lookup:
            looks = [_challenge(lookup, dnsrecords.challenge(domain, challenge))]
            looks += [_dkim(lookup, domain, key) for key in ours]
            return _proved(list(await asyncio.gather(*looks)), ours)[0]

    async def check_keys(self, domain: str, keys: Sequence[PublishedKey]) -> list[Check]:
        """DKIM keys alone."""
        async with self._nameservers.begin() as lookup:
            return list(await asyncio.gather(*(_dkim(lookup, domain, key) for key in keys)))

    async def dmarc_policy(self, domain: str) -> DmarcPolicy:
        """What receivers do with unauthenticated mail from a domain; "none" for no record or a broken one."""
        try:
            async with self._nameservers.begin() as lookup:
                found = await _find_dmarc(lookup, domain)
            if found is None or len(found.texts) > 1:
                return DmarcPolicy.NONE
            record = taglists.dmarc(found.texts[0])
        except TagListError:
            return DmarcPolicy.NONE
        return record.policy if found.domain == domain else record.subdomain_policy

    def _all(self, lookup: Lookup, wanted: Wanted) -> list[Awaitable[Check]]:
        checks: list[Awaitable[Check]] = [
            *(_dkim(lookup, wanted.domain, key) for key in wanted.keys),
            _spf(lookup, wanted.domain, _plan_of(self.plan, wanted)),
            _dmarc(lookup, wanted.domain, wanted.signing_off),
        ]
        if wanted.challenge:
            checks.insert(0, _challenge(lookup, dnsrecords.challenge(wanted.domain, wanted.challenge)))
        if wanted.return_path_host:
            checks.append(_return_path(lookup, dnsrecords.return_path(wanted.return_path_host, self.plan)))
        if wanted.tracking_host:
            checks.append(_tracking(lookup, dnsrecords.tracking(wanted.tracking_host, self.plan)))
        return checks


def _proved(checks: list[Check], keys: Sequence[PublishedKey]) -> list[Check]:
    """The checks; that of the challenge, which is the first if there is one, passes if a key proves the claim."""
    ours = {key.selector for key in keys if key.ours}
    proof = next((check for check in checks if check.selector in ours and check.state is CheckState.OK), None)
    if proof is None or checks[0].kind is not CheckKind.CHALLENGE or checks[0].state is CheckState.OK:
        return checks
    text = f"the DKIM key at {proof.record.owner}, which was made for this claim, proves it as well"
    return [replace(checks[0], state=CheckState.OK, explanation=text), *checks[1:]]


def _plan_of(plan: SendingPlan, wanted: Wanted) -> SendingPlan:
    return replace(plan, hosts=plan.hosts if wanted.from_hosts else (), sources=wanted.sources)


async def _guarded(kind: CheckKind, record: DnsRecord, look: Callable[[], Awaitable[Check]]) -> Check:
    try:
        return await look()
    except DnsAway as error:
        return Check(kind, CheckState.ERROR, record, explanation=f"the DNS did not answer; try again ({error})")


async def _challenge(lookup: Lookup, record: DnsRecord) -> Check:
    async def look() -> Check:
        found = await lookup.texts(record.owner)
        if record.data in found:
            return Check(CheckKind.CHALLENGE, CheckState.OK, record)
        state = CheckState.MISMATCH if found else CheckState.MISSING
        said = f"it has instead: {'; '.join(shown(found))}" if found else "there is none yet"
        text = f'the TXT record at {record.owner} must be "{record.data}"; {said}. DNS changes take a while to be seen'
        return Check(CheckKind.CHALLENGE, state, record, shown(found), text)

    return await _guarded(CheckKind.CHALLENGE, record, look)


async def _dkim(lookup: Lookup, domain: str, key: PublishedKey) -> Check:
    record = dnsrecords.dkim(domain, key.selector, key.algorithm, key.public_key)

    def result(state: CheckState, found: Sequence[str], text: str = "") -> Check:
        return Check(CheckKind.DKIM, state, record, shown(found), text, key.selector)

    try:
        found = await lookup.texts(record.owner)
    except DnsAway as error:
        return result(CheckState.ERROR, (), f"the DNS did not answer; try again ({error})")
    if not found:
        return result(CheckState.MISSING, (), f"there is no TXT record at {record.owner}; publish it")
    if len(found) > 1:
        text = f"there are {len(found)} TXT records at {record.owner}, and receivers may take any; leave the right one"
        return result(CheckState.MISMATCH, found, text)
    difference = taglists.dkim_difference(found[0], key.algorithm, key.public_key)
    if difference:
        return result(CheckState.MISMATCH, found, f"{difference}; replace the TXT record at {record.owner}")
    return result(CheckState.OK, found)


async def _spf(lookup: Lookup, domain: str, plan: SendingPlan) -> Check:
    record = dnsrecords.spf(domain, plan)

    async def look() -> Check:
        found = [text for text in await lookup.texts(domain) if spf.is_spf(text)]
        if not found:
            text = f"there is no SPF record at {domain}; publish this one, with what else sends for the domain"
            return Check(CheckKind.SPF, CheckState.MISSING, record, (), text)
        try:
            trouble = await _spf_trouble(lookup, domain, found, plan)
        except _NotAllowed as error:
            if error.by_us:
                text = f"{error}: include:{plan.spf_include} does not name it; tell your provider"
                current = dnsrecords.spf(domain, plan, found[0])
                return Check(CheckKind.SPF, CheckState.MISMATCH, current, shown(found), text)
            trouble = str(error)
        if not trouble:
            return Check(CheckKind.SPF, CheckState.OK, dnsrecords.spf(domain, plan, found[0]), shown(found))
        return Check(CheckKind.SPF, CheckState.MISMATCH, *_spf_mend(domain, found, plan, trouble))

    return await _guarded(CheckKind.SPF, record, look)


def _spf_mend(domain: str, found: list[str], plan: SendingPlan, trouble: str) -> tuple[DnsRecord, tuple[str, ...], str]:
    """The record to publish instead, what was found, and what to do."""
    try:
        mended = spf.merged(found, plan.spf_mechanisms)
        text = f"{trouble}; replace {'all of them' if len(found) > 1 else 'it'} by: {mended}"
    except SpfError as error:
        mended = ""
        text = f"{trouble}; mend it ({error}), and add {' '.join(plan.spf_mechanisms)} after v=spf1"
    return dnsrecords.spf(domain, plan, mended), shown(found), text


async def _spf_trouble(lookup: Lookup, domain: str, found: list[str], plan: SendingPlan) -> str:
    """Why our hosts do not pass; empty: they do. Raises _NotAllowed for an address that the record is not for."""
    if len(found) > 1:
        return f"there are {len(found)} SPF records; RFC 7208 §4.5 allows one, and receivers take none of several"
    try:
        record = spf.parse(found[0])
        for address in await _sending_addresses(lookup, plan):
            result = await Evaluation(lookup, address).evaluate(record, domain)
            if result is not Result.PASS:
                raise _NotAllowed(address, result, by_us=bool(plan.spf_include) and _names_all(record, plan))
    except SpfError as error:
        return f"receivers cannot use it: {error}"
    except _NoAddresses as error:
        # Only the names can be compared then.
        if _names_all(record, plan):
            return ""
        return f"it does not name {' '.join(plan.spf_mechanisms)} ({error})"
    return ""


class _NotAllowed(Exception):
    """A sending address does not pass. ``by_us``: the record is as it should be, but for what it includes of ours."""

    def __init__(self, address: Address, result: Result, *, by_us: bool) -> None:
        super().__init__(f"the sending address {address} does not pass ({result})")
        self.by_us = by_us


class _NoAddresses(Exception):
    """The sending hosts have no addresses in the DNS."""


async def _sending_addresses(lookup: Lookup, plan: SendingPlan) -> list[Address]:
    found = await asyncio.gather(*(lookup.addresses(host) for host in plan.hosts))
    sources = map(ipaddress.ip_address, plan.sources)
    addresses = list(dict.fromkeys([*(address for some in found for address in some), *sources]))
    if not addresses:
        raise _NoAddresses(f"and {', '.join(plan.hosts)} has no address in the DNS to check it by")
    return addresses[:MAX_ADDRESSES]


def _names_all(record: spf.Record, plan: SendingPlan) -> bool:
    names = {
        f"{mechanism.name}:{mechanism.target.lower()}"
        for mechanism in record.mechanisms
        if mechanism.result is Result.PASS
    }
    return "all:" in names or names.issuperset(mechanism.lower() for mechanism in plan.spf_mechanisms)


@dataclass(frozen=True, slots=True)
class _FoundDmarc:
    domain: str
    texts: list[str]


async def _find_dmarc(lookup: Lookup, domain: str) -> _FoundDmarc | None:
    """The record of a domain, else of the nearest name above it that has one."""
    labels = domain.split(".")
    for start in range(min(max(1, len(labels) - 1), MAX_PARENTS)):
        name = ".".join(labels[start:])
        texts = [text for text in await lookup.texts(f"_dmarc.{name}") if taglists.is_dmarc(text)]
        if texts:
            return _FoundDmarc(name, texts)
    return None


async def _dmarc(lookup: Lookup, domain: str, signing_off: bool) -> Check:
    record = dnsrecords.dmarc(domain)

    async def look() -> Check:
        found = await _find_dmarc(lookup, domain)
        if found is None:
            text = f"there is no DMARC record at _dmarc.{domain}: large receivers ask bulk senders for one"
            return Check(CheckKind.DMARC, CheckState.MISSING, record, (), text)
        if len(found.texts) > 1:
            text = f"there are {len(found.texts)} DMARC records at _dmarc.{found.domain}, so none counts; leave one"
            return Check(CheckKind.DMARC, CheckState.MISMATCH, record, shown(found.texts), text)
        try:
            meaning = taglists.dmarc(found.texts[0])
        except TagListError as error:
            text = f"the DMARC record at _dmarc.{found.domain} does not count: {error}"
            return Check(CheckKind.DMARC, CheckState.MISMATCH, record, shown(found.texts), text)
        current = dnsrecords.dmarc(found.domain, found.texts[0])
        text = _consequences(meaning, domain, found.domain, signing_off)
        return Check(CheckKind.DMARC, CheckState.OK, current, shown(found.texts), text)

    return await _guarded(CheckKind.DMARC, record, look)


def _consequences(meaning: Dmarc, domain: str, found_at: str, signing_off: bool) -> str:
    policy = meaning.policy if found_at == domain else meaning.subdomain_policy
    said = [f"the policy for {domain} is {policy}" + ("" if found_at == domain else f", from _dmarc.{found_at}")]
    if signing_off:
        scope = "exactly this domain" if meaning.strict_spf else "this domain or one below the same organisation"
        said.append(f"messages are not signed here, so they pass by a signature of their own, or by SPF of {scope}")
    else:
        said.append(f"messages are signed with d={domain}, which aligns under strict and relaxed rules")
    if policy is DmarcPolicy.NONE:
        said.append("receivers only report; quarantine or reject protects the domain")
    if not meaning.reports:
        said.append("there is no rua=, so nobody gets reports")
    return "; ".join(said)


async def _return_path(lookup: Lookup, record: DnsRecord) -> Check:
    async def look() -> Check:
        alias, exchangers = await asyncio.gather(lookup.alias(record.owner), lookup.exchangers(record.owner))
        if record.data in (alias, *exchangers):
            return Check(CheckKind.RETURN_PATH, CheckState.OK, record)
        # The MX records behind an alias are its target's: only one of both is to be shown.
        found = [f"CNAME {alias}"] if alias else [f"MX {host}" for host in exchangers]
        if not found:
            text = f"{record.owner} has neither a CNAME nor an MX record; publish a CNAME record to {record.data}"
            return Check(CheckKind.RETURN_PATH, CheckState.MISSING, record, (), text)
        text = f"{record.owner} leads to {found[0].partition(' ')[2]} instead of {record.data}; bounces get lost there"
        return Check(CheckKind.RETURN_PATH, CheckState.MISMATCH, record, shown(found), text)

    return await _guarded(CheckKind.RETURN_PATH, record, look)


async def _tracking(lookup: Lookup, record: DnsRecord) -> Check:
    async def look() -> Check:
        alias = await lookup.alias(record.owner)
        if alias == record.data:
            return Check(CheckKind.TRACKING, CheckState.OK, record)
        if not alias:
            text = f"{record.owner} has no CNAME record; publish one to {record.data}"
            return Check(CheckKind.TRACKING, CheckState.MISSING, record, (), text)
        text = f"{record.owner} leads to {alias} instead of {record.data}"
        return Check(CheckKind.TRACKING, CheckState.MISMATCH, record, (f"CNAME {alias}",), text)

    return await _guarded(CheckKind.TRACKING, record, look)
