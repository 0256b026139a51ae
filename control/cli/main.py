"""Assembles the `barua` command and turns every expected failure into one line and an exit status.

Exit status: 0 done; 1 it failed, standard error says why; 2 the command line is wrong; 130 interrupted.
"""

import sys
from importlib import metadata
from typing import Annotated

import typer

from barua_client import Unreachable
from control.cli import (
    alerts,
    credentials,
    credits,
    dkimkeys,
    egress,
    messages,
    oauth,
    providers,
    queues,
    senders,
    statistics,
    suppressions,
    templates,
    tenants,
    validation,
    webhooks,
)
from control.cli.output import CliError, print_error, print_line
from control.cli.send import send
from control.cli.up import EXIT_KILLED, up
from mta.runtime.options import OptionsError, reference
from mta.runtime.refusals import Refusal

app = typer.Typer(
    name="barua",
    help="Barua, a sending mail server: run it, look after it, send with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(up)
app.command("send")(send)
for group in (
    tenants.app,
    credits.app,
    dkimkeys.domain_verbs,
    senders.app,
    templates.app,
    credentials.keys,
    credentials.logins,
    oauth.app,
    suppressions.app,
    validation.app,
    providers.app,
    egress.sources,
    egress.pools,
    egress.rules,
    egress.app,
    queues.app,
    messages.app,
    statistics.app,
    webhooks.app,
    alerts.app,
):
    app.add_typer(group)


@app.command("options")
def options_() -> None:
    """Print the reference of all options of the configuration file, as Markdown."""
    sys.stdout.write(reference())


@app.command("version")
def version() -> None:
    """Print the version."""
    print_line(f"barua {_version()}")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Barua, a sending mail server: run it, look after it, send with it."""
    if show_version:
        version()
        raise typer.Exit
    if context.invoked_subcommand is None:
        print_line(context.get_help())


def main() -> None:
    """The console script."""
    try:
        app(prog_name="barua")
    except Unreachable as error:
        print_error(
            f"no server answers at {error.address}: is it running? `barua up` starts it, --address names another place"
        )
        sys.exit(1)
    except Refusal as refusal:
        print_error(refusal.message)
        sys.exit(1)
    except (CliError, OptionsError) as error:
        print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(EXIT_KILLED)
    except BrokenPipeError:
        # Whoever read our output has had enough, as in `barua ... | head`.
        sys.stdout = None
        sys.exit(1)


def _version() -> str:
    try:
        return metadata.version("barua")
    except metadata.PackageNotFoundError:
        return "from a source tree"


if __name__ == "__main__":
    main()
