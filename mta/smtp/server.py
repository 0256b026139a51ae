"""The server's side of one SMTP connection, without I/O (RFC 5321, 1870, 2034, 2920, 3207, 4954, 6152, 6531).

Contract::

    session = ServerSession(ServerConfig("mx.example.org"), tls_active=False)
    session.greet()                        # queues the 220 banner
    send(session.take_output())
    session.feed(received)                 # any cut of the stream means the same
    while (event := session.next_event()) is not None:
        if type(event) is MailReceived:    # Mail, Rcpt, Message, Auth and StartTls pause the session …
            session.reply(codes.SENDER_OK) # … until they are answered, now or later
    send(session.take_output())
    if session.closing: close()            # after the output has been sent

``next_event`` gives ``None`` when it needs more bytes, or while an event awaits its answer (``awaiting_reply``). The
caller should not read from its socket while ``awaiting_reply`` or while unsent output piles up: input that is fed
meanwhile is kept, without limit. Three lifetimes are three types: ``ServerSession`` is the connection, ``Session``
lasts from the start or the TLS handshake, ``Transaction`` from MAIL to the end of data or RSET. None is ever cleared
field by field; it is dropped.

State and order of commands are in one table, ``TRANSITIONS``; what is not in it is answered 503.

Errors: whatever the peer sends ends in a reply or an event, never in an exception. :class:`SessionMisuseError` (a
``RuntimeError``) is the caller's mistake: an answer when none is awaited, or a reply that cannot answer that event.

A session answers 421 or 521 and sets ``closing`` when lines do not end with CRLF (SMTP smuggling), when a line has no
end, when the peer exceeds the error or junk limit, when clear text follows STARTTLS, and on BDAT, which is not offered
and whose octets would be read as commands.

Limits: the fields of :class:`ServerConfig`, ``COMMAND_LINE_LIMIT``, ``MAIL_LINE_LIMIT``, ``sasl.AUTH_LINE_LIMIT``,
``linebuffer.LINE_BUFFER_LIMIT`` and those of ``grammar``. Loop rules: one thread; no call blocks.
"""

from collections.abc import Callable, Mapping
from typing import Final

from mta.smtp import codes, grammar
from mta.smtp.connection import Connection, Session, SessionMisuseError, State, Transaction
from mta.smtp.data import DataReceiver, DataVerdict
from mta.smtp.events import (
    AuthReceived,
    EhloReceived,
    MailReceived,
    MessageReceived,
    QuitReceived,
    RcptReceived,
    ServerEvent,
    StartTlsReceived,
)
from mta.smtp.linebuffer import LineBuffer, LineError, LineFault
from mta.smtp.reply import Reply
from mta.smtp.sasl import AUTH_LINE_LIMIT, MECHANISMS, SaslDialogue
from mta.smtp.serverconfig import (
    COMMAND_LINE_LIMIT,
    MAIL_LINE_LIMIT,
    AuthenticationOffer,
    ServerConfig,
    ehlo_reply,
    helo_reply,
)


class ServerSession(Connection):
    """One connection. See the module text. ``authentication`` overrides the configured offer for this connection."""

    __slots__ = ("_actions", "_authentication")

    def __init__(
        self,
        config: ServerConfig,
        *,
        tls_active: bool = False,
        authentication: AuthenticationOffer | None = None,
    ) -> None:
        super().__init__(config, tls_active=tls_active)
        self._authentication = config.authentication if authentication is None else authentication
        self._actions = TRANSITIONS[State.START]

    def next_event(self) -> ServerEvent | None:
        """The next event, or ``None``: more bytes are needed, an event awaits its answer, or the session is closing."""
        while self._answered is None:
            if self._data is not None:
                rest = self._lines.take_rest()
                if not rest:
                    return None
                left = self._data.feed(rest)
                if left is None:
                    return None
                if left:
                    self._lines.put_back(left)
                return self._end_data(self._data)
            try:
                line = self._lines.next_line()
            except LineError as error:
                return self._refuse_line(error.fault)
            if line is None:
                return None
            event = self._act(line)
            if event is not None:
                return event
        return None

    def tls_started(self) -> None:
        """The handshake after StartTlsReceived is done. All that was known of the peer is forgotten (RFC 3207 §4.2)."""
        if self._state is not State.HANDSHAKE:
            raise SessionMisuseError("no TLS handshake was asked for")
        self.tls_active = True
        self._lines = LineBuffer()
        self._session = Session()
        self._transaction = None
        self._enter(State.START)

    # -- lines and state -----------------------------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        self._state = state
        self._actions = TRANSITIONS.get(state, _NO_COMMANDS)

    def _act(self, line: bytes) -> ServerEvent | None:
        if len(line) > COMMAND_LINE_LIMIT - 2 and (refusal := self._over_long(line)) is not None:
            return refusal
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return self._malformed("?", codes.UNPRINTABLE)
        if not text.isprintable() and not grammar.is_printable(text):
            return self._malformed("?", codes.UNPRINTABLE)
        if self._session.sasl is not None:
            return self._continue_auth(self._session.sasl, text)
        verb, _, argument = text.partition(" ")
        action = self._actions.get(verb)
        if action is None:
            verb = verb.upper()
            action = self._actions.get(verb)
            if action is None:
                return self._unrecognised(verb)
        return action(self, argument)

    def _over_long(self, line: bytes) -> ServerEvent | None:
        """A refusal when ``line`` exceeds what its command permits."""
        octets = len(line) + 2
        verb = line[:5].upper()
        if self._session.sasl is not None or verb == b"AUTH ":
            if octets <= AUTH_LINE_LIMIT:
                return None
            return self._malformed("AUTH", codes.AUTH_LINE_TOO_LONG)
        if verb == b"MAIL " and octets <= MAIL_LINE_LIMIT:
            return None
        return self._error("?", codes.LINE_TOO_LONG)

    def _malformed(self, command: str, reply: Reply) -> ServerEvent:
        """Refuse a line for its form; a SASL dialogue ends with that (RFC 4954 §4)."""
        self._leave_auth()
        return self._error(command, reply)

    def _unrecognised(self, verb: str) -> ServerEvent | None:
        if verb in _OTHER_PROTOCOLS:
            return self._refuse_and_close("?", codes.NOT_SMTP)
        return self._error("?", codes.UNRECOGNISED)

    def _refuse_line(self, fault: LineFault) -> ServerEvent:
        if fault is LineFault.NUL:
            return self._malformed("?", codes.UNPRINTABLE)
        if fault is LineFault.ENDLESS:
            return self._refuse_and_close("?", codes.LINE_WITHOUT_END)
        return self._refuse_and_close("?", codes.BARE_LINE_END)

    def _idle(self, command: str, reply: Reply) -> ServerEvent | None:
        """Answer a command that moves nothing forward."""
        if self._is_junk():
            return self._refuse_and_close(command, codes.TOO_MUCH_JUNK)
        self._output.append(reply.render())
        return None

    # -- commands: what TRANSITIONS points to --------------------------------------------------------------------------

    def _ehlo(self, argument: str) -> ServerEvent | None:
        return self._hello("EHLO", argument)

    def _helo(self, argument: str) -> ServerEvent | None:
        return self._hello("HELO", argument)

    def _hello(self, command: str, argument: str) -> ServerEvent | None:
        name = argument.strip(" ")
        if not grammar.is_helo_name(name):
            return self._error(command, codes.BAD_HELO_NAME)
        if self._is_junk():
            return self._refuse_and_close(command, codes.TOO_MUCH_JUNK)
        config = self._config
        esmtp = command == "EHLO"
        if esmtp:
            auth = self._auth_permitted() and not self._session.authenticated
            starttls = config.starttls and not self.tls_active
            self._output.append(ehlo_reply(config.hostname, config.size_limit, starttls, auth).render())
        else:
            self._output.append(helo_reply(config.hostname).render())
        self._session.esmtp = esmtp
        self._transaction = None  # RFC 5321 §4.1.4: EHLO also means RSET
        self._enter(State.READY)
        return EhloReceived(name, esmtp)

    def _mail(self, argument: str) -> ServerEvent | None:
        if self._config.require_auth and not self._session.authenticated:
            return self._error("MAIL", codes.AUTH_REQUIRED)
        try:
            path, parameters = grammar.parse_mail(argument)
        except grammar.GrammarError as error:
            return self._error("MAIL", Reply(error.code, error.enhanced, error.text))
        if parameters:
            fault = self._check_mail_parameters(parameters)
            if fault is codes.TOO_LARGE:
                return self._refuse("MAIL", fault)
            if fault is not None:
                return self._error("MAIL", fault)
        if not path.isascii() and "SMTPUTF8" not in parameters:
            return self._error("MAIL", codes.NEEDS_SMTPUTF8)
        self._transaction = Transaction(smtputf8="SMTPUTF8" in parameters)
        self._answered = self._mail_answered
        return MailReceived(path, parameters)

    def _check_mail_parameters(self, parameters: Mapping[str, str | None]) -> Reply | None:
        for keyword, value in parameters.items():
            if keyword == "SIZE":
                if value is None or not grammar.is_size_value(value):
                    return codes.BAD_SIZE
            elif keyword == "BODY":
                if value is None or value.upper() not in ("7BIT", "8BITMIME"):
                    return codes.BAD_BODY
            elif keyword == "SMTPUTF8":
                if value is not None:
                    return codes.BAD_SMTPUTF8
            elif keyword == "AUTH" and self._authentication is not AuthenticationOffer.NEVER:
                if value is None or not (value == "<>" or grammar.is_xtext(value)):
                    return codes.BAD_AUTH_PARAMETER
            else:
                return codes.UNKNOWN_PARAMETER
        size = parameters.get("SIZE")
        return codes.TOO_LARGE if size is not None and int(size) > self._config.size_limit else None

    def _mail_answered(self, reply: Reply) -> None:
        if reply.code < 300:
            self._enter(State.MAIL)
        else:
            self._transaction = None

    def _rcpt(self, argument: str) -> ServerEvent | None:
        transaction = self._transaction
        assert transaction is not None  # the table allows RCPT only inside a transaction
        try:
            path, parameters = grammar.parse_rcpt(argument)
        except grammar.GrammarError as error:
            transaction.attempted += 1
            return self._error("RCPT", Reply(error.code, error.enhanced, error.text))
        transaction.attempted += 1
        if parameters:
            return self._error("RCPT", codes.UNKNOWN_PARAMETER)
        if not transaction.smtputf8 and not path.isascii():
            return self._error("RCPT", codes.NEEDS_SMTPUTF8)
        if transaction.accepted >= self._config.recipients_limit:
            transaction.overshoot += 1
            if transaction.overshoot > self._config.recipients_overshoot_limit:
                return self._refuse_and_close("RCPT", codes.TOO_MANY_ERRORS)
            return self._refuse("RCPT", codes.TOO_MANY_RECIPIENTS)
        self._answered = self._rcpt_answered
        return RcptReceived(path, parameters)

    def _rcpt_answered(self, reply: Reply) -> None:
        transaction = self._transaction
        if reply.code < 300 and transaction is not None:
            transaction.accepted += 1
            if transaction.accepted == 1:
                self._enter(State.RCPT)

    def _data_command(self, argument: str) -> ServerEvent | None:
        if argument.strip(" "):
            return self._error("DATA", codes.NO_ARGUMENT_ALLOWED)
        self._output.append(codes.START_DATA.render())
        self._data = DataReceiver(self._config.size_limit)
        self._enter(State.DATA)
        return None

    def _data_too_early(self, argument: str) -> ServerEvent | None:
        attempted = self._transaction is not None and self._transaction.attempted
        return self._error("DATA", codes.NO_VALID_RECIPIENTS if attempted else codes.RCPT_FIRST)

    def _end_data(self, data: DataReceiver) -> ServerEvent:
        self._data = None
        self._transaction = None
        self._enter(State.READY)
        if data.verdict is DataVerdict.GOOD:
            self._answered = self._message_answered
            return MessageReceived(data.content)
        reply = _DATA_REFUSALS[data.verdict]
        if reply.code == 521:
            return self._refuse_and_close("DATA", reply)
        return self._refuse("DATA", reply)

    def _message_answered(self, reply: Reply) -> None:
        if reply.code < 300:
            self._progress()

    def _rset(self, argument: str) -> ServerEvent | None:
        if argument.strip(" "):
            return self._error("RSET", codes.NO_ARGUMENT_ALLOWED)
        self._transaction = None
        if self._state is not State.START:
            self._enter(State.READY)
        return self._idle("RSET", codes.OK)

    def _noop(self, argument: str) -> ServerEvent | None:
        return self._idle("NOOP", codes.OK)

    def _help(self, argument: str) -> ServerEvent | None:
        return self._idle("HELP", codes.HELP_TEXT)

    def _vrfy(self, argument: str) -> ServerEvent | None:
        if not argument.strip(" "):
            return self._error("VRFY", codes.ARGUMENT_NEEDED)
        return self._idle("VRFY", codes.CANNOT_VERIFY)

    def _expn(self, argument: str) -> ServerEvent | None:
        return self._error("EXPN", codes.NOT_IMPLEMENTED)

    def _quit(self, argument: str) -> ServerEvent | None:
        if argument.strip(" "):
            return self._error("QUIT", codes.NO_ARGUMENT_ALLOWED)
        self._output.append(codes.BYE.render())
        self._close()
        return QuitReceived()

    def _bdat(self, argument: str) -> ServerEvent | None:
        return self._refuse_and_close("BDAT", codes.CHUNKING_NOT_OFFERED)

    def _starttls(self, argument: str) -> ServerEvent | None:
        if not self._config.starttls:
            return self._error("STARTTLS", codes.NOT_IMPLEMENTED)
        if self.tls_active:
            return self._error("STARTTLS", codes.OUT_OF_ORDER)
        if argument.strip(" "):
            return self._error("STARTTLS", codes.NO_ARGUMENT_ALLOWED)
        if len(self._lines):  # CVE-2011-0411: commands sent in clear would be read as if they had come encrypted
            return self._refuse_and_close("STARTTLS", codes.CLEARTEXT_AFTER_STARTTLS)
        self._answered = self._starttls_answered
        return StartTlsReceived()

    def _starttls_answered(self, reply: Reply) -> None:
        if reply.code != 220:
            return
        if len(self._lines):
            self._output[-1] = codes.CLEARTEXT_AFTER_STARTTLS.render()
            self._close()
        else:
            self._enter(State.HANDSHAKE)

    # -- authentication (RFC 4954) -------------------------------------------------------------------------------------

    def _auth_permitted(self) -> bool:
        offered = self._authentication
        return offered is AuthenticationOffer.ALWAYS or (offered is AuthenticationOffer.TLS_ONLY and self.tls_active)

    def _auth(self, argument: str) -> ServerEvent | None:
        refusal = self._auth_refusal()
        if refusal is not None:
            return self._error("AUTH", refusal)
        mechanism, _, initial_response = argument.partition(" ")
        mechanism = mechanism.upper()
        if not mechanism:
            return self._error("AUTH", codes.ARGUMENT_NEEDED)
        if mechanism not in MECHANISMS:
            return self._error("AUTH", codes.AUTH_UNKNOWN_MECHANISM)
        sasl = self._session.sasl = SaslDialogue(mechanism)
        self._enter(State.AUTH)
        return self._go_on_with_auth(sasl.start(initial_response.strip(" ")))

    def _auth_refusal(self) -> Reply | None:
        if self._authentication is AuthenticationOffer.NEVER:
            return codes.NOT_IMPLEMENTED
        if self._session.authenticated:
            return codes.AUTH_DONE_ALREADY
        if not self._session.esmtp:
            return codes.HELLO_FIRST
        return None if self._auth_permitted() else codes.AUTH_NEEDS_TLS

    def _continue_auth(self, sasl: SaslDialogue, line: str) -> ServerEvent | None:
        return self._go_on_with_auth(sasl.receive(line))

    def _go_on_with_auth(self, outcome: Reply | AuthReceived) -> ServerEvent | None:
        if isinstance(outcome, AuthReceived):
            self._leave_auth()
            self._answered = self._auth_answered
            return outcome
        if outcome.code == 334:
            self._output.append(outcome.render())
            return None
        return self._malformed("AUTH", outcome)

    def _leave_auth(self) -> None:
        if self._session.sasl is not None:
            self._session.sasl = None
            self._enter(State.READY)

    def _auth_answered(self, reply: Reply) -> None:
        self._session.authenticated = reply.code == 235


# -- tables ------------------------------------------------------------------------------------------------------------

Action = Callable[[ServerSession, str], ServerEvent | None]


def _refusing(command: str, reply: Reply) -> Action:
    """An action that answers ``reply`` and changes nothing."""

    def refuse(session: ServerSession, argument: str) -> ServerEvent | None:
        return session._error(command, reply)

    return refuse


COMMANDS: Final = (
    "EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "QUIT", "STARTTLS", "AUTH",
)  # fmt: skip
"""Every verb this server knows, offered or not."""

_ANYWHERE: Final[dict[str, Action]] = {
    "EHLO": ServerSession._ehlo,
    "HELO": ServerSession._helo,
    "RSET": ServerSession._rset,
    "NOOP": ServerSession._noop,
    "VRFY": ServerSession._vrfy,
    "EXPN": ServerSession._expn,
    "HELP": ServerSession._help,
    "QUIT": ServerSession._quit,
    "BDAT": ServerSession._bdat,
}


def _row(out_of_order: Reply, **actions: Action) -> dict[str, Action]:
    """One state's row: what is permitted anywhere, what is permitted here, and 503 for all other commands."""
    refused = {command: _refusing(command, out_of_order) for command in COMMANDS}
    return refused | _ANYWHERE | actions


TRANSITIONS: Final[dict[State, dict[str, Action]]] = {
    State.START: _row(codes.HELLO_FIRST),
    State.READY: _row(
        codes.MAIL_FIRST, MAIL=ServerSession._mail, STARTTLS=ServerSession._starttls, AUTH=ServerSession._auth
    ),
    State.MAIL: _row(
        codes.OUT_OF_ORDER,
        MAIL=_refusing("MAIL", codes.NESTED_MAIL),
        RCPT=ServerSession._rcpt,
        DATA=ServerSession._data_too_early,
    ),
    State.RCPT: _row(
        codes.OUT_OF_ORDER,
        MAIL=_refusing("MAIL", codes.NESTED_MAIL),
        RCPT=ServerSession._rcpt,
        DATA=ServerSession._data_command,
    ),
}
"""(state, command) → action. States that are not here take no commands."""

_NO_COMMANDS: Final[dict[str, Action]] = {}

_DATA_REFUSALS: Final = {
    DataVerdict.TOO_LARGE: codes.TOO_LARGE,
    DataVerdict.BARE_LINE_END: codes.BARE_LINE_END,
    DataVerdict.DISGUISED_END: codes.DISGUISED_DATA_END,
    DataVerdict.NUL: codes.NUL_IN_DATA,
}

_OTHER_PROTOCOLS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PATCH", "TRACE"})
"""Verbs of HTTP: a browser or proxy made to talk to us by somebody else; its body could hold commands."""
