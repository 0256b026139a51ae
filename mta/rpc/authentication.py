"""Who is calling: API keys of tenants, tokens of their OAuth clients, and the operator's token.

They come in the metadata key ``authorization``. Everything is judged by the replica of the policy as it is now, with no
call to anybody: a key or client that is revoked is refused as soon as the replica says so. A token that is right in
itself and belongs to a client that this replica does not know, or not yet, is not wrong: for the first seconds of its
life the answer is "try again", since the client may have been made a moment ago.

Where credentials are for some networks only, the caller's address counts: the worker is reached through a Unix socket,
and the node or the bridge in front of it says the address in ``x-barua-peer``.

Errors: UNAUTHENTICATED, PERMISSION_DENIED for a missing scope or another network, UNAVAILABLE as above.
"""

import hashlib
import hmac
import time
from dataclasses import dataclass

import grpc

from mta.policy.lookup import Policy
from mta.policy.records import MAIL_SCOPE, ApiKey
from mta.policy.uses import CredentialKind, Uses
from mta.runtime import networks, tokens
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.tokens import TokenKey

PEER_KEY = "x-barua-peer"
"""Metadata with the IP address of whoever asked the node or the bridge."""
NEWS_SECONDS = 5.0
"""A change of policy reaches a replica in less than this, while control is there."""

_WRONG = "no valid API key; send one as 'authorization: Bearer bk_...'"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``tenant_id`` is empty for the operator, who may act for any tenant."""

    tenant_id: str


class CallerAuthentication:
    """Checks the credentials of calls against the policy in force."""

    def __init__(self, policy: Policy, operator_token: str, uses: Uses, token_key: TokenKey | None = None) -> None:
        """Without a ``token_key`` no token is valid."""
        self._policy = policy
        self._uses = uses
        self._operator_token = operator_token.encode()
        self._token_key = token_key

    def caller(self, context: grpc.aio.ServicerContext[object, object]) -> Caller:
        """The caller of a call. Raises Refusal."""
        return self.judge(*peer_of(context))

    def judge(self, authorization: str, where: str | None) -> Caller:
        """The caller with these credentials, in the form of the metadata, at this IP address. Raises Refusal."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal(Reason.UNAUTHENTICATED, _WRONG)
        if hmac.compare_digest(token.encode(), self._operator_token):
            return Caller("")
        if token.startswith(tokens.PREFIX) and self._token_key is not None:
            return Caller(self._tenant_of_token(token, self._token_key, where))
        return Caller(self._tenant_of_key(token, where))

    def _tenant_of_key(self, token: str, address: str | None) -> str:
        prefix, _, rest = token.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._policy.api_key(key_id) if prefix == "bk" else None
        if not _matches(secret, key) or key is None or _ended(key.expire_time):
            raise Refusal(Reason.UNAUTHENTICATED, _WRONG)
        _check_address(key.allowed_networks, address)
        if MAIL_SCOPE not in key.scopes:
            raise Refusal(Reason.PERMISSION_DENIED, "this API key may not send mail; use one with the scope 'mail'")
        self._uses.note(CredentialKind.API_KEY, key_id)
        return key.tenant_id

    def _tenant_of_token(self, token: str, token_key: TokenKey, address: str | None) -> str:
        try:
            claims = token_key.read(token)
        except ValueError:
            raise Refusal(Reason.UNAUTHENTICATED, "the token is not valid; get a new one") from None
        if _ended(claims.expires_at):
            raise Refusal(Reason.UNAUTHENTICATED, "the token has expired; get a new one")
        client = self._policy.oauth_client(claims.client_id)
        if client is None or client.token_generation < claims.generation:
            if time.time() - claims.issued_at < NEWS_SECONDS:
                raise Refusal(Reason.UNAVAILABLE, "the token is not known here yet; try again", retry_after=1.0)
            raise Refusal(Reason.UNAUTHENTICATED, "the token was revoked; get a new one")
        if client.token_generation != claims.generation or _ended(client.expire_time):
            raise Refusal(Reason.UNAUTHENTICATED, "the token was revoked; get a new one")
        _check_address(client.allowed_networks, address)
        if MAIL_SCOPE not in claims.effective_scopes(client.scopes):
            raise Refusal(Reason.PERMISSION_DENIED, "this token may not send mail; get one with the scope 'mail'")
        self._uses.note(CredentialKind.OAUTH_CLIENT, client.client_id)
        return client.tenant_id


def peer_of(context: grpc.aio.ServicerContext[object, object]) -> tuple[str, str | None]:
    """The credentials that a call shows, and the address that it is said to come from."""
    metadata = dict(context.invocation_metadata() or ())
    header = metadata.get("authorization", "")
    address = metadata.get(PEER_KEY)
    return (
        header.decode("ascii", "replace") if isinstance(header, bytes) else header,
        address if isinstance(address, str) else None,
    )


def _matches(secret: str, key: ApiKey | None) -> bool:
    """Whether it is the secret of this key, or the one before in its time."""
    digest = hashlib.sha256(secret.encode()).digest()
    current = hmac.compare_digest(digest, key.secret_sha256 if key is not None else bytes(32))
    if current or key is None or not key.previous_sha256 or _ended(key.previous_expire_time):
        return current and key is not None
    return hmac.compare_digest(digest, key.previous_sha256)


def _ended(expire_time: float) -> bool:
    """Whether what ends then has ended; 0 is no end."""
    return bool(expire_time) and expire_time <= time.time()


def _check_address(allowed: tuple[str, ...], address: str | None) -> None:
    if not networks.allowed(allowed, address):
        raise Refusal(Reason.PERMISSION_DENIED, "these credentials may not be used from this address")
