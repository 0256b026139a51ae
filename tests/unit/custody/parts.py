"""The parts of a worker that take and settle messages, put together on real files: spool, replica, keys.

Control is a ``Bank``, which grants what it is told to; delivery is a ``Recorder``, which keeps the jobs it is given.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mta.custody.bounce import BounceMaker
from mta.custody.credits import Credits, GrantedLease
from mta.custody.intake import Intake, IntakeRules
from mta.custody.settlement import Settlement
from mta.custody.signer import Signer
from mta.custody.submission import Accepted, Origin, Source, Submission
from mta.message.address import parse_path
from mta.message.ids import IdMaker
from mta.policy.lookup import lineage
from mta.policy.records import KeyAlgorithm, Login, SealedKey, SenderDomain, Suppression, Tenant
from mta.queues.jobs import Job
from mta.queues.manager import QueueManager
from mta.queues.retry import RetrySchedule
from mta.replica.reader import ReplicaReader
from mta.replica.writer import Record, ReplicaWriter
from mta.runtime.lifecycle import Drain
from mta.runtime.refusals import Reason, Refusal
from mta.spool.schema import SpoolFile, open_file
from mta.spool.sqlite import SqliteStore

HOSTNAME = "mta1.barua.test"
SEALING_KEY = bytes(range(32))
MESSAGE = b"From: News <news@acme.test>\r\nTo: x@example.net\r\nSubject: Hello\r\n\r\nA line.\r\n"
SCHEDULE = RetrySchedule(1_000, 2.0, 8_000, 0.1, 60_000, 2)


@cache
def private_key(algorithm: KeyAlgorithm) -> rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey:
    """One key of each kind for all tests: making one takes time."""
    if algorithm is KeyAlgorithm.RSA_SHA256:
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate()


def sealed_key(tenant: str, domain: str, algorithm: KeyAlgorithm, sealing_key: bytes = SEALING_KEY) -> SealedKey:
    """A key as control hands it out."""
    der = private_key(algorithm).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    selector = "rsa" if algorithm is KeyAlgorithm.RSA_SHA256 else "ed"
    nonce = os.urandom(12)
    return SealedKey(
        selector, algorithm, nonce + AESGCM(sealing_key).encrypt(nonce, der, f"{tenant}/{domain}/{selector}".encode())
    )


def signed_domain(tenant: str, domain: str, *, sealing_key: bytes = SEALING_KEY) -> SenderDomain:
    """A domain with both kinds of keys."""
    return SenderDomain(
        domain, tenant, False, tuple(sealed_key(tenant, domain, kind, sealing_key) for kind in KeyAlgorithm)
    )


def tree() -> list[Record]:
    """operator, below it a reseller, below that acme; a rival beside the reseller."""
    return [
        Tenant("operator", "", False, ""),
        Tenant("reseller", "operator", False, ""),
        Tenant("acme", "reseller", False, "Acme@acme.test"),
        Tenant("rival", "operator", False, ""),
        SenderDomain("acme.test", "acme", True, ()),
        SenderDomain("reseller.test", "reseller", True, ()),
        SenderDomain("rival.test", "rival", True, ()),
        Suppression("acme", "gone@example.net", "hard_bounce"),
        Suppression("reseller", "angry@example.net", "complaint"),
        Suppression("operator", "law@example.net", "manual"),
        Suppression("rival", "other@example.net", "unsubscribe"),
        Login("acme", "acme", "$argon2id$unset"),
    ]


class Bank:
    """Control, as far as credits go. ``script`` is served first; then leases of what is left are granted."""

    def __init__(self, credits_: int = 1_000_000) -> None:
        self.credits = credits_
        self.granted: dict[str, GrantedLease] = {}
        self.calls: list[tuple[str, int, str]] = []
        self.script: list[Refusal | None] = []
        """What the next calls come to: a refusal, or None for a grant whose answer is lost on the way."""
        self.open = asyncio.Event()
        self.open.set()

    async def acquire(self, tenant: str, amount: int, request_id: str) -> GrantedLease:
        """As control does it: the same request id gets the same lease."""
        self.calls.append((tenant, amount, request_id))
        await self.open.wait()
        scripted = self.script.pop(0) if self.script else False
        if isinstance(scripted, Refusal):
            raise scripted
        lease = self.granted.get(request_id) or self._grant(amount, request_id)
        if scripted is None:
            raise Refusal(Reason.UNAVAILABLE, "deadline exceeded")
        return lease

    def _grant(self, amount: int, request_id: str) -> GrantedLease:
        amount = min(amount, self.credits)
        if not amount:
            raise Refusal(Reason.INSUFFICIENT_CREDITS, "no credits")
        self.credits -= amount
        lease = self.granted[request_id] = GrantedLease(len(self.granted) + 1, amount)
        return lease


@dataclass
class Recorder:
    """Delivery that keeps what it is given."""

    jobs: list[Job] = field(default_factory=list)
    active_recipients: int = 0
    active_bytes: int = 0

    def submit(self, job: Job) -> None:
        """Keep a job."""
        self.jobs.append(job)

    @property
    def recipient_ids(self) -> list[int]:
        """Recipients in the order they came."""
        return [recipient.recipient_id for job in self.jobs for recipient in job.recipients]


@dataclass
class Parts:
    """Everything of one worker but its sockets."""

    path: Path
    file: SpoolFile
    store: SqliteStore
    writer: ReplicaWriter
    policy: ReplicaReader
    bank: Bank
    credits: Credits
    delivery: Recorder
    queue: QueueManager
    bounces: BounceMaker
    settlement: Settlement
    drain: Drain
    intake: Intake
    free_bytes: list[int]

    def submission(self, content: bytes = MESSAGE, *recipients: str, **changes: object) -> Submission:
        """A submission of acme."""
        values: dict[str, object] = {
            "line": lineage(self.policy, "acme"),
            "sender": parse_path("bounces@acme.test"),
            "sender_name": "",
            "recipients": tuple(parse_path(recipient) for recipient in recipients or ("x@example.net",)),
            "content": content,
            "smtputf8": False,
            "origin": Origin(Source.SMTP, "ESMTPSA", "client.test", "192.0.2.7"),
        }
        return Submission(**(values | changes))  # type: ignore[arg-type]

    async def take(self, submission: Submission | None = None) -> Accepted | Refusal:
        """Submit, and wait for the answer, which must come once."""
        answers: asyncio.Queue[Accepted | Refusal] = asyncio.Queue()
        self.intake.submit(submission or self.submission(), answers.put_nowait)
        async with asyncio.timeout(60):
            answer = await answers.get()
        assert answers.empty()
        return answer

    async def accepted(self, submission: Submission | None = None) -> Accepted:
        """As ``take``, for what has to be accepted."""
        answer = await self.take(submission)
        assert isinstance(answer, Accepted), answer
        return answer

    async def refused(self, submission: Submission | None = None) -> Refusal:
        """As ``take``, for what has to be refused."""
        answer = await self.take(submission)
        assert isinstance(answer, Refusal), answer
        return answer

    def change_policy(self, *records: Record, deleted: bool = False) -> None:
        """Put records in force."""
        _, revision = self.writer.position()
        self.writer.apply([(record, deleted) for record in records], revision + 1)
        self.policy.refresh()


@asynccontextmanager
async def open_parts(
    folder: Path, *, records: Iterable[Record] | None = None, bank: Bank | None = None, message_bytes: int = 1_000_000
) -> AsyncIterator[Parts]:
    """Put the parts together in a folder; a second time, it is the next run."""
    writer = ReplicaWriter(folder / "policy.db")
    if writer.position() == ("", 0):
        writer.replace(tree() if records is None else records, "lineage", 1)
    policy = ReplicaReader(folder / "policy.db")
    file = open_file(folder / "spool" / "worker-0.db")
    store = SqliteStore(file)
    bank = bank or Bank()
    credits_ = Credits(store, store.leases(), bank.acquire)
    delivery = Recorder()
    queue = QueueManager(store, delivery, 10_000_000)
    ids = IdMaker(0, store.last_recipient_id)
    bounces = BounceMaker(store, ids, HOSTNAME)
    settlement = Settlement(store, SCHEDULE, bounces, queue.release)
    drain = Drain()
    free = [1_000_000_000]
    rules = IntakeRules(HOSTNAME, message_bytes, 20, 1_000_000)
    signer = Signer(lambda: {b"only": SEALING_KEY})
    intake = Intake(rules, store, queue, policy, credits_, signer, ids, drain, lambda: free[0])
    queue.start()
    parts = Parts(
        file.path,
        file,
        store,
        writer,
        policy,
        bank,
        credits_,
        delivery,
        queue,
        bounces,
        settlement,
        drain,
        intake,
        free,
    )
    try:
        yield parts
    finally:
        await queue.close()
        await intake.close()
        await credits_.close()
        await settlement.close()
        await store.close()
        policy.close()
        writer.close()
