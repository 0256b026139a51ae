"""Recipients that are played: what becomes of mail to the mock domain, to which nothing is ever sent.

Programs are tried out with it: the part of the address before the "@", up to a "+", says what is to happen. Pure.
"""

from mta.message.outcome import Outcome, OutcomeKind, SaidBy, Stage

HOST = "mock"
"""What is told as the remote host."""

_DELIVERED = (OutcomeKind.DELIVERED, 250, "2.0.0", "OK: taken by the mock domain", Stage.MESSAGE)
_FAILED = {
    "hardbounce": (OutcomeKind.BOUNCED, 550, "5.1.1", "User unknown in the mock domain", Stage.RCPT),
    "dropped": (OutcomeKind.BOUNCED, None, "5.7.1", "Message dropped for the mock domain", Stage.ROUTE),
}
_SOFT = (OutcomeKind.DEFERRED, 450, "4.2.1", "Mailbox of the mock domain is busy; try again", Stage.RCPT)


def outcome(address: str, attempts: int) -> Outcome:
    """The outcome for a recipient after so many attempts: ``softbounce`` fails once, what is not known never does."""
    local = address.rpartition("@")[0].partition("+")[0].lower()
    plays = _SOFT if local == "softbounce" and not attempts else _FAILED.get(local, _DELIVERED)
    kind, code, enhanced, text, stage = plays
    # What no server has answered is said by us.
    said_by = SaidBy.LOCAL if code is None else SaidBy.REMOTE
    return Outcome(kind, code, enhanced, text, said_by, stage, HOST if code else None)
