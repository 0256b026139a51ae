"""The demo's certificates are accepted by a verifying TLS client, and by nobody who does not trust them."""

import datetime
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification

from control.demo import authority


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_client_that_trusts_the_authority_connects(tmp_path: Path, name: str) -> None:
    files = authority.ensure(tmp_path)
    context = ssl.create_default_context(cafile=str(files.authority))
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    assert _handshake(files, context, name) == "TLSv1.3"


def test_other_names_are_refused(tmp_path: Path) -> None:
    files = authority.ensure(tmp_path)
    context = ssl.create_default_context(cafile=str(files.authority))
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(files, context, "mail.example.com")


def test_a_client_that_does_not_trust_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(authority.ensure(tmp_path), ssl.create_default_context(), "localhost")


def test_the_chain_passes_a_second_strict_verifier(tmp_path: Path) -> None:
    files = authority.ensure(tmp_path)
    leaf, *chain = x509.load_pem_x509_certificates(files.certificate.read_bytes())
    store = verification.Store(x509.load_pem_x509_certificates(files.authority.read_bytes()))
    verifier = verification.PolicyBuilder().store(store).build_server_verifier(x509.DNSName("localhost"))
    assert len(verifier.verify(leaf, chain)) == 2


def test_openssl_finds_nothing_wrong(tmp_path: Path) -> None:
    files = authority.ensure(tmp_path)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "localhost"]
    try:
        done = subprocess.run(
            [*command, "-CAfile", str(files.authority), str(files.certificate)], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    assert done.returncode == 0, done.stderr


def test_good_certificates_are_kept(tmp_path: Path) -> None:
    authority.ensure(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    authority.ensure(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_near_its_end_the_certificate_is_renewed_and_the_authority_stays(tmp_path: Path) -> None:
    files = authority.ensure(tmp_path)
    trusted, served = files.authority.read_bytes(), files.certificate.read_bytes()
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=340)
    authority.ensure(tmp_path, later)
    assert files.authority.read_bytes() == trusted
    assert files.certificate.read_bytes() != served
    renewed = x509.load_pem_x509_certificates(files.certificate.read_bytes())[0]
    assert renewed.not_valid_after_utc > later + datetime.timedelta(days=300)


def test_damaged_files_are_replaced(tmp_path: Path) -> None:
    files = authority.ensure(tmp_path)
    files.key.write_text("nonsense")
    authority.ensure(tmp_path)
    context = ssl.create_default_context(cafile=str(files.authority))
    assert _handshake(files, context, "localhost") == "TLSv1.3"


def test_keys_are_private(tmp_path: Path) -> None:
    files = authority.ensure(tmp_path)
    for key in (files.key, tmp_path / "ca.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def _handshake(files: authority.Files, client: ssl.SSLContext, name: str) -> str | None:
    """A whole handshake over a socket pair; the protocol version the client sees."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    near, far = socket.socketpair()
    near.settimeout(10)
    far.settimeout(10)

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as peer:
                peer.recv(1)
        except (ssl.SSLError, OSError):
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name) as ours:
            return ours.version()
    finally:
        near.close()
        thread.join(10)
