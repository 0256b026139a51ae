"""The bridge as a real process that speaks HTTPS itself, and a certificate that is replaced while it runs."""

import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from tests.support.certs import Authority
from tests.support.ports import free_port
from tests.support.program import NotReady, Program
from tests.support.waiting import wait_until


class Served:
    """A bridge with nobody behind it, and its certificate's files."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "ca")
        self.certificate_file, self.key_file = folder / "server.pem", folder / "server.key"
        self.port = free_port()
        self.replace("first.example")
        config = folder / "barua.toml"
        config.write_text(
            f"""
            home = "{folder}"
            [bridge]
            listen = "127.0.0.1:{self.port}"
            metrics_listen = "127.0.0.1:{free_port()}"
            control_address = "127.0.0.1:{free_port()}"
            [bridge.tls]
            certificate_file = "{self.certificate_file}"
            key_file = "{self.key_file}"
            """
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        self.program = Program("bridge", ("api_bridge", "--config", str(config)), folder / "bridge.log", environment)

    def replace(self, name: str) -> None:
        """Put another certificate in the place of the one before, as ACME clients do: key and chain, one by one."""
        issued = self.authority.issue(name, "localhost", "127.0.0.1")
        issued.key_file.replace(self.key_file)
        issued.certificate_file.replace(self.certificate_file)

    def shown(self, context: ssl.SSLContext | None = None) -> str:
        """The common name of the certificate that a new connection gets."""
        context = context or self.authority.client_context()
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            octets = wrapped.getpeercert(binary_form=True)
        assert octets is not None
        certificate = x509.load_der_x509_certificate(octets)
        return str(certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    started = Served(tmp_path_factory.mktemp("https"))
    started.program.start()
    yield started
    started.program.stop()


def test_https_and_a_certificate_that_changes(served: Served) -> None:
    url = f"https://localhost:{served.port}/healthz"
    with httpx.Client(verify=served.authority.client_context(), timeout=60) as client:
        answer = client.get(url)
        assert (answer.status_code, answer.json()["status"]) == (503, "starting")
        assert served.shown() == "first.example"

        served.replace("second.example")
        wait_until(lambda: served.shown() == "second.example", "the files are read again by themselves")

        served.replace("third.example")
        served.program.signal(signal.SIGHUP)
        wait_until(lambda: served.shown() == "third.example", "SIGHUP reads the files again")

        served.key_file.write_text("no key")
        served.program.signal(signal.SIGHUP)
        wait_until(lambda: "certificate_not_reloaded" in served.program.log.read_text(), "the log tells of it")
        assert served.shown() == "third.example"
        served.replace("fourth.example")
        wait_until(lambda: served.shown() == "fourth.example", "good files are taken again")
        assert client.get(url).status_code == 503
    assert "Traceback" not in served.program.log.read_text()


def test_a_client_without_a_server_name_is_served(served: Served) -> None:
    context = served.authority.client_context()
    context.check_hostname = False
    with (
        socket.create_connection(("127.0.0.1", served.port), 10) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        wrapped.sendall(b"GET /other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert wrapped.recv(100).startswith(b"HTTP/1.1 404 ")
        assert wrapped.version() in ("TLSv1.2", "TLSv1.3")


def test_old_tls_and_plain_http_are_not_spoken(served: Served) -> None:
    old = served.authority.client_context()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        served.shown(old)
    with socket.create_connection(("127.0.0.1", served.port), 10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        try:
            while data := plain.recv(1000):
                answer += data
        except ConnectionError:
            pass
    assert b"HTTP/" not in answer
    assert "Traceback" not in served.program.log.read_text()


def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    broken = Served(tmp_path)
    broken.key_file.write_text("no key")
    with pytest.raises(NotReady, match=r"bridge\.tls: .*server\.pem and its key cannot be used"):
        broken.program.start()
