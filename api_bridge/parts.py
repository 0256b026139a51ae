"""What every dialect is made of: one ``Parts`` for all of them, made in ``app``.

Helpers without state are functions: ``credentials`` (who asks), ``body`` (strict JSON), ``idempotency`` (a send that is
made once), ``endpoint`` (answers, the client's address).
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from starlette.requests import Request

from api_bridge.backend import Backend
from api_bridge.body import Budget, received
from api_bridge.bulk import Bulk
from api_bridge.rates import Rates
from api_bridge.tracking.tracker import Tracker
from mta.runtime.options import BridgeOptions


@dataclass(frozen=True, slots=True)
class Parts:
    """What the dialects share. Used on one loop."""

    backend: Backend
    options: BridgeOptions
    budget: Budget
    """Memory of all bodies."""
    bulk: Bulk
    """Memory and thread of large requests."""
    rates: Rates
    """Requests per second and key: ``parts.rates.admit(self.name, key)``."""
    tracker: Tracker
    """Pictures and links that tell what recipients do; does nothing where there is no ``bridge.public_url``."""
    mock_domain: str = ""
    """Mail to addresses of this domain is never sent (``mta.mock_domain``); empty: there is none."""
    hostname: str = "localhost"
    """What the Message-IDs that the MTA makes end with (``mta.hostname``)."""

    def received(self, request: Request, limit: int | None = None) -> AbstractAsyncContextManager[bytes]:
        """The whole body, for the length of the block; ``limit`` lowers ``bridge.body_bytes``. Raises Problem."""
        most = self.options.body_bytes if limit is None else min(limit, self.options.body_bytes)
        return received(request, most, self.budget)
