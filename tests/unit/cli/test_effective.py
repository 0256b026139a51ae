"""The configuration that `barua up` writes for its children."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from control.supervisor import effective
from mta.runtime.options import (
    BootstrapDomain,
    BootstrapOptions,
    BootstrapTenant,
    ControlOptions,
    ListenerOptions,
    MtaOptions,
    NodeOptions,
    Options,
    RouteOptions,
    TlsFiles,
    TlsMode,
    TrustedNetwork,
    load,
)

TLS = TlsFiles(certificate_file="/tls/server.pem", key_file="/tls/server.key")


def test_defaults_survive_the_round_trip(tmp_path: Path) -> None:
    options = effective.derive(Options(home=str(tmp_path)), TlsFiles())
    file = effective.write(options)
    assert load(file, {}) == options
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_nested_options_survive_the_round_trip(tmp_path: Path) -> None:
    options = Options(
        home=str(tmp_path),
        mta=MtaOptions(
            routes=[RouteOptions(domain="*", target="[::1]:25", tls=TlsMode.NONE)],
            listeners=[
                ListenerOptions(listen="127.0.0.1:25", trusted=[TrustedNetwork(network="10.0.0.0/8", tenant="shop")])
            ],
        ),
        bootstrap=BootstrapOptions(tenants=[BootstrapTenant(id="shop", domains=[BootstrapDomain(name="shop.test")])]),
    )
    assert load(effective.write(options), {}) == options


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_round_trip(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("effective") / "options.toml"
    options = replace(Options(), mta=MtaOptions(hostname=text))
    file.write_text(effective.to_toml(options), encoding="utf-8")
    assert load(file, {}).mta.hostname == text


def test_demo_sends_everything_to_the_inbox_whatever_the_file_says() -> None:
    own = [RouteOptions(domain="example.com", target="mx.example.com:25")]
    derived = effective.derive(Options(demo=True, mta=MtaOptions(routes=own)), TLS)
    assert derived.mta.routes == [RouteOptions(domain="*", target="127.0.0.1:2526", tls=TlsMode.NONE)]
    assert derived.mta.tls == TLS
    assert [listener.plaintext_auth for listener in derived.mta.listeners] == [True, False]


def test_demo_asks_its_own_dns_unless_the_file_names_another() -> None:
    assert effective.derive(Options(demo=True), TLS).control.dns_nameservers == ["127.0.0.1:8053"]
    assert effective.derive(Options(), TLS).control.dns_nameservers == []
    named = Options(demo=True, control=ControlOptions(dns_nameservers=["192.0.2.1:53"]))
    assert effective.derive(named, TLS).control.dns_nameservers == ["192.0.2.1:53"]


def test_without_demo_routes_and_certificates_stay() -> None:
    own = [RouteOptions(domain="example.com", target="mx.example.com:25")]
    derived = effective.derive(Options(mta=MtaOptions(routes=own)), TlsFiles())
    assert derived.mta.routes == own
    assert not derived.mta.tls.certificate_file
    assert not any(listener.plaintext_auth for listener in derived.mta.listeners)


def test_programs_find_control_where_it_listens() -> None:
    derived = effective.derive(Options(control=ControlOptions(listen="0.0.0.0:9000")), TlsFiles())
    assert derived.node.control_address == derived.bridge.control_address == "127.0.0.1:9000"
    elsewhere = Options(node=NodeOptions(control_address="control.example:7070"))
    assert effective.derive(elsewhere, TlsFiles()).node.control_address == "control.example:7070"
