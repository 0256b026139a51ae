"""Another key signs the links: added, rotated, forgotten, without a moment in which good links are dead."""

from pathlib import Path

import pytest

from control import trackingkeys
from mta.runtime import keyring, links
from mta.runtime.links import InvalidToken, Link, Purpose
from mta.runtime.options import Options, OptionsError

LINK = Link(Purpose.UNSUBSCRIBE, bytes(16))


@pytest.fixture
def options(tmp_path: Path) -> Options:
    path = tmp_path / "secrets" / "tracking.key"
    path.parent.mkdir()
    path.write_text("ab" * 32)
    path.chmod(0o600)
    return Options(home=str(tmp_path))


def test_a_rotation_keeps_links_alive_until_their_key_is_forgotten(options: Options) -> None:
    path = options.path("secrets", "tracking.key")
    old = links.sign(keyring.read(path), LINK)
    assert "copy" in trackingkeys.run("add", options)
    added = keyring.read(path)
    trackingkeys.run("rotate", options)
    ring = keyring.read(path)
    new = links.sign(ring, LINK)
    assert new != old
    # A machine that has the file of before the rotation believes what the others sign already.
    assert links.verify(added, new) == links.verify(ring, old) == links.verify(ring, new) == LINK
    assert trackingkeys.run("show", options).count("believed") == 1
    assert "signs after the next rotation" not in trackingkeys.run("show", options)
    assert trackingkeys.run("forget", options).startswith("1 keys forgotten")
    with pytest.raises(InvalidToken):
        links.verify(keyring.read(path), old)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_does_not_grow_for_ever(options: Options) -> None:
    for _ in range(keyring.MAX_KEYS - 1):
        trackingkeys.run("rotate", options)
    with pytest.raises(OptionsError, match="forget"):
        trackingkeys.run("rotate", options)
    trackingkeys.run("forget", options)
    trackingkeys.run("rotate", options)


def test_without_a_file_there_is_a_word_for_the_operator(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="cannot be read"):
        trackingkeys.run("show", Options(home=str(tmp_path)))
