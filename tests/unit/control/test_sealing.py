"""Sealing keys: what is sealed opens for its place only, and with the keys that were there."""

import os
from pathlib import Path

import pytest

from control import sealing
from mta.mailauth.sealing import SealError, open_sealed
from mta.runtime import keyring
from mta.runtime.keyring import KeyFile, KeyRing
from mta.runtime.options import OptionsError

PLACE = ("tenant", "x.test", "s1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "sealing.key"


def test_what_is_sealed_opens_for_its_place_only(path: Path) -> None:
    sealer = sealing.load(path)
    keys = KeyFile(path).keys()
    sealed = sealer.seal(b"private", *PLACE)
    assert sealed.startswith(sealer.mark)
    assert open_sealed(keys, sealed, *PLACE) == sealer.open(sealed, *PLACE) == b"private"
    for other in (("other", "x.test", "s1"), ("tenant", "y.test", "s1"), ("tenant", "x.test", "s2")):
        with pytest.raises(SealError):
            open_sealed(keys, sealed, *other)
        with pytest.raises(ValueError, match="cannot be opened"):
            sealer.open(sealed, *other)
    assert sealing.load(path).fingerprint(b"body") == sealer.fingerprint(b"body") != sealer.fingerprint(b"other")


def test_a_rotation_is_noticed_and_old_things_still_open(path: Path) -> None:
    sealer, worker = sealing.load(path), KeyFile(path)
    before, fingerprint = sealer.seal(b"old", *PLACE), sealer.fingerprint(b"body")
    keyring.write(path, keyring.read(path).rotated())
    after = sealer.seal(b"new", *PLACE)
    assert not before.startswith(sealer.mark) and after.startswith(sealer.mark)
    assert (sealer.open(before, *PLACE), sealer.open(after, *PLACE)) == (b"old", b"new")
    assert [open_sealed(worker.keys(), one, *PLACE) for one in (before, after)] == [b"old", b"new"]
    assert sealer.fingerprint(b"body") == fingerprint
    keyring.write(path, keyring.read(path).without_older())
    assert sealer.open(after, *PLACE) == b"new"
    with pytest.raises(ValueError, match="cannot be opened"):
        sealer.open(before, *PLACE)


def test_a_key_can_be_everywhere_before_it_seals(path: Path) -> None:
    sealer = sealing.load(path)
    mark = sealer.mark
    prepared = keyring.read(path).with_next()
    keyring.write(path, prepared)
    assert prepared.next is not None and prepared.with_next() == prepared
    assert sealer.mark == mark
    early = KeyFile(path)
    keyring.write(path, prepared.rotated())
    assert sealer.mark != mark
    assert open_sealed(early.keys(), sealer.seal(b"new", *PLACE), *PLACE) == b"new"
    assert keyring.read(path).sealing == prepared.next


def test_things_sealed_before_keys_had_ids_open(path: Path) -> None:
    sealer = sealing.load(path)
    sealed = sealer.seal(b"private", *PLACE)[5:]
    keyring.write(path, keyring.read(path).rotated())
    assert sealer.open(sealed, *PLACE) == b"private"


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" * 32, bytes(100)])
def test_what_is_nothing_sealed_is_refused(path: Path, sealed: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be opened"):
        sealing.load(path).open(sealed, *PLACE)


def test_the_file_is_replaced_whole_and_stays_private(path: Path) -> None:
    sealing.load(path)
    keyring.write(path, keyring.read(path).with_next())
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    ring = keyring.read(path)
    assert keyring.parse(ring.render(), path) == ring


def test_a_key_file_that_cannot_be_used_is_refused(path: Path) -> None:
    sealing.load(path)
    path.chmod(0o640)
    with pytest.raises(OptionsError, match="chmod 600"):
        sealing.load(path)
    path.chmod(0o600)
    good = "ab" * 32
    for bad in ("", "zz", "ab" * 31, "ab" * 33, f"{good} {good}", f"next {good}", f"{good}\nnext x",
                f"{good}\nnext {good}\nnext {good}", f"{good}\n" * 17, "\N{EURO SIGN}"):  # fmt: skip
        path.write_text(bad)
        with pytest.raises(OptionsError, match=r"64 hexadecimal digits|cannot be read"):
            sealing.load(path)


def test_a_file_that_becomes_unusable_leaves_the_keys_in_force(path: Path) -> None:
    sealer = sealing.load(path)
    sealed = sealer.seal(b"private", *PLACE)
    path.write_text("damaged")
    assert sealer.open(sealed, *PLACE) == b"private"
    path.unlink()
    assert sealer.open(sealed, *PLACE) == b"private"


def test_no_key_shows_in_what_is_logged_or_printed(path: Path) -> None:
    sealing.load(path)
    ring = keyring.read(path)
    assert ring.sealing.hex() not in repr(ring) and repr(ring.sealing) not in repr(ring)


def test_keys_have_ids_of_their_own() -> None:
    keys = [os.urandom(32) for _ in range(8)]
    assert len(KeyRing(keys[0], tuple(keys[1:7]), keys[7]).by_id) == 8
