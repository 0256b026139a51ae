"""Who calls: the ``authorization`` metadata of a call, or the client certificate of its connection, to a ``Caller``.

``Bearer`` with the operator's or the nodes' token, an API key (``bk_``) or the token of an OAuth client (``bt_``), or
``Basic`` with a login. A call without that metadata is made in the name of its connection's certificate, if that names
anybody. An unknown user and a wrong password get the same answer in about the same time; secrets are compared in
constant time.

Everything is judged by the database as it is now: a login that is disabled, a key that is revoked, an OAuth client that
is gone are refused with the next call. Keys and tokens never have more power than an administrator's login of their
tenant, and that of the operator's tenant never that of the operator.

Failures are counted per address (``MAX_FAILURES`` a minute) and, for passwords, per username (see
``control.passwords``). Beyond that, only what proved right within ``KNOWN_SECONDS`` and the tokens of the installation
get in, so that who guesses from behind the same address keeps nobody out.

Errors: UNAUTHENTICATED for no, wrong or expired credentials, PERMISSION_DENIED for an address they are not for,
RATE_LIMITED after too many wrong ones, UNAVAILABLE if the database is away.
"""

import base64
import binascii
import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime

from control.database import Connection, Database
from control.failures import FailureLimit
from control.model import apikeys
from control.model import credentials as rules
from control.model.caller import ROOT_TENANT, Caller, Role, act_for, acting_for_platform
from control.model.credentials import LoginRole
from control.model.fields import MAX_PASSWORD, MAX_USERNAME
from control.passwords import Passwords
from control.peers import Holder, Identity, Peer
from control.store import credentials, oauth_clients, tenants
from control.store.credential_use import Credential
from control.usage import Usage
from mta.runtime import networks, tokens
from mta.runtime.refusals import Reason, Refusal
from mta.runtime.tokens import TokenKey

MAX_FAILURES = 300
"""Wrong credentials of one address in a minute: a bridge that tells no addresses stands for all its clients."""
KNOWN_SECONDS = 600.0
"""Credentials that proved right are let through the limit for so long; whether they still are is asked all the same."""
MAX_KNOWN = 10_000

_caller: ContextVar[Caller] = ContextVar("caller")
_peer: ContextVar[Peer] = ContextVar("peer")


def caller() -> Caller:
    """The caller of the call that is being handled."""
    return _caller.get()


def set_caller(who: Caller) -> None:
    """Make ``who`` the caller for the rest of this call: it sees its own tenant's rows and those below."""
    _caller.set(who)
    act_for(who.tenant_id)


def peer() -> Peer:
    """Where the call that is being handled comes from."""
    return _peer.get()


def set_peer(where: Peer) -> None:
    """Remember where this call comes from."""
    _peer.set(where)


class Authenticator:
    """Knows the tokens of the installation, and asks the database for all other credentials."""

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        usage: Usage,
        token_key: TokenKey,
        operator_token: str,
        node_token: str,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._usage = usage
        self._token_key = token_key
        self._operator_token = operator_token.encode()
        self._node_token = node_token.encode()
        self._failures = FailureLimit(MAX_FAILURES)
        self._known_key = os.urandom(32)
        # Digest of an authorization that proved right -> when that is forgotten; in the order of use.
        self._known: OrderedDict[bytes, float] = OrderedDict()

    async def authenticate(self, authorization: str | None, where: Peer) -> Caller:
        """The caller with these credentials, at this peer. Raises Refusal."""
        if not authorization:
            if where.identity is None:
                raise _refused("the call has no credentials: send the metadata authorization with Basic or Bearer")
            return await self._holder(where.identity)
        scheme, _, value = authorization.partition(" ")
        value = value.strip()
        if scheme.lower() == "bearer":
            installation = self._installation(value)
            if installation is not None:
                return installation
        return await self._limited(scheme.lower(), value, where)

    async def check_standing(self, who: Caller) -> None:
        """Raise TENANT_SUSPENDED if the caller's tenant, or one above it, is suspended: it may look, but not change."""
        if who.tenant_id == ROOT_TENANT:
            return
        with acting_for_platform():
            if await self._database.transact(
                lambda connection: tenants.may_act(connection, who.tenant_id), whole=False
            ):
                return
        message = "the tenant of these credentials, or one above it, is suspended; contact your provider"
        raise Refusal(Reason.TENANT_SUSPENDED, message)

    async def _limited(self, scheme: str, value: str, where: Peer) -> Caller:
        digest = hmac.digest(self._known_key, f"{scheme} {value}".encode("utf-8", "surrogatepass"), "sha256")
        if self._known.get(digest, 0.0) < time.monotonic():
            self._failures.check(where.block)
        try:
            with acting_for_platform():  # a stream that asks again acts for its caller already
                who = await self._judge(scheme, value, where)
        except Refusal as refusal:
            if refusal.reason is Reason.UNAUTHENTICATED:
                self._failures.failed(where.block)
            raise
        self._known[digest] = time.monotonic() + KNOWN_SECONDS
        self._known.move_to_end(digest)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return who

    async def _judge(self, scheme: str, value: str, where: Peer) -> Caller:
        match scheme:
            case "bearer" if value.startswith(apikeys.PREFIX):
                return await self._api_key(value, where)
            case "bearer" if value.startswith(tokens.PREFIX):
                return await self._token(value, where)
            case "bearer":
                raise _refused("the token is not valid")
            case "basic":
                return await self._login(value, where)
            case _:
                raise _refused("the call has no credentials: send the metadata authorization with Basic or Bearer")

    def _installation(self, token: str) -> Caller | None:
        given = token.encode("utf-8", "surrogatepass")
        if hmac.compare_digest(given, self._operator_token):
            return Caller(Role.OPERATOR, ROOT_TENANT, name="operator token")
        if hmac.compare_digest(given, self._node_token):
            return Caller(Role.NODE, ROOT_TENANT, name="node token")
        return None

    async def _holder(self, identity: Identity) -> Caller:
        name = f"certificate {identity}"
        match identity.holder:
            case Holder.OPERATOR:
                return Caller(Role.OPERATOR, ROOT_TENANT, name=name)
            case Holder.NODE:
                return Caller(Role.NODE, ROOT_TENANT, name=name)
            case Holder.TENANT:
                role = await self._database.transact(lambda connection: _tenant_role(connection, identity.id))
                if role is None:
                    raise _refused("the certificate names a tenant that is not there")
                return Caller(role, identity.id, name=name)

    async def _login(self, encoded: str, where: Peer) -> Caller:
        try:
            username, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if not colon or "\0" in username or len(username) > MAX_USERNAME or len(password) > MAX_PASSWORD:
            raise _refused("the username or password is wrong")

        async def find(connection: Connection) -> tuple[credentials.Login | None, Role | None]:
            login = await credentials.find_login(connection, username)
            return login, None if login is None else await _tenant_role(connection, login.tenant_id)

        login, role = await self._database.transact(find, whole=False)
        stored = login.password_hash if login else None
        if not await self._passwords.verify(username, stored, password) or login is None or role is None:
            raise _refused("the username or password is wrong")
        if login.settings.disabled:
            raise _refused("the login is disabled")
        check_in_force(login.settings.expires_at, login.settings.allowed_networks, where)
        self._usage.note(Credential.LOGIN, username)
        match login.settings.role:
            case LoginRole.READ_ONLY:
                role = Role.READ_ONLY
            case LoginRole.SENDER:
                role = Role.SENDER
            case LoginRole.ADMIN if login.tenant_id == ROOT_TENANT:
                role = Role.OPERATOR
            case _:
                pass
        return Caller(role, login.tenant_id, name=f"login {username}")

    async def _api_key(self, text: str, where: Peer) -> Caller:
        key_id, secret = apikeys.split(text)

        async def find(connection: Connection) -> tuple[credentials.ApiKey | None, Role | None]:
            key = await credentials.find_api_key(connection, key_id) if key_id else None
            return key, None if key is None else await _tenant_role(connection, key.tenant_id)

        key, role = await self._database.transact(find, whole=False)
        if not apikeys.matches(secret, key.secret if key else None, datetime.now(UTC)) or key is None or role is None:
            raise _refused("the API key is not valid")
        check_in_force(key.settings.expires_at, key.settings.allowed_networks, where)
        self._usage.note(Credential.API_KEY, key_id)
        return Caller(role, key.tenant_id, frozenset(key.settings.scopes), name=f"key {key_id}")

    async def _token(self, text: str, where: Peer) -> Caller:
        try:
            claims = self._token_key.read(text)
        except ValueError:
            raise _refused("the token is not valid") from None

        async def find(connection: Connection) -> tuple[oauth_clients.OAuthClient | None, Role | None]:
            client = await oauth_clients.find(connection, claims.client_id)
            return client, None if client is None else await _tenant_role(connection, client.tenant_id)

        client, role = await self._database.transact(find, whole=False)
        if client is None or role is None or client.token_generation != claims.generation:
            raise _refused("the token was revoked")
        if claims.expires_at <= time.time():
            raise _refused("the token has expired")
        check_in_force(client.settings.expires_at, client.settings.allowed_networks, where)
        self._usage.note(Credential.OAUTH_CLIENT, client.client_id)
        scopes = claims.effective_scopes(client.settings.scopes)
        return Caller(role, client.tenant_id, scopes, name=f"client {client.client_id}")


def check_in_force(expires_at: datetime | None, allowed_networks: Sequence[str], where: Peer) -> None:
    """Refuse credentials that have ended, or that are not for this peer. For after the secret proved right."""
    if rules.ended(expires_at, datetime.now(UTC)):
        raise _refused("the credentials have expired")
    if not networks.allowed(allowed_networks, where.address):
        raise Refusal(Reason.PERMISSION_DENIED, "these credentials may not be used from this address")


async def _tenant_role(connection: Connection, tenant_id: str) -> Role | None:
    """What credentials of a tenant are at most; None if it is not there."""
    reseller = await credentials.is_reseller(connection, tenant_id)
    if reseller is None:
        return None
    return Role.RESELLER if reseller else Role.TENANT


def _refused(message: str) -> Refusal:
    return Refusal(Reason.UNAUTHENTICATED, message)
