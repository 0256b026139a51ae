"""`barua send`: send one message by SMTP, with aiosmtplib.

In a demo installation everything has a default: the account, host, port and certificate authority of ``demo.json``.
The password comes from a file, from $BARUA_SMTP_PASSWORD, or from ``demo.json``; never from the command line, where
every user of the machine could read it.
"""

import asyncio
import os
import sys
from email.message import EmailMessage
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import aiosmtplib
import msgspec
import typer

from control.bootstrap import demo_accounts
from control.cli.credentials import password as read_password
from control.cli.output import CliError, print_json, print_line
from control.cli.session import ConfigOption, JsonOption, installation
from mta.runtime.options import Options

ENV_PASSWORD = "BARUA_SMTP_PASSWORD"  # noqa: S105 - the name of a variable
TIMEOUT_SECONDS = 60.0


class Tls(StrEnum):
    """How to speak TLS."""

    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    NONE = "none"


def send(
    recipient: Annotated[list[str], typer.Option("--to", help="Recipient; may be given several times.")],
    sender: Annotated[str, typer.Option("--from", help="From address.")] = "",
    subject: Annotated[str, typer.Option(help="Subject.")] = "Hello from Barua",
    body: Annotated[str | None, typer.Option(help="Text of the message.")] = None,
    body_file: Annotated[Path | None, typer.Option(help='File with the text; "-" for standard input.')] = None,
    host: Annotated[str | None, typer.Option(help="SMTP server.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Its port.")] = None,
    username: Annotated[str | None, typer.Option(help="Login; empty: no AUTH.")] = None,
    password_file: Annotated[Path | None, typer.Option(help=f"File with the password; else ${ENV_PASSWORD}.")] = None,
    tls: Annotated[Tls, typer.Option(help="How to speak TLS.")] = Tls.STARTTLS,
    ca_file: Annotated[Path | None, typer.Option(help="Authority to trust besides those of the system.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send one message by SMTP."""
    # The demo account's password goes to the demo installation and nowhere else.
    demo = _demo(installation(config)) if host is None and port is None else {}
    message = EmailMessage()
    try:
        message["From"] = sender or (demo_accounts.DEFAULT_SENDER if demo else "")
        message["To"] = ", ".join(recipient)
        message["Subject"] = subject
    except (ValueError, IndexError) as error:
        raise CliError(f"an address or the subject is malformed: {error}") from error
    if not message["From"]:
        raise CliError("say who sends it with --from")
    message.set_content(_text(body, body_file))
    usual = demo.get("port_implicit_tls" if tls is Tls.IMPLICIT else "port")
    user = username if username is not None else demo.get("username", "")
    reply = asyncio.run(
        _submit(
            message,
            hostname=host or demo.get("host", "127.0.0.1"),
            port=port or usual or (465 if tls is Tls.IMPLICIT else 587),
            username=user or None,
            password=_password(password_file, demo) if user else None,
            use_tls=tls is Tls.IMPLICIT,
            start_tls=tls is Tls.STARTTLS,
            cert_bundle=str(ca_file) if ca_file else demo.get("ca_file"),
        )
    )
    if as_json:
        print_json({"accepted": True, "reply": reply})
    else:
        print_line(f"accepted: {reply}")


async def _submit(message: EmailMessage, **settings: Any) -> str:
    try:
        refused, reply = await aiosmtplib.send(message, timeout=TIMEOUT_SECONDS, **settings)
    except aiosmtplib.SMTPRecipientsRefused as error:
        lines = "; ".join(f"{each.recipient}: {each.code} {each.message}" for each in error.recipients)
        raise CliError(f"the server refused every recipient: {lines}") from error
    except aiosmtplib.SMTPResponseException as error:
        raise CliError(f"the server said no: {error.code} {error.message}") from error
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        where = f"{settings['hostname']}:{settings['port']}"
        raise CliError(f"cannot send through {where}: {error}; is it running? `barua up` starts it") from error
    if refused:
        lines = "; ".join(f"{address}: {answer.code} {answer.message}" for address, answer in refused.items())
        raise CliError(f"accepted ({reply}), but not for {lines}")
    return reply


def _demo(options: Options) -> dict[str, Any]:
    try:
        known = msgspec.json.decode(options.path(demo_accounts.FILE).read_bytes())
        return dict(known["smtp"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _text(body: str | None, file: Path | None) -> str:
    if body is not None and file is not None:
        raise CliError("--body and --body-file exclude each other")
    if file is None:
        return body if body is not None else "It works.\n"
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read {file}: {error}") from error


def _password(file: Path | None, demo: dict[str, Any]) -> str:
    if file is not None:
        return read_password(file)
    found = os.environ.get(ENV_PASSWORD) or demo.get("password")
    if not found:
        raise CliError(f"no password: name a file with --password-file, or set ${ENV_PASSWORD}")
    return str(found)
