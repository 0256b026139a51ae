"""Who is calling: API keys of tenants, and the operator's token (metadata key ``authorization``)."""

import hashlib
import hmac
from dataclasses import dataclass

import grpc

from mta.policy.lookup import Policy
from mta.policy.records import MAIL_SCOPE
from mta.runtime.refusals import Reason, Refusal

_WRONG = "no valid API key; send one as 'authorization: Bearer bk_...'"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. ``tenant_id`` is empty for the operator, who may act for any tenant."""

    tenant_id: str


class CallerAuthentication:
    """Checks the credentials of calls against the policy in force."""

    def __init__(self, policy: Policy, operator_token: str) -> None:
        self._policy = policy
        self._operator_token = operator_token.encode()

    def caller(self, context: grpc.aio.ServicerContext[object, object]) -> Caller:
        """The caller of a call. Raises Refusal."""
        metadata = dict(context.invocation_metadata() or ())
        header = metadata.get("authorization", "")
        value = header.decode("ascii", "replace") if isinstance(header, bytes) else header
        scheme, _, token = value.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refusal(Reason.UNAUTHENTICATED, _WRONG)
        if hmac.compare_digest(token.encode(), self._operator_token):
            return Caller("")
        return Caller(self._tenant_of_key(token))

    def _tenant_of_key(self, token: str) -> str:
        prefix, _, rest = token.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._policy.api_key(key_id) if prefix == "bk" else None
        digest = hashlib.sha256(secret.encode()).digest()
        known = key.secret_sha256 if key is not None else bytes(32)
        if not hmac.compare_digest(digest, known) or key is None:
            raise Refusal(Reason.UNAUTHENTICATED, _WRONG)
        if MAIL_SCOPE not in key.scopes:
            raise Refusal(Reason.PERMISSION_DENIED, "this API key may not send mail; use one with the scope 'mail'")
        return key.tenant_id
