"""The walk-through of control/README.md, taken from the page and run against an installation in demo mode."""

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from barua.control.v1.credit_service_pb2 import AuditCreditsRequest, GetBalanceRequest, GetStatementRequest, Statement
from barua.control.v1.dkim_key_pb2 import DkimKey
from barua.control.v1.dkim_key_service_pb2 import ListDkimKeysRequest
from barua.control.v1.domain_pb2 import Domain
from barua.control.v1.domain_service_pb2 import GetDomainRequest
from barua.control.v1.history_service_pb2 import GetMessageTimelineRequest, ListMessageRecordsRequest
from barua.control.v1.suppression_service_pb2 import ListSuppressionsRequest
from barua.journal.v1.event_pb2 import Event

from barua_client import ControlClient, bearer
from control.demo import nameserver, signatures
from tests.support.installation import BARUA, Installation

pytestmark = pytest.mark.timeout(600)

PAGE = Path(__file__).resolve().parents[3] / "control" / "README.md"
WALK_SECONDS = 400
GRANTED, GIVEN = 10_000, 1_000


@dataclass(frozen=True, slots=True)
class Walk:
    """What one of the two makes."""

    reseller: str
    account: str
    domain: str


COMMAND = Walk("savanna", "savanna-shop", "shop.savanna.test")
CLIENT = Walk("coast", "coast-shop", "shop.coast.test")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """What `make run` starts, with its state in ``var`` of a folder, where the walks are made."""
    with Installation(tmp_path_factory.mktemp("walk")) as running:
        (running.config.parent / "var").symlink_to(running.home)
        yield running


@pytest.fixture
async def control(up: Installation) -> AsyncIterator[ControlClient]:
    grpc = up.demo["grpc"]
    async with ControlClient(grpc["control"], bearer(grpc["token"])) as client:
        yield client


async def test_with_the_command(up: Installation, control: ControlClient) -> None:
    done = _run(up, ["bash", "-e", "-c", _block("sh")])
    assert "there is none yet" in done.stderr  # before the records are published, nothing is verified
    assert "gone@example.com is on the suppression list" in done.stderr
    await _check(up, control, COMMAND)


async def test_with_the_client(up: Installation, control: ControlClient) -> None:
    done = _run(up, [sys.executable, "-c", _block("python")])
    assert "RECIPIENT_SUPPRESSED gone@example.com" in done.stdout
    assert f"0 + {GIVEN} - 1 = {GIVEN - 1}" in done.stdout
    await _check(up, control, CLIENT)


async def _check(up: Installation, control: ControlClient, walk: Walk) -> None:
    await _check_credits(control, walk)
    await _check_domain(control, walk)
    await _check_suppressions(control, walk)
    await _check_timeline(control, walk)
    await _check_signatures(up, control, walk)


async def _check_credits(control: ControlClient, walk: Walk) -> None:
    """One message was sent, and every credit is where it should be."""
    reseller = await control.credits.GetBalance(GetBalanceRequest(tenant=f"tenants/{walk.reseller}"))
    account = await control.credits.GetBalance(GetBalanceRequest(tenant=f"tenants/{walk.account}"))
    assert (reseller.balance, reseller.consumed) == (GRANTED - GIVEN, 0)
    assert (account.balance, account.consumed) == (GIVEN - 1, 1)
    statement = await control.credits.GetStatement(GetStatementRequest(tenant=f"tenants/{walk.account}"))
    assert (statement.opening, statement.transferred_in, statement.consumed) == (0, GIVEN, 1)
    assert statement.closing == _sum(statement) == account.balance
    audit = await control.credits.AuditCredits(AuditCreditsRequest(tenant=f"tenants/{walk.reseller}"))
    assert not audit.discrepancies


def _sum(statement: Statement) -> int:
    came = statement.granted + statement.transferred_in + statement.refunded
    went = statement.transferred_out + statement.consumed + statement.expired + statement.written_off
    return statement.opening + came - went


async def _check_domain(control: ControlClient, walk: Walk) -> None:
    """The DNS has the challenge and the keys: control has looked, for nothing of this was taken on trust."""
    domain = await control.domains.GetDomain(GetDomainRequest(name=f"tenants/{walk.account}/domains/{walk.domain}"))
    assert domain.state == Domain.STATE_VERIFIED
    states = [key.state async for key in _keys(control, walk)]
    assert sorted(states) == [DkimKey.STATE_ACTIVE] * 2 + [DkimKey.STATE_RETIRED] * 2


async def _check_suppressions(control: ControlClient, walk: Walk) -> None:
    wanted = ListSuppressionsRequest(parent=f"tenants/{walk.account}")
    found = [one.address async for one in control.pages(control.suppressions.ListSuppressions, wanted)]
    assert found == ["gone@example.com", "no@example.com"]


async def _check_timeline(control: ControlClient, walk: Walk) -> None:
    """The message to Ann is the only one: that to the suppressed address was never taken."""
    listed = ListMessageRecordsRequest(parent=f"tenants/{walk.account}")
    (record,) = [one async for one in control.pages(control.history.ListMessageRecords, listed)]
    assert record.recipient == "ann@example.com"
    timeline = await control.history.GetMessageTimeline(GetMessageTimelineRequest(name=record.name))
    assert [entry.event.kind for entry in timeline.entries] == [Event.KIND_RECEIVED, Event.KIND_DELIVERED]


async def _check_signatures(up: Installation, control: ControlClient, walk: Walk) -> None:
    """Both signatures are good by what the zone file publishes, and made with the new keys."""
    inbox = f"{up.demo['inbox']['base_url']}/messages"
    (entry,) = [one for one in json.loads(_get(f"{inbox}?to=ann@example.com")) if walk.domain in one["from"]]
    content = _get(f"{inbox}/{entry['id']}")
    results = signatures.verify(content, _published(up, walk))
    assert sorted((each["algorithm"], each["result"]) for each in results) == [
        ("ed25519-sha256", "pass"),
        ("rsa-sha256", "pass"),
    ]
    active = {key.name.rpartition("/")[2] async for key in _keys(control, walk) if key.state == DkimKey.STATE_ACTIVE}
    assert {each["selector"] for each in results} == active


def _keys(control: ControlClient, walk: Walk) -> AsyncIterator[DkimKey]:
    wanted = ListDkimKeysRequest(parent=f"tenants/{walk.account}/domains/{walk.domain}")
    return control.pages(control.dkim_keys.ListDkimKeys, wanted)


def _published(up: Installation, walk: Walk) -> dict[str, str]:
    file = up.options.path(nameserver.FOLDER, f"{walk.domain}{nameserver.SUFFIX}")
    return {
        rrset.name.to_text(omit_final_dot=True): b"".join(record.strings).decode()
        for rrset in nameserver.read(file, walk.domain)
        for record in rrset
    }


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def _block(language: str) -> str:
    """The block of the walk-through in that language."""
    section = PAGE.read_text().partition("\n## A walk-through\n")[2].partition("\n## ")[0]
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return str(found)


def _run(up: Installation, command: list[str]) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command,
        cwd=up.config.parent,
        env=_environment(up),
        capture_output=True,
        text=True,
        timeout=WALK_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def _environment(up: Installation) -> dict[str, str]:
    """As in a shell at the root of the repository: `barua` is this interpreter's."""
    programs = up.config.parent / "bin"
    programs.mkdir(exist_ok=True)
    barua = programs / "barua"
    barua.write_text(f'#!/bin/sh\nexec {shlex.join(BARUA)} "$@"\n')
    barua.chmod(0o755)
    return {**up.environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
