"""`barua up`: run a whole installation in the foreground. The work is in ``control.supervisor``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from control.bootstrap import demo_accounts
from control.cli.output import CliError, print_line
from control.supervisor import supervisor
from control.supervisor.addresses import local
from control.supervisor.lock import HomeInUse
from control.supervisor.process import CannotStart
from mta.runtime.options import Options, load

EXIT_KILLED = 130
"""Exit status after a second Ctrl-C, as of a program ended by it."""


def up(
    config: Annotated[Path | None, typer.Option(help="TOML file with the options; none: all defaults.")] = None,
    demo: Annotated[
        bool | None, typer.Option("--demo/--no-demo", help="Deliver to a built-in inbox only, make demo accounts.")
    ] = None,
) -> None:
    """Run everything on this machine until Ctrl-C."""
    options = load(config)
    if demo is not None:
        options = replace(options, demo=demo)
    print_line(f"starting Barua in {options.home_path} (the first start takes a little longer)")
    try:
        in_order = supervisor.up(options, print_line, lambda running: _welcome(running))
    except (HomeInUse, CannotStart) as error:
        raise CliError(str(error)) from error
    except PermissionError as error:
        raise CliError(f"no permission for {error.filename}; BARUA_HOME names another home") from error
    print_line("stopped")
    if not in_order:
        raise typer.Exit(EXIT_KILLED)


def _command() -> str:
    """How this program was called, so that what is shown can be pasted: a path, or ``barua``."""
    return shlex.quote(sys.argv[0]) if Path(sys.argv[0]).name == "barua" else "barua"


def _welcome(options: Options) -> None:
    for line in welcome(options):
        print_line(line)


def welcome(options: Options) -> list[str]:
    """What is said when everything is ready."""
    bridge = f"{options.bridge.scheme}://{local(options.bridge.listen)}"
    listeners = ", ".join(f"{local(each.listen)} ({each.tls.value})" for each in options.mta.listeners)
    lines = [
        "",
        "Barua is ready.",
        f"  JSON APIs     {bridge}   (health: {bridge}/healthz)",
        f"  SMTP          {listeners}",
        f"  gRPC          control {local(options.control.listen)}, MTA {local(options.node.listen)}",
        f"  state         {options.home_path}   (logs: {options.path('log')})",
    ]
    if options.demo:
        lines += [
            f"  demo inbox    http://{local(options.inbox.http_listen)}   (all mail ends here, nothing leaves)",
            f"  credentials   {options.path(demo_accounts.FILE)}",
            "",
            "Send a first message from another terminal:",
            f'  {_command()} send --to somebody@example.com --subject "Hello"',
            f"  curl -s http://{local(options.inbox.http_listen)}/messages",
        ]
    return [*lines, "", "Ctrl-C stops it."]
