"""Sealing keys change while control runs: everything sealed opens at all times, with the keys of the file alone."""

import asyncio
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from barua.control.v1 import domain_service_pb2

from control import keys, resealing, sealing
from control.database import Connection, Database
from mta.mailauth.sealing import SealError, open_for, open_sealed
from mta.runtime import keyring
from mta.runtime.options import DatabaseOptions, OptionsError
from tests.integration.control.harness import Control

COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE column_name LIKE 'sealed%'"
DKIM_KEYS = "SELECT tenant_id, domain, selector, sealed_private_key AS sealed FROM dkim_key"


async def test_every_sealed_column_is_sealed_anew(database: Database) -> None:
    columns = await database.transact(lambda connection: connection.fetch(COLUMNS))
    assert {tuple(row.values()) for row in columns} == {(place.table, place.column) for place in resealing.PLACES}


@pytest.mark.each_postgres
async def test_keys_change_while_everything_runs(control: Control, database: Database, database_url: str) -> None:
    path = control.options.path("secrets", "sealing.key")
    await control.tenant("acme")
    await _claim(control, "first.test")
    await _put(database, path)
    old, head = keyring.read(path), "SELECT revision FROM policy_head"
    before = await _sealed(database)
    revision = await database.transact(lambda connection: connection.fetchval(head))

    assert "for the next rotation" in await _keys(control, database_url, "add")
    prepared = keyring.read(path)
    await _claim(control, "second.test")
    claiming = asyncio.create_task(_claim(control, "third.test"))
    assert "secrets sealed anew" in await _keys(control, database_url, "rotate")
    await claiming
    await _claim(control, "fourth.test")
    await _keys(control, database_url, "reseal")

    assert keyring.read(path).sealing == prepared.next
    after = await _sealed(database)
    assert set(before) < set(after)
    for place, sealed in after.items():
        assert sealed[1:5] == keyring.key_id(keyring.read(path).sealing)
        assert open_for(prepared.by_id, sealed, "/".join(place), "it")
        with pytest.raises(SealError):
            open_for(old.by_id, sealed, "/".join(place), "it")
    assert await database.transact(lambda connection: connection.fetchval(head)) > revision
    assert "opens" in await _keys(control, database_url, "show")
    assert "1 keys forgotten" in await _keys(control, database_url, "forget")
    assert keyring.read(path) == keyring.KeyRing(prepared.next or b"")
    for row in await database.transact(lambda connection: connection.fetch(DKIM_KEYS)):
        assert open_sealed(keyring.read(path).by_id, row["sealed"], row["tenant_id"], row["domain"], row["selector"])


async def test_what_no_key_opens_stays_and_keeps_the_keys(
    control: Control, database: Database, database_url: str
) -> None:
    path = control.options.path("secrets", "sealing.key")
    await control.tenant("acme")
    await _claim(control, "first.test")
    damage = "UPDATE dkim_key SET sealed_private_key = sealed_private_key || '\\x00' WHERE algorithm = 'rsa'"
    await database.transact(lambda connection: connection.execute(damage))
    with pytest.raises(OptionsError, match="1 cannot be opened"):
        await _keys(control, database_url, "rotate")
    with pytest.raises(OptionsError, match="1 secrets are sealed with other keys"):
        await _keys(control, database_url, "forget")
    assert len(keyring.read(path).by_id) == 2


async def test_the_command_tells_what_the_keys_are_for(control: Control, database_url: str, tmp_path: Path) -> None:
    config = tmp_path / "barua.toml"
    config.write_text(f"home = {json.dumps(control.options.home)}\n[database]\nurl = {json.dumps(database_url)}\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "control", "keys", "show", "--config", str(config),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    ring = keyring.read(control.options.path("secrets", "sealing.key"))
    assert (process.returncode, said.decode().split()) == (0, [keyring.key_id(ring.sealing).hex(), "0", "seals"])


async def _claim(control: Control, domain: str) -> None:
    request = domain_service_pb2.CreateDomainRequest(parent="tenants/acme", domain=domain, trusted=True)
    await control.call(control.domains.CreateDomain, request)


async def _put(database: Database, path: Path) -> None:
    """A password as it was sealed before keys had ids."""
    sealed = sealing.load(path).seal(b"secret", "acme", "smtpProviders", "relay")[5:]
    await database.transact(
        lambda connection: connection.execute(
            "INSERT INTO smtp_provider (tenant_id, provider_id, host, port, username, sealed_password)"
            " VALUES ('acme', 'relay', 'mail.example', 587, 'ann', $1)",
            sealed,
        )
    )


async def _sealed(database: Database) -> dict[tuple[str, str, str], bytes]:
    """Everything sealed, by what it is sealed for."""
    found: dict[tuple[str, str, str], bytes] = {}
    for place in resealing.PLACES:
        query = f"SELECT tenant_id, {place.kind}, {place.name}, {place.column} FROM {place.table}"
        rows = await database.transact(partial(_fetched, query))
        found |= {tuple(row.values())[:3]: row[place.column] for row in rows}
    return found


async def _fetched(query: str, connection: Connection) -> list[Any]:
    return list(await connection.fetch(query))


async def _keys(control: Control, url: str, verb: str) -> str:
    """What a verb of ``python -m control keys`` says."""
    return await keys.run(verb, replace(control.options, database=DatabaseOptions(url=url)))
