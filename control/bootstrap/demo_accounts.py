"""The demo accounts: a reseller, an account below it, one credential of each kind, and ``demo.json`` that names them.

``ensure`` makes what is missing, waits until every worker knows it, and writes the file, mode 0600. Passwords and keys
are kept from the file that is there, so that a second run goes on where the first was. A login whose password is not
the one in the file is made anew, and so is an API key that control does not know (its secret is told only once).

Errors: ``Refusal``, ``Unreachable``; ``OptionsError`` if ``demo.json`` is there but cannot be used.
"""

import asyncio
import secrets
import uuid
from typing import Any

import msgspec

from barua.control.v1 import (
    credential_pb2,
    credential_service_pb2,
    credit_service_pb2,
    oauth_client_pb2,
    oauth_service_pb2,
)
from barua.control.v1.credential_service_pb2_grpc import CredentialServiceStub
from barua.control.v1.credit_service_pb2_grpc import CreditServiceStub
from barua.control.v1.oauth_service_pb2_grpc import OAuthServiceStub
from barua.mta.v1 import injection_service_pb2
from barua.mta.v1.injection_service_pb2_grpc import InjectionServiceStub

from barua_client import Connection, Unreachable, basic, bearer
from control.bootstrap import tenants
from control.bootstrap.privatefile import write_private
from mta.runtime.options import Options, OptionsError, TlsMode, split_address
from mta.runtime.refusals import Reason, Refusal

FILE = "demo.json"
RESELLER, ACCOUNT = "demo-reseller", "demo-account"
RESELLER_CREDITS, ACCOUNT_CREDITS = 1_000_000, 100_000
DEFAULT_SENDER = "noreply@demo.test"
WORKER_SECONDS = 20.0
"""By then a change has reached a worker that is well; a second is usual."""
WORKER_POLL_SECONDS = 0.1
PLATFORM_DOMAIN = tenants.DomainPlan("platform.test", signs_for_senders=True)
"""What the codes that prove senders come from, and what signs the mail of those senders."""
PLATFORM_CREDITS = 10_000
DOMAINS = (tenants.DomainPlan("demo.test"), tenants.DomainPlan("mspace.co.ke"))
"""The second is what MSpace's own examples send from: they work with only host, port and credentials changed."""

KEYS = {
    ("mspace", "api_key"): RESELLER,
    ("mailpass", "api_key"): ACCOUNT,
    ("sendpost", "account_api_key"): RESELLER,
    ("sendpost", "subaccount_api_key"): ACCOUNT,
}
"""Where the API keys are in the file, and whose they are."""
_WHOLE_API = (
    *("mail", "messages", "statistics", "suppressions", "domains", "senders", "templates", "egress", "validation"),
    *("webhooks", "alerts", "tenants", "credentials", "credits:read"),
)
# Without "tenants:read", which is what tells an account's key from those of its sub-accounts.
_SUB_ACCOUNT = (
    *("mail", "domains", "suppressions", "senders", "validation"),
    *("templates:read", "statistics:read", "messages:read", "egress:read"),
)
SCOPES = {
    ("mspace", "api_key"): ("mail",),
    ("mailpass", "api_key"): ("mail", "messages:read", "suppressions", "webhooks"),
    ("sendpost", "account_api_key"): _WHOLE_API,
    ("sendpost", "subaccount_api_key"): _SUB_ACCOUNT,
}
"""What each of them may do: what the API that it is for needs."""
CLIENT_SCOPES = ("mail", "messages", "suppressions", "senders", "domains", "templates", "egress", "tenants:read")
"""What the OAuth client of SendPulse's API may do."""


async def ensure(operator: Connection, options: Options, token: str) -> None:
    """Make the accounts and write ``home/demo.json``."""
    path = options.path(FILE)
    known = _read(options)
    passwords = {
        RESELLER: _text(known, "mspace", "password") or secrets.token_urlsafe(18),
        ACCOUNT: _text(known, "smtp", "password") or secrets.token_urlsafe(18),
    }
    await tenants.ensure_platform(operator, PLATFORM_DOMAIN, PLATFORM_CREDITS)
    for plan in _plans(passwords):
        await tenants.ensure(operator, plan)
        await _ensure_password(operator, plan)
    client_id, client_secret = await _ensure_client(operator, known)
    keys = {("sendpulse", "client_id"): client_id, ("sendpulse", "client_secret"): client_secret}
    keys |= {place: await _ensure_key(operator, place, _text(known, *place)) for place in KEYS}
    await _wait_for_workers(options, keys["sendpost", "subaccount_api_key"])
    text = msgspec.json.format(msgspec.json.encode(document(options, passwords, keys, token)), indent=2)
    write_private(path, text + b"\n")


def document(
    options: Options, passwords: dict[str, str], keys: dict[tuple[str, str], str], token: str
) -> dict[str, dict[str, Any]]:
    """The content of demo.json."""
    bridge = f"{options.bridge.scheme}://{_reachable(options.bridge.listen)}"
    return {
        "smtp": {
            **_smtp(options),
            "username": ACCOUNT,
            "password": passwords[ACCOUNT],
            "ca_file": str(options.path("tls", "ca.pem")),
        },
        "mspace": {
            "base_url": bridge,
            "username": RESELLER,
            "password": passwords[RESELLER],
            "api_key": keys["mspace", "api_key"],
        },
        "mailpass": {"base_url": bridge, "api_key": keys["mailpass", "api_key"]},
        "sendpost": {
            "base_url": bridge,
            "account_api_key": keys["sendpost", "account_api_key"],
            "subaccount_api_key": keys["sendpost", "subaccount_api_key"],
        },
        "sendpulse": {
            "base_url": bridge,
            "client_id": keys["sendpulse", "client_id"],
            "client_secret": keys["sendpulse", "client_secret"],
        },
        "grpc": {
            "control": _reachable(options.control.listen),
            "mta": _reachable(options.node.listen),
            "token": token,
        },
        "inbox": {"base_url": f"http://{_reachable(options.inbox.http_listen)}"},
    }


def key_id(key: str) -> str:
    """The id in an API key ``bk_{id}_{secret}``; empty if it is none."""
    parts = key.split("_")
    return parts[1] if len(parts) == 3 and parts[0] == "bk" else ""


def _plans(passwords: dict[str, str]) -> list[tenants.TenantPlan]:
    reseller = tenants.TenantPlan(
        id=RESELLER,
        parent="operator",
        credits=RESELLER_CREDITS,
        default_sender=DEFAULT_SENDER,
        username=RESELLER,
        password=passwords[RESELLER],
        domains=DOMAINS,
        display_name="Demo reseller",
    )
    account = tenants.TenantPlan(
        id=ACCOUNT,
        parent=RESELLER,
        credits=ACCOUNT_CREDITS,
        default_sender="",
        username=ACCOUNT,
        password=passwords[ACCOUNT],
        domains=(),
        display_name="Demo account",
    )
    return [reseller, account]


async def _wait_for_workers(options: Options, key: str) -> None:
    """Return when every worker on this machine would take mail for the newest key: changes arrive in order."""
    content = f"From: {DEFAULT_SENDER}\r\nTo: {DEFAULT_SENDER}\r\nSubject: check\r\n\r\ncheck\r\n".encode()
    request = injection_service_pb2.SubmitMessageRequest(
        sender=DEFAULT_SENDER, recipients=[DEFAULT_SENDER], content=content, validate_only=True
    )
    for index in range(options.mta.workers):
        async with Connection(f"unix:{options.path('run', f'worker-{index}.sock')}", bearer(key)) as worker:
            stub = InjectionServiceStub(worker.channel)
            deadline = asyncio.get_running_loop().time() + WORKER_SECONDS
            while True:
                try:
                    await worker.call(stub.SubmitMessage, request)
                    break
                except Refusal as error:
                    if asyncio.get_running_loop().time() > deadline:
                        raise Unreachable(
                            f"worker {index}", f"it takes no mail for the demo account: {error}"
                        ) from error
                await asyncio.sleep(WORKER_POLL_SECONDS)


async def _ensure_password(operator: Connection, plan: tenants.TenantPlan) -> None:
    if await _password_works(operator, plan.username, plan.password):
        return
    stub = CredentialServiceStub(operator.channel)
    name = f"{plan.name}/logins/{plan.username}"
    request = credential_service_pb2.DeleteLoginRequest(name=name, request_id=str(uuid.uuid4()))
    await operator.call(stub.DeleteLogin, request)
    await tenants.ensure_login(operator, plan.name, plan.username, plan.password)


async def _password_works(operator: Connection, username: str, password: str) -> bool:
    request = credit_service_pb2.GetBalanceRequest(tenant="tenants/me")
    login = (("authorization", basic(username, password)),)
    try:
        await operator.call(CreditServiceStub(operator.channel).GetBalance, request, metadata=login)
    except Refusal as refusal:
        if refusal.reason is Reason.UNAUTHENTICATED:
            return False
        raise
    return True


async def _ensure_key(operator: Connection, place: tuple[str, str], known: str) -> str:
    parent = f"tenants/{KEYS[place]}"
    stub = CredentialServiceStub(operator.channel)
    wanted = credential_pb2.ApiKey(
        display_name=f"demo: {place[0]} {place[1]}",
        scopes=SCOPES[place],
        recoverable=place[0] == "sendpost",  # whose API shows the keys of sub-accounts
    )
    listed = credential_service_pb2.ListApiKeysRequest(parent=parent)
    if known:
        name = f"{parent}/apiKeys/{key_id(known)}"
        keys = [key async for key in operator.pages(stub.ListApiKeys, listed, "api_keys") if key.name == name]
        # One that an earlier version made may do less than is needed now.
        if keys and set(wanted.scopes) <= set(keys[0].scopes) and keys[0].recoverable >= wanted.recoverable:
            return known
    request = credential_service_pb2.CreateApiKeyRequest(parent=parent, api_key=wanted, request_id=str(uuid.uuid4()))
    return (await operator.call(stub.CreateApiKey, request)).secret_key


async def _ensure_client(operator: Connection, known: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """The id and secret of SendPulse's OAuth client; a new one if control does not know that of the file."""
    parent = f"tenants/{ACCOUNT}"
    stub = OAuthServiceStub(operator.channel)
    client_id, secret = _text(known, "sendpulse", "client_id"), _text(known, "sendpulse", "client_secret")
    listed = oauth_service_pb2.ListOAuthClientsRequest(parent=parent)
    clients = [client.client_id async for client in operator.pages(stub.ListOAuthClients, listed, "oauth_clients")]
    if secret and client_id in clients:
        return client_id, secret
    request = oauth_service_pb2.CreateOAuthClientRequest(
        parent=parent,
        oauth_client=oauth_client_pb2.OAuthClient(display_name="demo: sendpulse", scopes=CLIENT_SCOPES),
        request_id=str(uuid.uuid4()),
    )
    made = await operator.call(stub.CreateOAuthClient, request)
    return made.client_id, made.client_secret


def _read(options: Options) -> dict[str, dict[str, Any]]:
    path = options.path(FILE)
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OptionsError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise OptionsError(f"{path} is damaged ({error}): remove it, and new demo credentials are made") from error


def _text(known: dict[str, dict[str, Any]], section: str, key: str) -> str:
    value = known.get(section, {}).get(key)
    return value if isinstance(value, str) else ""


def _smtp(options: Options) -> dict[str, Any]:
    """Host and ports; a client that verifies certificates wants the name or address that ours has."""
    found: dict[str, Any] = {"host": "127.0.0.1", "port": None, "port_implicit_tls": None}
    for listener in options.mta.listeners:
        host, port = split_address(_reachable(listener.listen))
        key = "port_implicit_tls" if listener.tls is TlsMode.IMPLICIT else "port"
        if found[key] is None:
            found[key] = port
            found["host"] = host if key == "port" else found["host"]
    return found


def _reachable(address: str) -> str:
    """A listening address as a client on this machine would write it."""
    host, port = split_address(address)
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared with, not listened on
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
