"""The failure policy of delivery: turns replies and failures into outcomes. No other module looks at reply codes.

A 2yz to the final dot is delivered. 5yz to MAIL, RCPT, DATA or the final dot is permanent for those recipients. All
else is temporary: 4yz, anything said before a transaction (a server that refuses us may well take mail tomorrow), lost
connections, broken protocol, and every error nobody thought of.
"""

from mta.message.outcome import Outcome, OutcomeKind, SaidBy, Stage
from mta.routing.router import RouteFailure
from mta.smtp import events
from mta.smtp.events import RecipientResult
from mta.smtp.reply import Reply

_STAGES = {
    events.Stage.GREETING: Stage.GREETING,
    events.Stage.EHLO: Stage.EHLO,
    events.Stage.STARTTLS: Stage.STARTTLS,
    events.Stage.AUTH: Stage.AUTH,
    events.Stage.IDLE: Stage.MAIL,
    events.Stage.RSET: Stage.MAIL,
    events.Stage.MAIL: Stage.MAIL,
    events.Stage.RCPT: Stage.RCPT,
    events.Stage.DATA: Stage.DATA,
    events.Stage.FINAL_DOT: Stage.MESSAGE,
    events.Stage.QUIT: Stage.MAIL,
}
_ABOUT_LOGIN = frozenset({530, 534, 535, 538})
_TRANSACTION = frozenset({Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.MESSAGE})


def of_result(result: RecipientResult, host: str, *, by_provider: bool = False) -> Outcome:
    """The outcome of one recipient of a finished transaction.

    A provider that wants a login, or another one (RFC 4954 §6), has not judged the message: that is temporary.
    """
    reply, stage = result.reply, _STAGES[result.stage]
    said_by = SaidBy.REMOTE if result.said_by is events.SaidBy.PEER else SaidBy.LOCAL
    code = reply.code
    if stage is Stage.MESSAGE and code // 100 == 2 and said_by is SaidBy.REMOTE:
        kind = OutcomeKind.DELIVERED
    elif code // 100 == 5 and stage in _TRANSACTION and not (by_provider and code in _ABOUT_LOGIN):
        kind = OutcomeKind.BOUNCED
    else:
        kind = OutcomeKind.DEFERRED
    said = code if said_by is SaidBy.REMOTE else None
    return Outcome(kind, said, _enhanced(reply), reply.text, said_by, stage, host)


def of_refusal(reply: Reply, stage: events.Stage, host: str) -> Outcome:
    """The server turned us away before a transaction."""
    return Outcome(OutcomeKind.DEFERRED, reply.code, _enhanced(reply), reply.text, SaidBy.REMOTE, _STAGES[stage], host)


def of_auth(reply: Reply, host: str) -> Outcome:
    """The server refused our username or password: it is not the message that is at fault."""
    text = f"the SMTP provider refused the username or password: {reply.text}"
    return Outcome(OutcomeKind.DEFERRED, reply.code, _enhanced(reply), text, SaidBy.REMOTE, Stage.AUTH, host)


def of_route(failure: RouteFailure) -> Outcome:
    """There is nowhere to deliver to."""
    kind = OutcomeKind.BOUNCED if failure.permanent else OutcomeKind.DEFERRED
    return Outcome(kind, failure.code, failure.enhanced, failure.text, SaidBy.LOCAL, Stage.ROUTE, None)


def of_connect(text: str, host: str | None) -> Outcome:
    """No server of the site could be reached (RFC 3463: 4.4.1)."""
    return Outcome(OutcomeKind.DEFERRED, None, "4.4.1", text, SaidBy.LOCAL, Stage.CONNECT, host)


def of_local(text: str, enhanced: str) -> Outcome:
    """We could not do our part; it is tried again."""
    return Outcome(OutcomeKind.DEFERRED, None, enhanced, text, SaidBy.LOCAL, Stage.QUEUE, None)


def of_unsendable(text: str) -> Outcome:
    """The stored message can never be sent as it is."""
    return Outcome(OutcomeKind.BOUNCED, None, "5.6.0", text, SaidBy.LOCAL, Stage.QUEUE, None)


def ends_session(reply: Reply) -> bool:
    """Whether a server that gave this reply to a transaction is closing the connection."""
    return reply.code == 421


def _enhanced(reply: Reply) -> str:
    """The enhanced code, or the generic one of the reply's class (RFC 3463 §3.1)."""
    return reply.enhanced or f"{reply.code // 100 if reply.code // 100 in (2, 4, 5) else 4}.0.0"
