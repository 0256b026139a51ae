"""Which of its faults a request is told of: that nobody has its credentials comes before everything it says.

The bridge cannot judge credentials. So whoever is about to be told of a ``Problem`` has them judged first, by whoever
would have judged the request, and hears 401 if they are nobody's: strangers learn nothing of what a good request looks
like. A request that is right is judged as it is carried out, and pays nothing for this.

What comes before credentials all the same: paths and methods that are not there, a rate that is exceeded, and a body
that did not arrive (too slow, too large, compressed) or for which there is no room.

Errors: ``Refusal`` with the reasons asked for. Loop rules: used on the bridge's loop.
"""

from collections.abc import Collection

from api_bridge.backend import UNKNOWN, Backend
from api_bridge.problems import Problem
from mta.runtime.refusals import Reason, Refusal

_BEFORE = frozenset({401, 408, 413, 415, 429})
"""Statuses of problems that come before credentials, or are about nothing else; all of 500 and above do, too."""


async def credentials_first(
    problem: Problem,
    backend: Backend,
    authorization: str,
    peer: str,
    *,
    sends: bool = False,
    reasons: Collection[Reason] = UNKNOWN,
) -> None:
    """Return if the request is to be told of ``problem``. Raises Refusal, for one of ``reasons``, to be told instead.

    ``sends``: the request is one for the MTA, which says of credentials that may not send PERMISSION_DENIED.
    """
    if problem.status in _BEFORE or problem.status >= 500:
        return
    # A problem that is made of a refusal is told to somebody whose credentials were judged by whoever refused.
    if not isinstance(problem.__context__, Refusal):
        await backend.check_known(authorization, peer, sends=sends, reasons=reasons)
