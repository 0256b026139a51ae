"""What webhooks keep sealed: the secrets that sign requests, and the values of added header fields.

Signing needs the secret itself, so a hash will not do. Each is sealed for its tenant, its webhook and its use, and
opens for nothing else. Errors: those of ``Sealer.open`` for what was sealed otherwise: a mistake or an attack.
"""

from datetime import UTC, datetime

import msgspec

from control.keyvault import KeyVault
from control.model import apikeys
from control.sealing import Sealer
from control.store.webhook_endpoints import Signer
from control.store.webhooks import Webhook
from control.webhooks.signing import SECRET_CHARACTERS, SECRET_PREFIX

_SECRET, _HEADERS = "webhook-secret", "webhook-headers"


def new_secret() -> str:
    """A random secret as it is told to its owner."""
    return SECRET_PREFIX + apikeys.random_name(SECRET_CHARACTERS)


class Vault:
    """Seals and opens."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._keys = KeyVault(sealer)

    def seal_secret(self, secret: str, tenant_id: str, webhook_id: str) -> bytes:
        """A secret for a webhook, sealed."""
        return self._sealer.seal(secret.encode(), tenant_id, _SECRET, webhook_id)

    def secrets(self, webhook: Webhook) -> tuple[str, ...]:
        """The secrets of a webhook that are good now, newest first."""
        sealed = [webhook.sealed_secret]
        until = webhook.previous_secret_until
        if webhook.sealed_previous_secret is not None and until is not None and until > datetime.now(UTC):
            sealed.append(webhook.sealed_previous_secret)
        return tuple(self._open(one, webhook, _SECRET).decode() for one in sealed)

    def secrets_of(self, signer: Signer | None) -> tuple[str, ...]:
        """The secrets of what signs: those of a webhook, or a whole API key."""
        if signer is None:
            return ()
        return self.secrets(signer) if isinstance(signer, Webhook) else (self._keys.text(signer),)

    def seal_headers(self, headers: dict[str, str], tenant_id: str, webhook_id: str) -> bytes:
        """Header fields for a webhook, sealed."""
        return self._sealer.seal(msgspec.json.encode(headers), tenant_id, _HEADERS, webhook_id)

    def headers(self, webhook: Webhook) -> dict[str, str]:
        """The header fields of a webhook."""
        content = self._open(webhook.settings.sealed_headers, webhook, _HEADERS)
        return msgspec.json.decode(content, type=dict[str, str])

    def _open(self, sealed: bytes, webhook: Webhook, use: str) -> bytes:
        return self._sealer.open(sealed, webhook.tenant_id, use, webhook.webhook_id)
