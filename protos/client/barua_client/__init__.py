"""The Python client of Barua's gRPC services, for internal services, the `barua` command and the bridge.

    from barua_client import ControlClient, Refusal, bearer

    async with ControlClient("127.0.0.1:7070", bearer(token)) as control:
        tenant = await control.tenants.GetTenant(GetTenantRequest(name="tenants/acme"))

Each service is an attribute of ``ControlClient`` or ``MtaClient``; its methods have the names and types of the proto.
What the client adds to the generated stubs:

- a deadline on every call (``deadline_seconds``, or ``timeout=`` of a call);
- the caller's credentials;
- a ``request_id`` in requests that have the field and leave it empty, so that a repeat moves nothing twice;
- repeats after UNAVAILABLE, and nothing else, where a repeat is safe: the method only reads, or has a request id;
- failures as ``Refusal``: a reason, a text for people, the field at fault; ``Unreachable`` when nobody answered.

``pages`` walks lists. Belongs to the event loop that made it. Layers: stubs and ``mta.runtime`` alone.
"""

from barua_client.clients import ControlClient, MtaClient
from barua_client.connection import Connection, Unreachable, basic, bearer
from mta.runtime.refusals import Reason, Refusal

__all__ = ["Connection", "ControlClient", "MtaClient", "Reason", "Refusal", "Unreachable", "basic", "bearer"]
