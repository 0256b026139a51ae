"""Postfix, and OpenDKIM beside it, as the peer that Barua is compared with: run from the unpacked packages.

The set-up is a relay as its documentation advises it for throughput on such a machine: everything to one next hop, no
DNS look-ups, per-client limits off, concurrency wide open from the start, log to a file by ``postlogd``. What makes
Postfix slow and safe stays as it is: each message is a file of its own, synced before the 250. Signing is done by
OpenDKIM as a milter with an RSA-2048 key, relaxed/relaxed.

Everything (configuration, queue, data, logs) is in a folder of its own; the system's own mail set-up, users and groups
are not touched: where Postfix wants accounts of its own, three that exist on every Debian lend their names.

Errors: ``PeerFailed`` with what the log says. Root only, because Postfix is. Blocking.
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.debian import Tools
from tests.support.ports import free_port, wait_for_port

# Accounts of Debian's base-passwd: nothing has to be added to the system.
OWNER, QUEUE_GROUP, NOBODY = "mail", "uucp", "nobody"
QUEUE_FOLDERS = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace",
)  # fmt: skip

_MAIN_CF = """\
compatibility_level = 3.6
mail_owner = {owner}
setgid_group = {group}
default_privs = {nobody}
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = {root}/usr/lib/postfix/sbin
command_directory = {root}/usr/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {folder}/config
maillog_file_prefixes = {folder}
maillog_file = {folder}/mail.log
import_environment = MAIL_CONFIG LD_LIBRARY_PATH={library_path}
myhostname = postfix.bench.test
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
relayhost = [127.0.0.1]:{sink_port}
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtpd_client_recipient_rate_limit = 0
smtp_tls_security_level = none
initial_destination_concurrency = 50
default_destination_concurrency_limit = 50
default_process_limit = 200
in_flow_delay = 0
"""

_MILTER_CF = """\
smtpd_milters = inet:127.0.0.1:{milter_port}
milter_protocol = 6
milter_default_action = tempfail
"""

_MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup     unix-dgram n - n 60 1 pickup
cleanup    unix  n - n - 0 cleanup
qmgr       unix  n - n 300 1 qmgr
tlsmgr     unix  - - n 1000? 1 tlsmgr
rewrite    unix  - - n - - trivial-rewrite
bounce     unix  - - n - 0 bounce
defer      unix  - - n - 0 bounce
trace      unix  - - n - 0 bounce
verify     unix  - - n - 1 verify
flush      unix  n - n 1000? 0 flush
proxymap   unix  - - n - - proxymap
proxywrite unix  - - n - 1 proxymap
smtp       unix  - - n - - smtp
relay      unix  - - n - - smtp
showq      unix  n - n - - showq
error      unix  - - n - - error
retry      unix  - - n - - error
discard    unix  - - n - - discard
local      unix  - n n - - local
virtual    unix  - n n - - virtual
lmtp       unix  - - n - - lmtp
anvil      unix  - - n - 1 anvil
scache     unix  - - n - 1 scache
postlog    unix-dgram n - n - 1 postlogd
"""

_OPENDKIM_CF = """\
Mode s
Domain bench.test
Selector bench
KeyFile {folder}/dkim.pem
Canonicalization relaxed/relaxed
OversignHeaders From
RequireSafeKeys no
Socket inet:{milter_port}@127.0.0.1
InternalHosts 127.0.0.1
Background no
Syslog no
PidFile {folder}/opendkim.pid
"""


class PeerFailed(Exception):
    """The peer does not run; the text has the end of its log."""


class Postfix:
    """A Postfix that relays everything to one port. Use as a context manager."""

    def __init__(self, tools: Tools, folder: Path, sink_port: int, signing: bool) -> None:
        self.port = free_port()
        self._tools = tools
        self._folder = folder
        self._sink_port = sink_port
        self._milter_port = free_port() if signing else None
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        if os.getuid() != 0:
            raise PeerFailed("Postfix can be started by root only; run the benchmark as root")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        try:
            if self._milter_port is not None:
                self._start_opendkim(self._milter_port)
            self._start_postfix()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def is_idle(self) -> bool:
        """Whether no message is in the queue."""
        queue = self._folder / "queue"
        return not any(
            path.is_file() for name in ("incoming", "active", "deferred") for path in (queue / name).rglob("*")
        )

    def _start_postfix(self) -> None:
        config, queue, data = (self._folder / name for name in ("config", "queue", "data"))
        for path in (config, queue, data):
            path.mkdir()
        owner = pwd.getpwnam(OWNER)
        os.chown(data, owner.pw_uid, owner.pw_gid)
        for name in QUEUE_FOLDERS:
            (queue / name).mkdir(mode=0o700)
            os.chown(queue / name, owner.pw_uid, -1)
        (queue / "pid").mkdir(mode=0o755)
        for name, mode in (("public", 0o710), ("maildrop", 0o730)):
            (queue / name).mkdir()
            shutil.chown(queue / name, OWNER, QUEUE_GROUP)
            (queue / name).chmod(mode)
        values = {
            "owner": OWNER, "group": QUEUE_GROUP, "nobody": NOBODY, "folder": self._folder, "root": self._tools.root,
            "library_path": self._tools.library_path, "sink_port": self._sink_port, "port": self.port,
            "milter_port": self._milter_port,
        }  # fmt: skip
        text = _MAIN_CF + (_MILTER_CF if self._milter_port is not None else "")
        (config / "main.cf").write_text(text.format(**values))
        (config / "master.cf").write_text(_MASTER_CF.format(**values))
        shutil.copy(self._tools.root / "etc/postfix/postfix-files", config)
        self._run([self._tools.program("master"), "-c", config, "-s"], self.port)

    def _start_opendkim(self, port: int) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = self._folder / "dkim.pem"
        pem.touch(mode=0o600)
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        config = self._folder / "opendkim.conf"
        config.write_text(_OPENDKIM_CF.format(folder=self._folder, milter_port=port))
        self._run([self._tools.program("opendkim"), "-f", "-x", config], port)

    def _run(self, command: list[str | Path], port: int) -> None:
        with (self._folder / "output.log").open("ab") as output:
            process = subprocess.Popen(
                command, env=self._tools.environment, stdout=output, stderr=output, start_new_session=True
            )
        self._processes.append(process)
        try:
            wait_for_port(port, 10)
        except TimeoutError as error:
            raise PeerFailed(f"{command[0]} did not start: {self._log_end()}") from error

    def _log_end(self) -> str:
        logs = (self._folder / name for name in ("output.log", "mail.log"))
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in logs if path.exists())

    def _stop(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._processes.clear()
        # The daemons leave on their own once the master is gone.
        time.sleep(0.5)
