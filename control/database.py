"""The connection to PostgreSQL: a pool, whole transactions with retry, and what a failure means to a caller.

``Database.transact(work)`` runs ``work(connection)`` in one READ COMMITTED transaction. Serialization failures and
deadlocks run the whole of it again, as does a connection that broke before COMMIT was sent: nothing had happened. A
connection that breaks during COMMIT leaves the outcome unknown. Work that finds out by itself whether it was done
(``repeatable``) runs again then, and otherwise the caller gets UNAVAILABLE and has to look. ``work`` must therefore
touch nothing but the database, and leave nothing in the session (SET, LISTEN, session locks): it is not reset.

A transaction acts for ``control.model.caller.acting_tenant()``. For the root it runs as the user of the URL, who owns
the tables. For any other tenant it runs as the role ``barua_app``, to which row-level security shows that tenant's rows
and those below (``store/migrations/0002_rows.sql``). Both are part of BEGIN, which goes out with the first statement if
that has no parameters and else before it; work that runs no statement costs nothing.

Errors: ``Refusal`` with UNAVAILABLE for everything that is PostgreSQL's or the network's condition (away, starting,
read-only, out of room, too slow); other database errors are mistakes of ours and pass through. Recovery needs no
restart: the pool connects anew when the server is back.

Limits: waiting for a connection, one statement, a lock and an idle transaction are all bounded (see the constants and
``[database]`` in the options). One event loop.
"""

import asyncio
import random
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

import asyncpg
from prometheus_client import Counter, Gauge

from control.model.caller import ROOT_TENANT, acting_tenant
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

APP_ROLE = "barua_app"
"""Role of transactions for tenants: it owns nothing and cannot bypass row-level security."""

_TENANT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
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

_FAILED = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

FAILURES = (Refusal, asyncpg.PostgresError, asyncpg.InterfaceError)
"""Everything that ``transact`` raises of itself: what a task in the background logs and outlives."""

_retries = Counter("barua_control_database_retries_total", "Transactions run again: conflict or lost connection.")
_unknown = Counter("barua_control_database_commits_unknown_total", "Connections that were lost during COMMIT.")
_unavailable = Counter("barua_control_database_unavailable_total", "Transactions refused because PostgreSQL was away.")
_connections = Gauge("barua_control_database_connections", "Connections of the pool.", ["state"])


class Connection(Protocol):
    """The part of an asyncpg connection that ``store`` uses."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run a statement; its command tag. ``timeout`` in seconds replaces that of the options."""

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

    def conclude(self, query: str) -> None:
        """Run a statement without parameters together with COMMIT, which saves a round trip. One per transaction."""


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
            reset=_keep_session,
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

    async def transact(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        keep: bool = True,
        repeatable: bool = False,
        whole: bool = True,
    ) -> T:
        """Run ``work`` in one transaction for the acting tenant and return what it returns.

        ``keep=False`` rolls back in the end. ``repeatable`` tells that running ``work`` again after it was committed
        has no second effect and gives the same answer: a transaction whose outcome is unknown then runs again.
        ``whole=False`` is for work of the root that only reads and is asked all the time: each statement is a
        transaction of its own, which saves BEGIN and COMMIT.
        """
        begin = begin_for(acting_tenant())
        if not whole:
            assert acting_tenant() == ROOT_TENANT, "only a transaction can act for a tenant"
            begin = ""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(work, begin, keep)
            except _Again as again:
                if again.unknown and not repeatable:
                    raise unavailable() from again.__cause__
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

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]], begin: str, keep: bool) -> T:
        async with self._pool.acquire(timeout=self._options.acquire_timeout_seconds) as connection:
            transaction = _Transaction(connection, begin)
            try:
                result = await work(transaction)
            except _CONFLICTS as error:
                await transaction.roll_back()
                raise _Again from error
            except (*_BROKEN, asyncpg.InterfaceError) as error:
                if _is_dead(connection):
                    raise _Again from error
                await transaction.roll_back()
                raise
            except BaseException:
                await transaction.roll_back()
                raise
            await (transaction.commit() if keep else transaction.roll_back())
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
    """The transaction may run once more: it had no effect, or nobody knows (``unknown``)."""

    def __init__(self, *, unknown: bool = False) -> None:
        super().__init__()
        self.unknown = unknown


def begin_for(tenant_id: str) -> str:
    """What begins a transaction for a tenant."""
    if not _TENANT_ID.fullmatch(tenant_id):
        raise ValueError(f"{tenant_id!r} is no tenant id")
    role = "" if tenant_id == ROOT_TENANT else f" SET LOCAL ROLE {APP_ROLE};"
    return f"BEGIN;{role} SET LOCAL barua.tenant = '{tenant_id}'"


def unavailable() -> Refusal:
    """The refusal for a database that is away."""
    return Refusal(Reason.UNAVAILABLE, "the service is not available; try again", retry_after=RETRY_AFTER_SECONDS)


def _is_dead(connection: Any) -> bool:
    """Whether a pooled connection is lost. The pool takes a lost one back at once, and then it answers nothing."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True


class _Transaction:
    """A ``Connection`` in a transaction that begins with its first statement; in none if ``begin`` is empty."""

    __slots__ = ("_begin", "_connection", "_last", "_whole")

    def __init__(self, connection: Any, begin: str) -> None:
        self._connection = connection
        # None: it has begun.
        self._begin: str | None = begin or None
        self._whole = bool(begin)
        self._last = ""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        if args:
            await self._start()
        elif self._begin is not None:
            query, self._begin = f"{self._begin}; {query}", None
        return str(await self._connection.execute(query, *args, timeout=timeout))

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        await self._start()
        return cast(list[Row], await self._connection.fetch(query, *args))

    async def fetchrow(self, query: str, *args: Any) -> Row | None:
        await self._start()
        return cast(Row | None, await self._connection.fetchrow(query, *args))

    async def fetchval(self, query: str, *args: Any) -> Any:
        await self._start()
        return await self._connection.fetchval(query, *args)

    async def copy_records_to_table(
        self, table_name: str, *, records: Iterable[Sequence[Any]], columns: Sequence[str]
    ) -> str:
        await self._start()
        return str(await self._connection.copy_records_to_table(table_name, records=records, columns=columns))

    def conclude(self, query: str) -> None:
        self._last = f"{query}; "

    async def commit(self) -> None:
        """Commit. Raises _Again with ``unknown`` if the answer did not come."""
        if not self._whole:
            return
        if self._begin is not None and not self._last:
            return
        await self._start()
        try:
            done = await self._connection.execute(f"{self._last}COMMIT")
        except asyncio.CancelledError:
            self._connection.terminate()  # whoever waited has gone; it is committed or not, and its request id tells
            raise
        except _CONFLICTS as error:
            await self.roll_back()
            raise _Again from error
        except _FAILED as error:
            if isinstance(error, asyncpg.PostgresError) and not _is_dead(self._connection):
                await self.roll_back()
                raise  # the server tells that it did not
            if not _is_dead(self._connection):  # no answer in time: one that comes late must not meet the next one
                self._connection.terminate()
            log.warning("commit_unknown", error=type(error).__name__, text=str(error))
            _unknown.inc()
            raise _Again(unknown=True) from error
        if done != "COMMIT":
            raise RuntimeError("a statement of the transaction had failed, and the error was passed over")

    async def roll_back(self) -> None:
        """Roll back; a connection that cannot is closed, so that the pool drops it."""
        if self._begin is not None or not self._whole:
            return
        try:
            await self._connection.execute("ROLLBACK")
        except _FAILED:
            if not _is_dead(self._connection):
                self._connection.terminate()

    async def _start(self) -> None:
        if self._begin is not None:
            begin, self._begin = self._begin, None
            await self._connection.execute(begin)


async def _keep_session(connection: Any) -> None:
    """Nothing to reset when a connection goes back to the pool, which saves a round trip per transaction."""


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
