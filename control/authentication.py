"""Who calls: the ``authorization`` metadata of a call to a ``Caller``.

``Bearer`` with the operator's or the nodes' token, or ``Basic`` with a login. API keys belong to the MTA's services and
are refused here. An unknown user and a wrong password get the same answer in about the same time.

Errors: UNAUTHENTICATED for no or wrong credentials, RATE_LIMITED after too many wrong ones, PERMISSION_DENIED for API
keys, UNAVAILABLE if the database is away.
"""

import base64
import binascii
import hmac
from contextvars import ContextVar

from control.database import Database
from control.model.apikeys import PREFIX
from control.model.caller import ROOT_TENANT, Caller, Role, act_for
from control.model.fields import MAX_PASSWORD, MAX_USERNAME
from control.passwords import Passwords
from control.store import credentials
from mta.runtime.refusals import Reason, Refusal

_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """The caller of the call that is being handled."""
    return _caller.get()


def set_caller(who: Caller) -> None:
    """Make ``who`` the caller for the rest of this call: it sees its own tenant's rows and those below."""
    _caller.set(who)
    act_for(who.tenant_id)


class Authenticator:
    """Knows the tokens, and asks the database for logins."""

    def __init__(self, database: Database, passwords: Passwords, operator_token: str, node_token: str) -> None:
        self._database = database
        self._passwords = passwords
        self._operator_token = operator_token.encode()
        self._node_token = node_token.encode()

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller with these credentials."""
        scheme, _, value = (authorization or "").partition(" ")
        match scheme.lower():
            case "bearer":
                return self._bearer(value.strip())
            case "basic":
                return await self._basic(value.strip())
            case _:
                raise _refused("the call has no credentials: send the metadata authorization with Basic or Bearer")

    def _bearer(self, token: str) -> Caller:
        given = token.encode("utf-8", "surrogatepass")
        if hmac.compare_digest(given, self._operator_token):
            return Caller(Role.OPERATOR, ROOT_TENANT)
        if hmac.compare_digest(given, self._node_token):
            return Caller(Role.NODE, ROOT_TENANT)
        if token.startswith(PREFIX):
            raise Refusal(Reason.PERMISSION_DENIED, "API keys are for sending; use a login or the operator's token")
        raise _refused("the token is not valid")

    async def _basic(self, encoded: str) -> Caller:
        try:
            username, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if not colon or "\0" in username or len(username) > MAX_USERNAME or len(password) > MAX_PASSWORD:
            raise _refused("the username or password is wrong")
        login = await self._database.transact(lambda connection: credentials.find_login(connection, username))
        stored = login.password_hash if login else None
        if not await self._passwords.verify(username, stored, password) or login is None:
            raise _refused("the username or password is wrong")
        role = Role.OPERATOR if login.tenant_id == ROOT_TENANT else Role.RESELLER
        return Caller(role, login.tenant_id)


def _refused(message: str) -> Refusal:
    return Refusal(Reason.UNAUTHENTICATED, message)
