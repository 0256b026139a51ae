"""The verbs of `barua webhook` and `barua alert`, against a running control program."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

from typer.testing import CliRunner

from barua.journal.v1.event_pb2 import Event

from control.cli.main import app
from control.cli.output import CliError
from tests.integration.control.harness import Control
from tests.integration.control.hooks import DELIVERED, World, impatient, receiver, world
from tests.integration.control.receiver import Receiver, until

__all__ = ["impatient", "receiver", "world"]  # fixtures

_LOGGED = re.compile(r"\d{4}-\d\d-\d\d [\d:]{8} \[")


async def barua(control: Control, *arguments: str, as_json: bool = True) -> Any:
    """What a verb prints; a verb that fails raises."""
    secrets = control.options.path("secrets", "operator.token")
    shared: Sequence[str] = ("--address", control.options.control.listen, "--token-file", str(secrets))
    line = [*arguments, *shared, *(["--json"] if as_json else [])]
    result = await asyncio.to_thread(CliRunner().invoke, app, line, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    # The control program logs to the same standard output.
    printed = "".join(one for one in result.output.splitlines(keepends=True) if not _LOGGED.match(one))
    return json.loads(printed) if as_json else printed


async def test_webhook_verbs(world: World, receiver: Receiver) -> None:
    control = world.control
    await control.tenant("tenant")
    made = await barua(
        control,
        "webhook",
        "add",
        "tenant",
        receiver.url,
        "--event",
        "accepted",
        "--event",
        "alert",
        "--header",
        "X-A: b: c",
    )
    theirs = ("--format", "sendpost", "--secret", "x" * 16)
    other = await barua(control, "webhook", "add", "tenant", "https://example.com/", *theirs)
    await barua(control, "webhook", "remove", "tenant", other["name"].rpartition("/")[2], as_json=False)
    assert (other["payload_format"], other["secret"]) == ("PAYLOAD_FORMAT_SENDPOST", "")
    id_ = made["name"].rpartition("/")[2]
    assert made["secret"].startswith("whsec_")
    assert made["event_kinds"] == ["EVENT_KIND_ACCEPTED", "EVENT_KIND_ALERT"]
    assert id_ in await barua(control, "webhook", "list", "tenant", as_json=False)
    assert (await barua(control, "webhook", "test", "tenant", id_))["delivered"] is True
    assert "status 200" in await barua(control, "webhook", "test", "tenant", id_, as_json=False)
    assert receiver.requests[0].headers["x-a"] == "b: c"
    await world.tell("tenants/tenant", 1, Event.KIND_DELIVERED)
    (entry,) = await world.until_logged(made["name"], DELIVERED)
    number = entry.name.rpartition("/")[2]
    listed = await barua(control, "webhook", "log", "tenant", id_, "--state", "delivered", as_json=False)
    assert f"{number} " in listed
    assert "thanks" in listed
    assert await barua(control, "webhook", "replay", "tenant", id_, "--delivery", number, as_json=False) == "queued 1\n"
    times = ("--start", "2024-01-01T00:00:00", "--end", "2100-01-01T00:00:00")
    assert (await barua(control, "webhook", "replay", "tenant", id_, *times))["queued_count"] == "1"
    rotated = await barua(control, "webhook", "rotate", "tenant", id_, "--grace", "0", as_json=False)
    assert rotated.startswith("whsec_")
    assert await barua(control, "webhook", "disable", "tenant", id_, as_json=False) == f"disabled {id_}\n"
    assert (await barua(control, "webhook", "enable", "tenant", id_))["enabled"] is True
    assert await barua(control, "webhook", "remove", "tenant", id_, as_json=False) == f"removed {id_}\n"
    assert await barua(control, "webhook", "list", "tenant") == []
    for wrong in (("--event", "nonsense"), ("--header", "nonsense")):
        try:
            await barua(control, "webhook", "add", "tenant", receiver.url, *wrong)
        except CliError as error:
            assert "nonsense" in str(error)
        else:
            raise AssertionError("not refused")


async def test_alert_verbs(world: World) -> None:
    control = world.control
    await control.tenant("tenant")
    made = await barua(control, "alert", "add", "tenant", "balance", "10", "--display-name", "low", "--cooldown", "0")
    id_ = made["name"].rpartition("/")[2]
    assert id_ in await barua(control, "alert", "list", "tenant", as_json=False)

    async def firing() -> list[Any]:
        found: list[Any] = await barua(control, "alert", "firings", "tenant", "--open")
        return found

    (alert,) = await until(firing)
    number = alert["name"].rpartition("/")[2]
    assert "low" in await barua(control, "alert", "firings", "tenant", as_json=False)
    seen = await barua(control, "alert", "acknowledge", "tenant", number, "--note", "on it")
    assert seen["acknowledgement"] == "on it"
    await barua(control, "alert", "remove", "tenant", id_)
    assert await barua(control, "alert", "list", "tenant") == []
    assert await barua(control, "alert", "firings", "tenant", "--open") == []
