"""Routes by table and by a real DNS server: whom to ask, in what order, and when there is nobody."""

from collections.abc import Callable

import pytest

from mta.resolver.dns import DnsResolver
from mta.routing import router
from mta.routing.ports import MxRecord
from mta.routing.router import MAX_HOSTS, Host, Route, RouteFailure, Router, StaticRoute, TlsPolicy
from tests.support.dns import DnsServer, Failure


def routes(server: DnsServer, *static: StaticRoute, timeout_seconds: float = 20.0) -> Router:
    """A router that asks the test's server."""
    return Router(static, DnsResolver([("127.0.0.1", server.port)], timeout_seconds, 1000, 3600), 25)


async def found(made: Router, domain: str = "example.net") -> Route:
    """The route, which must be there."""
    answer = await made.resolve(domain)
    assert isinstance(answer, Route), answer
    return answer


async def missing(made: Router, domain: str = "example.net") -> RouteFailure:
    """Why there is no route."""
    answer = await made.resolve(domain)
    assert isinstance(answer, RouteFailure), answer
    return answer


def names(route: Route) -> list[str]:
    """Hosts in the order to try them."""
    return [host.name for host in route.hosts]


async def test_hosts_are_tried_by_preference(dns_server: DnsServer) -> None:
    dns_server.set("example.net", "MX", "30 c.example.net.", "10 a.example.net.", "20 b.example.net.")
    route = await found(routes(dns_server))
    assert names(route) == ["a.example.net", "b.example.net", "c.example.net"]
    assert route.hosts[0] == Host("a.example.net", 25, False)
    assert route.tls is TlsPolicy.OPPORTUNISTIC


async def test_equal_preference_is_shared_out(dns_server: DnsServer) -> None:
    dns_server.set("example.net", "MX", "10 a.example.net.", "10 b.example.net.", "20 last.example.net.")
    orders = {tuple(names(await found(routes(dns_server)))) for _ in range(40)}
    assert orders == {
        ("a.example.net", "b.example.net", "last.example.net"),
        ("b.example.net", "a.example.net", "last.example.net"),
    }


async def test_the_site_does_not_depend_on_chance_and_is_shared_by_domains(dns_server: DnsServer) -> None:
    for domain in ("example.net", "other.test"):
        dns_server.set(domain, "MX", "10 B.hosting.test.", "10 a.hosting.test.", "20 c.hosting.test.")
    dns_server.set("reversed.test", "MX", "20 a.hosting.test.", "20 b.hosting.test.", "10 c.hosting.test.")
    sites = {
        (await found(routes(dns_server), domain)).site for domain in ("example.net", "other.test") for _ in range(9)
    }
    assert len(sites) == 1
    assert (await found(routes(dns_server), "reversed.test")).site not in sites


async def test_without_mx_the_domain_itself_is_the_host(dns_server: DnsServer) -> None:
    dns_server.set("plain.test", "A", "192.0.2.1")
    dns_server.set("six.test", "AAAA", "2001:db8::1")
    for domain in ("plain.test", "six.test"):
        assert names(await found(routes(dns_server), domain)) == [domain]


async def test_a_name_without_mail_or_address_is_final(dns_server: DnsServer) -> None:
    dns_server.set("empty.test", "TXT", '"nothing here"')
    failure = await missing(routes(dns_server), "empty.test")
    assert (failure.permanent, failure.code, failure.enhanced) == (True, 550, "5.1.2")


async def test_a_name_that_does_not_exist_is_final(dns_server: DnsServer) -> None:
    failure = await missing(routes(dns_server), "nowhere.test")
    assert (failure.permanent, failure.code, failure.enhanced) == (True, 550, "5.1.2")
    assert "nowhere.test" in failure.text


async def test_a_null_mx_is_final(dns_server: DnsServer) -> None:
    dns_server.set("example.net", "MX", "0 .")
    dns_server.set("example.net", "A", "127.0.0.1")
    failure = await missing(routes(dns_server))
    assert (failure.permanent, failure.code, failure.enhanced) == (True, 556, "5.1.10")


async def test_a_null_mx_beside_others_is_passed_over(dns_server: DnsServer) -> None:
    dns_server.set("example.net", "MX", "0 .", "10 mx.example.net.")
    assert names(await found(routes(dns_server))) == ["mx.example.net"]


@pytest.mark.parametrize("failure", [Failure.SERVFAIL, Failure.REFUSED, Failure.DROP])
async def test_a_dns_that_gives_no_answer_is_never_final(dns_server: DnsServer, failure: Failure) -> None:
    dns_server.fail("example.net", failure)
    dns_server.set("example.net", "A", "127.0.0.1")
    answer = await missing(routes(dns_server, timeout_seconds=0.3))
    assert (answer.permanent, answer.code, answer.enhanced) == (False, 451, "4.4.3")


async def test_an_error_never_becomes_an_implicit_mx(dns_server: DnsServer) -> None:
    """With the MX look-up failing, the address must not be used."""
    dns_server.fail("example.net", Failure.SERVFAIL)
    answer = await missing(routes(dns_server))
    assert not answer.permanent
    assert dns_server.count("example.net", "A") == 0


async def test_an_address_look_up_that_fails_is_not_final(dns_server: DnsServer) -> None:
    """The name exists and has no MX; whether it has an address, nobody can say."""
    resolver = DnsResolver([("127.0.0.1", dns_server.port)], 1.0, 1000, 3600)
    made = Router((), resolver, 25)
    dns_server.set("half.test", "TXT", '"x"')
    await resolver.mx("half.test")
    dns_server.fail("half.test", Failure.SERVFAIL)
    assert not (await missing(made, "half.test")).permanent


async def test_a_thousand_mx_are_cut(dns_server: DnsServer) -> None:
    dns_server.set("example.net", "MX", *(f"{number} mx{number}.example.net." for number in range(1000)))
    assert names(await found(routes(dns_server))) == [f"mx{number}.example.net" for number in range(MAX_HOSTS)]


async def test_an_alias_is_followed(dns_server: DnsServer) -> None:
    dns_server.set("alias.test", "CNAME", "example.net.")
    assert names(await found(routes(dns_server), "alias.test")) == ["mx.example.net"]


async def test_a_circle_of_aliases_is_no_hang(dns_server: DnsServer) -> None:
    dns_server.set("one.test", "CNAME", "two.test.")
    dns_server.set("two.test", "CNAME", "one.test.")
    assert isinstance(await routes(dns_server).resolve("one.test"), RouteFailure)


async def test_a_truncated_answer_is_asked_for_again_over_tcp(dns_server: DnsServer) -> None:
    dns_server.fail("example.net", Failure.TRUNCATE)
    assert names(await found(routes(dns_server))) == ["mx.example.net"]


async def test_an_international_domain_is_asked_for_by_its_a_labels(dns_server: DnsServer) -> None:
    dns_server.set("xn--bcher-kva.test", "MX", "10 mx.xn--bcher-kva.test.")
    assert names(await found(routes(dns_server), "xn--bcher-kva.test")) == ["mx.xn--bcher-kva.test"]


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a.",
        "x" * 64 + ".test",
        ".".join(["a" * 60] * 6),
        "ü.test",
        "a b",
        "[192.0.2.1]",
        "\\",
    ],
)
async def test_no_name_is_an_exception(dns_server: DnsServer, domain: str) -> None:
    assert isinstance(await routes(dns_server, timeout_seconds=1.0).resolve(domain), Route | RouteFailure)


async def test_a_resolver_that_breaks_is_no_exception(dns_server: DnsServer) -> None:
    class Broken(DnsResolver):
        async def mx(self, domain: str) -> tuple[MxRecord, ...]:
            raise RuntimeError("a mistake of ours")

    failure = await missing(Router((), Broken([("127.0.0.1", 1)], 1, 100, 100), 25))
    assert not failure.permanent
    assert "mistake" not in failure.text


# -- static routes -----------------------------------------------------------------------------------------------------


def static(domain: str, host: str = "192.0.2.1", port: int = 2525, tls: TlsPolicy = TlsPolicy.NEVER) -> StaticRoute:
    """A configured route."""
    return StaticRoute(domain, host, port, tls)


@pytest.mark.parametrize(
    ("domain", "host"),
    [
        ("example.net", "exact"),
        ("sub.example.net", "suffix"),
        ("deep.sub.example.net", "suffix"),
        ("special.sub.example.net", "special"),
        ("example.org", "star"),
        ("notexample.net", "star"),
        ("net", "star"),
    ],
)
async def test_the_nearest_static_route_counts(dns_server: DnsServer, domain: str, host: str) -> None:
    made = routes(
        dns_server,
        static("*", "star"),
        static(".example.net", "suffix"),
        static("Example.NET", "exact"),
        static("special.sub.example.net", "special"),
    )
    route = await found(made, domain)
    assert route.hosts == (Host(host, 2525, True),)
    assert route.tls is TlsPolicy.NEVER
    assert made.cached(domain) is route
    assert not dns_server.queries


async def test_without_a_star_the_dns_decides(dns_server: DnsServer) -> None:
    made = routes(dns_server, static(".example.org"))
    assert made.cached("example.net") is None
    assert names(await found(made)) == ["mx.example.net"]


async def test_routes_to_one_target_share_a_site_if_they_speak_tls_alike(dns_server: DnsServer) -> None:
    made = routes(dns_server, static("a.test"), static("b.test"), static("c.test", tls=TlsPolicy.IMPLICIT))
    a, b, c = [await found(made, domain) for domain in ("a.test", "b.test", "c.test")]
    assert a.site == b.site != c.site


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_a_route_is_kept(dns_server: DnsServer) -> None:
    made = routes(dns_server)
    first = await found(made)
    assert made.cached("example.net") is first
    assert await found(made) is first
    assert dns_server.count("example.net", "MX") == 1


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("FAILURE_SECONDS", lambda server: server.set("example.net", "MX")),
        ("OUTAGE_SECONDS", lambda server: server.fail("example.net", Failure.SERVFAIL)),
    ],
)
async def test_a_failure_is_kept_for_a_while(
    dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Callable[[DnsServer], None]
) -> None:
    monkeypatch.setattr(router, name, 60.0)
    spoil(dns_server)
    resolver = DnsResolver([("127.0.0.1", dns_server.port)], 20.0, 1000, 3600)
    made = Router((), resolver, 25)
    await missing(made)
    asked = dns_server.count("example.net", "MX")
    await missing(made)
    assert dns_server.count("example.net", "MX") == asked
    assert isinstance(made.cached("example.net"), RouteFailure)
    answer, until = made._kept["example.net"]
    made._kept["example.net"] = answer, until - 60.0
    assert made.cached("example.net") is None


async def test_memory_is_bounded(dns_server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "MAX_ROUTES", 10)
    made = routes(dns_server, static("*"))
    for number in range(100):
        await found(made, f"d{number}.test")
    assert len(made._kept) <= 10
