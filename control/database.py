"""The connection to PostgreSQL: a pool, whole transactions with retry, and what a failure means to a caller.

``Database.transact(work)`` runs ``work(connection)`` in one READ COMMITTED transaction. Serialization failures and
deadlocks run the whole of it again, as does a connection that broke before COMMIT was sent: nothing had happened. A
connection that breaks during COMMIT leaves the outcome unknown; the caller gets UNAVAILABLE and repeats its request
with the same request id. ``work`` must therefore touch nothing but the database.

Errors: ``Refusal`` with UNAVAILABLE for everything that is PostgreSQL's or the network's condition (away, starting,
read-only, out of room, too slow); other database errors are mistakes of ours and pass through. Recovery needs no
restart: the pool connects anew when the server is back.

Limits: waiting for a connection, one statement, a lock and an idle transaction are all bounded (see the constants and
``[database]`` in the options). One event loop.
"""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import asyncpg
from prometheus_client import Counter, Gauge

from mta.runtime.log import get_logger
from mta.runtime.options import DatabaseOptions
from mta.runtime.refusals import Reason, Refusal

log = get_logger(__name__)

T = TypeVar("T")
Row = Mapping[str, Any]

MAX_ATTEMPTS = 6
"""Runs of one transaction: conflicts are rare and short, so more would hide a mistake."""
LOCK_TIMEOUT_SECONDS = 5.0
"""Wait for a row lock: transactions here are short, so a longer wait means a stuck peer."""
IDLE_TRANSACTION_SECONDS = 30.0
"""After this the server ends a transaction whose client went silent and frees its locks."""
KEEPALIVE_SECONDS = 10
"""Silence on a TCP connection before probes, and between them."""
USER_TIMEOUT_SECONDS = 20
"""Unacknowledged data for so long ends a TCP connection."""
RETRY_AFTER_SECONDS = 1.0
"""What callers are told to wait when the database is away."""

_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_BROKEN = (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InternalClientError)
_AWAY = (
    *_BROKEN,
    asyncpg.InsufficientResourcesError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
)

FAILURES = (Refusal, asyncpg.PostgresError, asyncpg.InterfaceError)
"""Everything that ``transact`` raises of itself: what a task in the background logs and outlives."""

_retries = Counter("barua_control_database_retries_total", "Transactions run again: conflict or lost connection.")
_unavailable = Counter("barua_control_database_unavailable_total", "Transactions refused because PostgreSQL was away.")
_connections = Gauge("barua_control_database_connections", "Connections of the pool.", ["state"])


class Connection(Protocol):
    """The part of an asyncpg connection that ``store`` uses."""

    async def execute(self, query: str, *args: Any) -> str:
        """Run a statement; its command tag."""

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        """All rows."""

    async def fetchrow(self, query: str, *args: Any) -> Row | None:
        """The first row, if any."""

    async def fetchval(self, query: str, *args: Any) -> Any:
        """The first value of the first row; None if there is none."""

    async def copy_records_to_table(
        self, table_name: str, *, records: Iterable[Sequence[Any]], columns: Sequence[str]
    ) -> str:
        """COPY rows into a table."""


class Database:
    """A pool of connections to one database."""

    def __init__(self, url: str, options: DatabaseOptions) -> None:
        self._url = url
        self._options = options
        self._pool: Any = None

    async def open(self) -> None:
        """Make the pool. Connects to nothing yet, so PostgreSQL may be away."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._options.pool_size,
            command_timeout=self._options.command_timeout_seconds,
            timeout=self._options.acquire_timeout_seconds,
            init=_keep_alive,
            server_settings=self._server_settings(),
        )
        # The newest database of the process is the one that is shown.
        _connections.labels("open").set_function(lambda: self._pool.get_size())
        _connections.labels("idle").set_function(lambda: self._pool.get_idle_size())

    async def close(self) -> None:
        """Close every connection, waiting a little for those in use."""
        try:
            await asyncio.wait_for(self._pool.close(), self._options.acquire_timeout_seconds)
        except TimeoutError:
            self._pool.terminate()

    async def connect(self) -> Any:
        """A connection of its own outside the pool, for LISTEN. The caller closes it."""
        connection = await asyncpg.connect(
            self._url,
            timeout=self._options.acquire_timeout_seconds,
            command_timeout=self._options.command_timeout_seconds,
            server_settings=self._server_settings(),
        )
        await _keep_alive(connection)
        return connection

    async def transact(self, work: Callable[[Connection], Awaitable[T]], *, keep: bool = True) -> T:
        """Run ``work`` in one transaction and return what it returns; ``keep=False`` rolls back in the end."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(work, keep)
            except _Again as again:
                if attempt >= MAX_ATTEMPTS:
                    raise unavailable() from again.__cause__
                _retries.inc()
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - spreads retries, no secret
            except _AWAY as error:
                log.warning("database_unavailable", error=type(error).__name__, text=str(error))
                _unavailable.inc()
                raise unavailable() from error

    async def healthy(self, timeout_seconds: float) -> bool:
        """Whether the database answers and takes writes within the time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                read_only = await self.transact(lambda connection: connection.fetchval("SHOW transaction_read_only"))
        except (TimeoutError, *FAILURES):
            return False
        return bool(read_only == "off")

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]], keep: bool) -> T:
        async with self._pool.acquire(timeout=self._options.acquire_timeout_seconds) as connection:
            transaction = connection.transaction()
            try:
                await transaction.start()
                result = await work(connection)
            except _CONFLICTS as error:
                await _roll_back(connection, transaction)
                raise _Again from error
            except (*_BROKEN, asyncpg.InterfaceError) as error:
                if _is_dead(connection):
                    raise _Again from error
                await _roll_back(connection, transaction)
                raise
            except BaseException:
                await _roll_back(connection, transaction)
                raise
            try:
                await (transaction.commit() if keep else transaction.rollback())
            except _CONFLICTS as error:
                raise _Again from error
            except asyncpg.InterfaceError as error:
                if _is_dead(connection):
                    raise ConnectionResetError("lost during COMMIT") from error
                raise
            return result

    def _server_settings(self) -> dict[str, str]:
        statement_ms = int(self._options.command_timeout_seconds * 1000)
        return {
            "application_name": "barua-control",
            "statement_timeout": str(statement_ms),
            "lock_timeout": str(int(LOCK_TIMEOUT_SECONDS * 1000)),
            "idle_in_transaction_session_timeout": str(int(IDLE_TRANSACTION_SECONDS * 1000)),
            "timezone": "UTC",
            "jit": "off",
        }


class _Again(Exception):
    """The transaction had no effect and may run once more."""


def unavailable() -> Refusal:
    """The refusal for a database that is away."""
    return Refusal(Reason.UNAVAILABLE, "the service is not available; try again", retry_after=RETRY_AFTER_SECONDS)


def _is_dead(connection: Any) -> bool:
    """Whether a pooled connection is lost. The pool takes a lost one back at once, and then it answers nothing."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


async def _roll_back(connection: Any, transaction: Any) -> None:
    """Roll back; a connection that cannot is closed, so that the pool drops it."""
    try:
        await transaction.rollback()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        if not _is_dead(connection):
            connection.terminate()


async def _keep_alive(connection: Any) -> None:
    """Notice a dead peer: asyncpg leaves the operating system's defaults, which take hours."""
    channel: socket.socket | None = connection._transport.get_extra_info("socket")
    if channel is None or channel.family == socket.AF_UNIX:
        return
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_SECONDS * 1000)
