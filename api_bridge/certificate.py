"""The certificate of the HTTP server: TLS 1.2 or newer, read again when its files change.

The files are looked at with each handshake, at most once a second, and at once when ``refresh`` is called (SIGHUP). A
new pair is loaded into a context of its own, so that a certificate whose key is not written yet cannot spoil the one in
force; connections that stand keep what they began with. Files that cannot be used are logged, and the last good pair
stays.

Errors: ``OptionsError`` at the start. Loop rules: handshakes run on the loop; reading two small files is quicker than
a thread would be.
"""

import ssl
import time
from pathlib import Path

from mta.runtime.log import get_logger
from mta.runtime.options import BridgeTlsOptions, OptionsError

log = get_logger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the files."""


class Certificate:
    """The files and the context that is made of them."""

    def __init__(self, options: BridgeTlsOptions) -> None:
        self._files = (Path(options.certificate_file), Path(options.key_file))
        self._looked = time.monotonic()
        try:
            self._stamp = self._stamped()
            self._current = self._load()
        except (OSError, ValueError) as error:
            raise OptionsError(f"bridge.tls: {self._files[0]} and its key cannot be used: {error}") from error
        self.context = self._current
        """For the listener; it hands each handshake to the context in force."""
        self.context.sni_callback = self._choose

    def refresh(self) -> None:
        """Read the files if they changed."""
        self._looked = time.monotonic()
        try:
            stamp = self._stamped()
            if stamp == self._stamp:
                return
            self._current = self._load()
        except (OSError, ValueError) as error:
            log.error("certificate_not_reloaded", file=str(self._files[0]), error=str(error))
            return
        self._stamp = stamp
        log.info("certificate_reloaded", file=str(self._files[0]))

    def _choose(self, handshake: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called by OpenSSL in each handshake, whether the client names a host or not."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self.refresh()
        if self._current is not self.context:
            handshake.context = self._current

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(*self._files)
        return context

    def _stamped(self) -> list[tuple[int, int, int]]:
        stats = [file.stat() for file in self._files]
        return [(stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats]
