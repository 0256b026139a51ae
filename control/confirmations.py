"""Mails the codes that prove senders.

``Confirmations.run`` is a task that looks for senders with a code due, makes the code, keeps its keyed hash, and hands
the message to a ``Mailer``. A code is good from before it is handed over, so one that arrives can be used. What could
not be handed over is tried again later, with a new code; several control programs share the work.

Limits: one event loop; ``AT_ONCE`` messages at a time.
"""

import asyncio
import secrets
from email.message import EmailMessage
from email.policy import SMTPUTF8
from typing import Protocol

from control.database import FAILURES, Database
from control.sealing import Sealer
from control.store import senders
from control.store.senders import CODE_HOURS, Sender
from mta.runtime.log import get_logger
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

POLL_SECONDS = 5.0
"""Between looks for codes that another control program was asked for, or that are tried again."""
AT_ONCE = 8
CODE_DIGITS = 8
_LASTING = frozenset({Reason.RECIPIENT_SUPPRESSED, Reason.INVALID_ARGUMENT, Reason.BAD_CONTENT, Reason.INTERNAL})
"""Why a message is not taken, today or tomorrow."""


class Mailer(Protocol):
    """Hands messages of the platform itself to a mail server."""

    async def send(self, recipient: str, message: EmailMessage) -> None:
        """Send a message without a From field, which is added. Raises Refusal."""


class Confirmations:
    """The codes of senders: made, kept as hashes, mailed."""

    def __init__(self, database: Database, sealer: Sealer, mailer: Mailer) -> None:
        self._database = database
        self._sealer = sealer
        self._mailer = mailer
        self._due = asyncio.Event()

    def wake(self) -> None:
        """Look for codes that are due, now."""
        self._due.set()

    def hash_of(self, sender: Sender, code: str) -> bytes:
        """What is kept of a code: nothing to guess it by without the sealing key."""
        return self._sealer.fingerprint(f"sender code/{sender.tenant_id}/{sender.address}/{code}".encode())

    async def run(self) -> None:
        """Mail codes for ever."""
        while True:
            self._due.clear()
            try:
                while due := await self._database.transact(lambda connection: senders.claim_mail(connection, AT_ONCE)):
                    await asyncio.gather(*map(self._mail, due))
            except FAILURES as error:
                log.warning("confirmations_postponed", error=type(error).__name__, text=str(error))
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._due.wait()
            except TimeoutError:
                continue

    async def _mail(self, sender: Sender) -> None:
        code = "".join(secrets.choice("0123456789") for _ in range(CODE_DIGITS))
        code_hash = self.hash_of(sender, code)
        await self._database.transact(lambda connection: senders.set_code(connection, sender, code_hash))
        try:
            await self._mailer.send(sender.address, message(sender.address, code))
        except Refusal as refusal:
            await self._failed(sender, code_hash, refusal)
            return
        except Exception:  # one address must not keep the others from their codes
            log.exception("sender_code_broke", tenant=sender.tenant_id)
            await self._failed(sender, code_hash, Refusal(Reason.INTERNAL, "no message could be made for it"))
            return
        await self._database.transact(lambda connection: senders.mail_done(connection, sender, code_hash))
        log.info("sender_code_mailed", tenant=sender.tenant_id)

    async def _failed(self, sender: Sender, code_hash: bytes, refusal: Refusal) -> None:
        again = refusal.reason not in _LASTING
        # The mail server's words are about the operator's own account, so its customers do not get them.
        trouble = "the mail server is not available; it is tried again" if again else refusal.message
        log.warning("sender_code_not_mailed", tenant=sender.tenant_id, reason=refusal.reason, text=refusal.message)
        await self._database.transact(
            lambda connection: senders.mail_failed(connection, sender, code_hash, trouble, again=again)
        )


def message(address: str, code: str) -> EmailMessage:
    """The message with a code, in one piece for programs that read it. It has no words of the tenant's to abuse."""
    mail = EmailMessage(policy=SMTPUTF8)
    mail["To"] = address
    mail["Subject"] = f"{code} confirms your sender address"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(
        f"Somebody asked to send mail from the address {address}.\n"
        "\n"
        f"If that was you, confirm it with this code: {code}\n"
        "\n"
        f"The code is good for {CODE_HOURS} hours. If it was not you, there is nothing to do:\n"
        "without the code the address cannot be used.\n"
    )
    return mail
