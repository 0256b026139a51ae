"""Passwords and the sealing key."""

import asyncio
import time
from pathlib import Path

import pytest

from control import sealing
from control.passwords import Passwords
from mta.mailauth.sealing import SealError, open_sealed
from mta.runtime.options import OptionsError
from mta.runtime.refusals import Reason, Refusal


@pytest.fixture
def passwords() -> Passwords:
    return Passwords()


async def test_a_password_is_kept_as_argon2id_of_the_stated_cost(passwords: Passwords) -> None:
    kept = await passwords.hash("correct horse")
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert await passwords.verify(kept, "correct horse")
    assert not await passwords.verify(kept, "correct house")
    assert not await passwords.verify(None, "correct horse")
    assert not await passwords.verify("not a hash", "correct horse")


async def test_a_known_password_costs_nothing_and_a_changed_one_is_unknown(passwords: Passwords) -> None:
    old, new = await passwords.hash("old password"), await passwords.hash("new password")
    assert await passwords.verify(old, "old password")
    started = time.process_time()
    for _ in range(100):
        assert await passwords.verify(old, "old password")
    assert time.process_time() - started < 0.05
    assert not await passwords.verify(new, "old password")


async def test_a_flood_of_log_ins_is_cut_off(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.passwords.MAX_WAITING", 10)
    kept = await passwords.hash("correct horse")
    tries = [passwords.verify(kept, f"wrong {number}") for number in range(15)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Refusal)]
    assert [refusal.reason for refusal in refused] == [Reason.UNAVAILABLE] * 5


def test_what_is_sealed_opens_for_its_place_only(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "sealing.key"
    sealer = sealing.load(path)
    key = bytes.fromhex(path.read_text().strip())
    sealed = sealer.seal(b"private", "tenant", "x.test", "s1")
    assert open_sealed(key, sealed, "tenant", "x.test", "s1") == b"private"
    with pytest.raises(SealError):
        open_sealed(key, sealed, "other", "x.test", "s1")
    assert sealing.load(path).fingerprint(b"body") == sealer.fingerprint(b"body") != sealer.fingerprint(b"other")


def test_a_key_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "sealing.key"
    sealing.load(path)
    path.chmod(0o640)
    with pytest.raises(OptionsError, match="chmod 600"):
        sealing.load(path)
    path.chmod(0o600)
    for bad in ("", "zz", "ab" * 31, "ab" * 33):
        path.write_text(bad)
        with pytest.raises(OptionsError, match="64 hexadecimal digits"):
            sealing.load(path)
