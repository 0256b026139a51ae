"""Where a gRPC server listens: plainly on loopback, with TLS everywhere else.

Without a certificate an address that other machines reach is refused, unless the option ``plaintext_anywhere`` of its
program allows it. With one, the address speaks TLS 1.2 or newer only, and where authorities of client certificates are
named it is for clients with such a certificate alone.

Certificate files are looked at with each new connection and read again when they changed; files that cannot be used
then are logged, and the last good ones stay in force.

Errors: ``OptionsError`` with a text for the operator.
"""

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from mta.runtime.log import get_logger
from mta.runtime.options import OptionsError, ServerTlsOptions, split_address

log = get_logger(__name__)


def listen_plainly(server: grpc.aio.Server, address: str, option: str, *, anywhere: bool) -> None:
    """Have ``server`` listen without TLS. ``option`` is what the address is called in the configuration."""
    host, _ = split_address(address)
    if not is_local(host) and not anywhere:
        program = option.partition(".")[0]
        raise OptionsError(
            f"{option} is {address}, which other machines reach, and there is no TLS: set {program}.tls, "
            f"or {program}.plaintext_anywhere if the network is protected otherwise"
        )
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise _taken(address, option) from error


def listen_securely(
    server: grpc.aio.Server, address: str, option: str, tls: ServerTlsOptions, *, client_certificates: bool
) -> None:
    """Have ``server`` listen with TLS, with a certificate of every client or of none."""
    credentials = _Certificates(tls, option, client_certificates).credentials()
    try:
        server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise _taken(address, option) from error


def is_local(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Certificates:
    """The files of a listener, read again when they change."""

    def __init__(self, tls: ServerTlsOptions, option: str, client_certificates: bool) -> None:
        paths = [tls.certificate_file, tls.key_file, *([tls.client_ca_file] if client_certificates else [])]
        self._files = [Path(path) for path in paths]
        self._stamp: list[tuple[int, int, int]] = []
        self._option = option
        self._client_certificates = client_certificates

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for a listener. Raises OptionsError if a file cannot be used."""
        try:
            self._stamp = self._stamped()
            configuration = self._configuration()
        except (OSError, ValueError) as error:
            raise OptionsError(f"the TLS files of {self._option} cannot be used: {error}") from error
        changed = cast(Callable[[], grpc.ServerCertificateConfiguration], self._changed)  # None: as before
        return grpc.dynamic_ssl_server_credentials(configuration, changed, self._client_certificates)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files anew if they changed, else None: asked by gRPC with each connection, in a thread of its own."""
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return None
            configuration = self._configuration()
        except (OSError, ValueError) as error:
            log.error("certificate_not_reloaded", option=self._option, error=str(error))
            return None
        self._stamp = stamp
        log.info("certificate_reloaded", option=self._option, file=str(self._files[0]))
        return configuration

    def _stamped(self) -> list[tuple[int, int, int]]:
        stats = [file.stat() for file in self._files]
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        chain, key, *authorities = [file.read_bytes() for file in self._files]
        _check_pair(chain, key)
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities[0] if authorities else None)


def _check_pair(chain: bytes, key: bytes) -> None:
    """Raise ValueError unless the key belongs to the certificate: gRPC would say so to the peers only."""
    certificate = load_pem_x509_certificate(chain)
    private = load_pem_private_key(key, None)
    if private.public_key() != certificate.public_key():
        raise ValueError("the private key does not belong to the certificate")


def _taken(address: str, option: str) -> OptionsError:
    program = option.partition(".")[0]
    return OptionsError(f"cannot listen on {address}; is {program} running already? Change {option}")
