"""What every operator verb shares: where the server is, who is asking, how to print.

``verb(app, name)`` registers an asynchronous function whose first parameter is a ``Session`` as a command, and adds the
options ``--config``, ``--address``, ``--token-file`` and ``--json`` to it. Without them the running installation is
used: the configuration that `barua up` wrote below $BARUA_HOME (or ./var), and its operator's token.

Errors: a verb's ``Refusal``, ``Unreachable``, ``OptionsError`` and ``CliError`` become one line on standard error and
exit status 1, in ``main``.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from barua_client import ControlClient, MtaClient, bearer
from control.bootstrap.token import read_token
from control.supervisor import effective
from control.supervisor.addresses import local
from mta.runtime import rpc
from mta.runtime.options import Options, load, split_address

Parameters = ParamSpec("Parameters")

ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file of the installation.", dir_okay=False)]
AddressOption = Annotated[str | None, typer.Option("--address", help="gRPC address of the server, host:port.")]
TokenOption = Annotated[Path | None, typer.Option("--token-file", help="File with the operator's token.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_SHARED = {"config": ConfigOption, "server": AddressOption, "token_file": TokenOption, "as_json": JsonOption}


class Session:
    """One run of one verb."""

    def __init__(self, options: Options, address: str | None, token_file: Path | None, as_json: bool) -> None:
        self.options = options
        self.json = as_json
        self._address = address
        self._token_file = token_file

    @asynccontextmanager
    async def control(self) -> AsyncIterator[ControlClient]:
        """A connection to control."""
        address, credentials = self._place(effective.control_address(self.options))
        channel = rpc.channel(address, self.options.control_client)
        async with ControlClient(address, credentials, channel=channel) as client:
            yield client

    @asynccontextmanager
    async def mta(self) -> AsyncIterator[MtaClient]:
        """A connection to the MTA's node."""
        address, credentials = self._place(local(self.options.node.listen))
        channel = rpc.channel(address, self.options.node_client)
        async with MtaClient(address, credentials, channel=channel) as client:
            yield client

    def _place(self, default: str) -> tuple[str, str]:
        """Address and credentials."""
        address = self._address or local(default)
        split_address(address)
        token = read_token(self._token_file or self.options.path("secrets", "operator.token"))
        return address, bearer(token)


def installation(config: Path | None) -> Options:
    """The options of ``config``, or those of the installation below home, or the defaults."""
    if config is not None:
        return load(config)
    options = load(None)
    running = options.path(effective.FILE)
    return load(running) if running.exists() else options


def verb(
    app: typer.Typer, name: str
) -> Callable[
    [Callable[Concatenate[Session, Parameters], Awaitable[None]]],
    Callable[Concatenate[Session, Parameters], Awaitable[None]],
]:
    """Register a function as the command ``name`` of ``app``."""

    def register(
        function: Callable[Concatenate[Session, Parameters], Awaitable[None]],
    ) -> Callable[Concatenate[Session, Parameters], Awaitable[None]]:
        @functools.wraps(function)
        def command(**values: Any) -> None:
            shared = {key: values.pop(key) for key in _SHARED}
            session = Session(installation(shared["config"]), shared["server"], shared["token_file"], shared["as_json"])
            asyncio.run(_finish(function(session, **values)))  # type: ignore[call-arg]

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        added = [
            inspect.Parameter(
                key, inspect.Parameter.KEYWORD_ONLY, default=False if key == "as_json" else None, annotation=kind
            )
            for key, kind in _SHARED.items()
        ]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + added
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del command.__wrapped__
        app.command(name)(command)
        return function

    return register


async def _finish(awaitable: Awaitable[None]) -> None:
    await awaitable


def tenant_name(tenant: str) -> str:
    """A tenant as resource name, from its id or name."""
    return tenant if tenant.startswith("tenants/") else f"tenants/{tenant}"
