"""Static routes, MX, implicit MX and null MX (RFC 5321 §5.1, RFC 7505).

``Router.cached`` answers at once when it can, which is nearly always; ``Router.resolve`` asks the DNS. Routes are kept
for ``ROUTE_SECONDS``, failures for less.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mta.routing.ports import DnsFailure, MxRecord, NameMissing, Resolver
from mta.runtime.log import get_logger

log = get_logger(__name__)

ROUTE_SECONDS = 300.0
"""A route found through the DNS is used this long."""
FAILURE_SECONDS = 30.0
"""That there is nowhere to go is remembered so long: a queue for a dead name must not ask once per message."""
OUTAGE_SECONDS = 5.0
"""That the DNS gave no answer, this long: what comes in when it works again should not have to wait for its retry."""
MAX_ROUTES = 100_000
"""Routes kept at most."""
MAX_HOSTS = 20
"""Hosts of a route: a zone with a thousand MX records must not keep us busy."""


class TlsPolicy(StrEnum):
    """How a connection of a route speaks TLS."""

    OPPORTUNISTIC = "starttls"
    REQUIRED = "starttls-required"
    NEVER = "none"
    IMPLICIT = "implicit"


@dataclass(frozen=True, slots=True)
class Host:
    """A server to try. A ``configured`` one is named in the options and may be on a private network."""

    name: str
    port: int
    configured: bool


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a server is logged in to with."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """Where connections come from, and what they call themselves."""

    source_id: str
    address: str
    ehlo_name: str


@dataclass(frozen=True, slots=True)
class Route:
    """Where to go. Domains with the same ``site`` share queues, connections and limits."""

    site: str
    hosts: tuple[Host, ...]
    """In the order to try them."""
    tls: TlsPolicy
    verify: bool = False
    """The servers' certificates must be valid for their names."""
    credentials: Credentials | None = None
    provider: str = ""
    """Key of the SMTP provider this is the way to; empty: none."""
    source: SourceAddress | None = None
    """None: the machine's default address and name."""


@dataclass(frozen=True, slots=True)
class RouteFailure:
    """There is nowhere to go, now or for good."""

    permanent: bool
    code: int
    enhanced: str
    text: str


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """One configured route; ``domain`` is exact, ".suffix" or "*"."""

    domain: str
    host: str
    port: int
    tls: TlsPolicy


class Router:
    """Finds and keeps routes."""

    def __init__(self, static: Sequence[StaticRoute], resolver: Resolver, port: int) -> None:
        self._static = {route.domain.lower(): _static_route(route) for route in static}
        self._resolver = resolver
        self._port = port
        self._kept: dict[str, tuple[Route | RouteFailure, float]] = {}

    def cached(self, domain: str) -> Route | RouteFailure | None:
        """The answer for a domain if it is at hand."""
        kept = self._kept.get(domain)
        if kept is not None and kept[1] > time.monotonic():
            return kept[0]
        route = self._configured(domain)
        if route is not None:
            self._keep(domain, route, ROUTE_SECONDS)
        return route

    async def resolve(self, domain: str) -> Route | RouteFailure:
        """The answer for a domain; asks the DNS if need be. Never raises."""
        answer = self.cached(domain)
        if answer is None:
            answer = await self._look_up(domain)
            self._keep(domain, answer, _seconds(answer))
        return answer

    def _keep(self, domain: str, answer: Route | RouteFailure, seconds: float) -> None:
        if len(self._kept) >= MAX_ROUTES:
            self._kept.clear()
        self._kept[domain] = (answer, time.monotonic() + seconds)

    def _configured(self, domain: str) -> Route | None:
        found = self._static.get(domain)
        rest = domain
        while found is None and "." in rest:
            rest = rest.partition(".")[2]
            found = self._static.get("." + rest)
        return found or self._static.get("*")

    async def _look_up(self, domain: str) -> Route | RouteFailure:
        try:
            records = await self._resolver.mx(domain)
            if not records:
                return await self._implicit(domain)
        except NameMissing:
            return RouteFailure(True, 550, "5.1.2", f"the domain {domain} does not exist")
        except DnsFailure as error:
            return RouteFailure(False, 451, "4.4.3", f"the DNS gave no answer for {domain}: {error}")
        except Exception:
            log.exception("route_broke", domain=domain)
            return RouteFailure(False, 451, "4.4.3", f"the way to {domain} could not be found")
        return self._from_mx(domain, records)

    def _from_mx(self, domain: str, records: tuple[MxRecord, ...]) -> Route | RouteFailure:
        named = [record for record in records if record.host]
        if not named:
            # RFC 7505 §3: a null MX alone says that the domain takes no mail.
            return RouteFailure(True, 556, "5.1.10", f"the domain {domain} accepts no mail (null MX)")
        # RFC 5321 §5.1: by preference, those of equal preference in random order.
        named.sort(key=lambda record: (record.preference, random.random()))  # noqa: S311 (load spreading, no secret)
        hosts = tuple(Host(record.host, self._port, False) for record in named[:MAX_HOSTS])
        return Route(_site(named[:MAX_HOSTS]), hosts, TlsPolicy.OPPORTUNISTIC)

    async def _implicit(self, domain: str) -> Route | RouteFailure:
        """RFC 5321 §5.1: without MX records the domain itself is the host."""
        if not await self._resolver.addresses(domain):
            return RouteFailure(True, 550, "5.1.2", f"the domain {domain} has no mail server and no address")
        return Route(f"mx:{domain}", (Host(domain, self._port, False),), TlsPolicy.OPPORTUNISTIC)


def _seconds(answer: Route | RouteFailure) -> float:
    if isinstance(answer, Route):
        return ROUTE_SECONDS
    return FAILURE_SECONDS if answer.permanent else OUTAGE_SECONDS


def _site(records: Sequence[MxRecord]) -> str:
    """The hosts by preference: domains that would try the same hosts in another order are another site."""
    ranks: dict[int, set[str]] = {}
    for record in records:
        ranks.setdefault(record.preference, set()).add(record.host)
    return "mx:" + ">".join(",".join(sorted(ranks[preference])) for preference in sorted(ranks))


def _static_route(route: StaticRoute) -> Route:
    return Route(f"route:{route.host}:{route.port}:{route.tls}", (Host(route.host, route.port, True),), route.tls)
