"""The secrets of API keys that can be read again, sealed.

Of most keys only a hash is kept. Some APIs show keys to those who administer them; the keys they make are recoverable,
and their secrets are sealed, each for its tenant and its key, and open for nothing else.

Errors: those of ``Sealer.open`` for what was sealed otherwise: a mistake or an attack.
"""

from control.model.apikeys import NewKey
from control.sealing import Sealer
from control.store.credentials import ApiKey

_USE = "apiKeys"


class KeyVault:
    """Seals and opens."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, key: NewKey, tenant_id: str) -> bytes:
        """The secret of a key that was just made, sealed."""
        return self._sealer.seal(key.secret.encode(), tenant_id, _USE, key.key_id)

    def text(self, key: ApiKey) -> str:
        """The whole of a key; empty if it is not recoverable."""
        if key.sealed_secret is None:
            return ""
        secret = self._sealer.open(key.sealed_secret, key.tenant_id, _USE, key.key_id).decode()
        return NewKey(key.key_id, secret).text
