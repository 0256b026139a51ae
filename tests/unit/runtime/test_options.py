"""Options: what may be in the file, and what is said of the rest."""

from pathlib import Path

import msgspec
import pytest

from mta.runtime.options import Options, OptionsError, TlsMode, load, reference, split_address


def written(tmp_path: Path, text: str) -> Path:
    """A file with that text."""
    file = tmp_path / "barua.toml"
    file.write_text(text)
    return file


def test_without_a_file_everything_has_a_default() -> None:
    options = load(None, {})
    assert options == Options()
    assert options.home_path == Path("var").resolve()
    assert options.path("spool", "worker-0.db") == Path("var/spool/worker-0.db").resolve()


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    text = """
        home = "/srv/barua"
        [mta]
        workers = 4
        [mta.retry]
        first_seconds = 1
        [[mta.listeners]]
        listen = "[::1]:2525"
        tls = "none"
        [[mta.listeners.trusted]]
        network = "2001:db8::/64"
        tenant = "acme"
        [[mta.routes]]
        domain = "*"
        target = "192.0.2.1:25"
    """
    options = load(written(tmp_path, text), {})
    assert options.home == "/srv/barua"
    assert options.mta.workers == 4
    assert options.mta.retry.first_seconds == 1.0
    (listener,) = options.mta.listeners
    assert (listener.listen, listener.tls, listener.trusted[0].tenant) == ("[::1]:2525", TlsMode.NONE, "acme")
    assert options.mta.routes[0].tls is TlsMode.STARTTLS
    assert options.mta.retry.factor == Options().mta.retry.factor


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, 'home = "/one"')
    assert load(file, {"BARUA_HOME": "/two"}).home == "/two"
    assert load(file, {"BARUA_HOME": ""}).home == "/one"
    assert load(None, {"BARUA_HOME": str(tmp_path)}).home_path == tmp_path


def test_the_real_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARUA_HOME", "/three")
    assert load(None).home == "/three"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("workers = 4", "workers"),
        ("[mta]\nworker = 4", "worker"),
        ("[mta]\nworkers = 0", r"\$.mta.workers"),
        ("[mta]\nworkers = 'two'", r"\$.mta.workers"),
        ("[mta.retry]\njitter = 0.9", r"\$.mta.retry.jitter"),
        ("[mta.limits]\nrecipients = 99", r"\$.mta.limits.recipients"),
        ("[log]\nlevel = 'loud'", r"\$.log.level"),
        ("[node]\nname = 'Node 1'", r"\$.node.name"),
        ("[[mta.listeners]]\nlisten = '127.0.0.1:25'\ntls = 'maybe'", "tls"),
        ("[[mta.listeners]]\ntls = 'none'", "listen"),
        ("[control]\nlisten = '127.0.0.1'", "write host:port"),
        ("[mta.dns]\nnameservers = ['192.0.2.1']", "write host:port"),
        ("[[mta.routes]]\ndomain = '*'\ntarget = 'host:99999'", "host:99999"),
        (
            "[[mta.listeners]]\nlisten = '127.0.0.1:25'\n"
            "[[mta.listeners.trusted]]\nnetwork = '10.0.0.1/8'\ntenant = 'a'",
            "mta.listeners.trusted.network",
        ),
        ("[mta.tls]\ncertificate_file = 'x.pem'", "go together"),
        ("[mta.tls]\nkey_file = 'x.pem'", "go together"),
        ("[bridge.tls]\ncertificate_file = 'x.pem'", "bridge.tls: certificate_file and key_file go together"),
        ("[bridge]\ntrusted_forwarders = ['10.0.0.1/8']", "bridge.trusted_forwarders: 10.0.0.1/8"),
        ("[bridge.dialects.mspace]\nrequests_per_second = -1", r"\$.bridge.dialects.mspace.requests_per_second"),
        ("[bridge.dialects.other]\nenabled = false", "other"),
        ("[[bootstrap.tenants]]\nid = 'a'\n[[bootstrap.tenants]]\nid = 'a'", "same id"),
        ("[[bootstrap.tenants]]\nid = 'a'\nusername = 'u'", "both username and password_file"),
        ("[[bootstrap.tenants]]\nid = 'A!'", "id"),
        ("not toml", "is not TOML"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(OptionsError, match=named):
        load(written(tmp_path, text), {})


def test_a_file_that_is_missing_or_unreadable_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(OptionsError, match=f"cannot read {path}"):
            load(path, {})
    file = tmp_path / "latin.toml"
    file.write_bytes(b"home = '\xff'")
    with pytest.raises(OptionsError, match=r"latin\.toml"):
        load(file, {})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:25", ("127.0.0.1", 25)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:2525", ("::1", 2525)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":25", "host:port", "host:-1", "host:65536", "[]:25", "host:２５"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(OptionsError, match="write host:port"):
        split_address(text)


def test_options_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Options().home = "/x"  # type: ignore[misc]


def test_the_reference_describes_every_option() -> None:
    page = reference()
    for section in ("Top level", "[mta.limits]", "[[mta.listeners.trusted]]", "[bootstrap.tenants"):
        assert section.strip("[").split(".")[0] in page
    for info in msgspec.structs.fields(Options):
        assert info.name in page
    assert "`recipients` | `1000`" in page
    assert page.endswith("\n")
    assert page == reference()
