"""The language of SMTP, both sides, without I/O.

:class:`ServerSession` and :class:`ClientSession` take bytes and give events; replies and transactions go in and bytes
come out. Sockets, TLS, time, logs and policy belong to the callers (``mta.ingress``, ``mta.delivery``), and so does the
meaning of addresses. Start reading at ``server`` or ``client``; ``grammar``, ``linebuffer``, ``data`` and ``reply``
are the parts both are made of. Imports nothing but pure standard-library modules.
"""

from mta.smtp import codes
from mta.smtp.client import ClientMisuseError, ClientSession, ClientState, Transaction
from mta.smtp.connection import SessionMisuseError, State
from mta.smtp.events import (
    AuthDone,
    AuthReceived,
    AuthRefused,
    ClientEvent,
    CommandRefused,
    EhloDone,
    EhloReceived,
    Greeted,
    MailReceived,
    MessageReceived,
    ProtocolError,
    QuitDone,
    QuitReceived,
    RcptReceived,
    RecipientResult,
    ResetDone,
    SaidBy,
    ServerEvent,
    SessionRefused,
    Stage,
    StartTlsReceived,
    StartTlsRefused,
    TlsReady,
    TransactionDone,
)
from mta.smtp.extensions import Extension, Extensions
from mta.smtp.reply import Reply, ReplyError
from mta.smtp.server import ServerSession
from mta.smtp.serverconfig import AuthenticationOffer, ServerConfig

__all__ = [
    "ServerSession",
    "ServerConfig",
    "AuthenticationOffer",
    "State",
    "SessionMisuseError",
    "ClientSession",
    "ClientState",
    "ClientMisuseError",
    "Transaction",
    "Reply",
    "ReplyError",
    "codes",
    "Extension",
    "Extensions",
    "ServerEvent",
    "EhloReceived",
    "MailReceived",
    "RcptReceived",
    "MessageReceived",
    "AuthReceived",
    "StartTlsReceived",
    "CommandRefused",
    "QuitReceived",
    "ClientEvent",
    "Greeted",
    "EhloDone",
    "TlsReady",
    "StartTlsRefused",
    "AuthDone",
    "AuthRefused",
    "TransactionDone",
    "ResetDone",
    "QuitDone",
    "SessionRefused",
    "ProtocolError",
    "RecipientResult",
    "Stage",
    "SaidBy",
]
