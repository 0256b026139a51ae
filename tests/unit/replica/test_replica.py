"""The policy replica on file: whole revisions, seen at once, and no more than a cache."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from mta.policy.egress import EgressRule
from mta.policy.records import (
    ApiKey,
    KeyAlgorithm,
    Login,
    OAuthClient,
    SealedKey,
    Sender,
    SenderDomain,
    Suppression,
    Tenant,
)
from mta.replica import egress
from mta.replica import reader as module
from mta.replica.reader import ReplicaMissing, ReplicaReader
from mta.replica.writer import Record, ReplicaWriter
from tests.unit.spool.rows import full_disk

ACME = Tenant("acme", "operator", False, "a@acme.test")
NETWORKS = ("192.0.2.0/24", "2001:db8::/32")
LOGIN = Login("acme", "acme", "hash", NETWORKS, 1e9)
KEY = ApiKey("abc", "acme", b"\x01" * 32, ("mail", "read"), NETWORKS, 1e9, b"\x02" * 32, 2e9)
CLIENT = OAuthClient("client", "acme", ("mail", "domains:read"), 7, NETWORKS, 1e9)
SEALED = SealedKey("s1", KeyAlgorithm.RSA_SHA256, b"\x00\xff")
DOMAIN = SenderDomain("acme.test", "acme", False, (SEALED, SealedKey("s2", KeyAlgorithm.ED25519_SHA256, b"x")))
GONE = Suppression("acme", "x@example.net", "manual")
ALL: tuple[Record, ...] = (ACME, LOGIN, KEY, CLIENT, DOMAIN, GONE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the replica is."""
    return tmp_path / "home" / "policy.db"


@pytest.fixture
def writer(path: Path) -> Iterator[ReplicaWriter]:
    """The node's side."""
    made = ReplicaWriter(path)
    yield made
    made.close()


@pytest.fixture
def reader(writer: ReplicaWriter, path: Path) -> Iterator[ReplicaReader]:
    """A worker's side."""
    made = ReplicaReader(path)
    yield made
    made.close()


def everything(reader: ReplicaReader) -> list[object]:
    """What a worker can ask for."""
    return [
        reader.tenant("acme"),
        reader.login("acme"),
        reader.api_key("abc"),
        reader.oauth_client("client"),
        reader.sender_domain("acme.test"),
        reader.suppressions("x@example.net", ["acme"]),
        reader.first_domain("acme"),
    ]


NOTHING: list[object] = [None, None, None, None, None, [], None]
FULL: list[object] = [ACME, LOGIN, KEY, CLIENT, DOMAIN, [GONE], "acme.test"]


def test_a_new_replica_is_empty(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    assert writer.position() == ("", 0)
    assert reader.revision == 0
    assert everything(reader) == NOTHING


def test_records_come_back_as_they_were(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    writer.apply([(record, False) for record in ALL], 5)
    assert reader.refresh()
    assert reader.revision == 5
    assert everything(reader) == FULL
    assert writer.position() == ("", 5)


def test_what_is_deleted_is_gone(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    writer.apply([(record, False) for record in ALL], 1)
    writer.apply([(record, True) for record in ALL], 2)
    reader.refresh()
    assert everything(reader) == NOTHING


def test_what_is_changed_is_changed(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    writer.apply([(record, False) for record in ALL], 1)
    smaller = SenderDomain("acme.test", "other", True, ())
    suspended = Tenant("acme", "reseller", True, "")
    writer.apply([(smaller, False), (suspended, False), (Suppression("acme", "x@example.net", "complaint"), False)], 2)
    reader.refresh()
    assert reader.sender_domain("acme.test") == smaller
    assert reader.tenant("acme") == suspended
    assert [record.reason for record in reader.suppressions("x@example.net", ["acme"])] == ["complaint"]
    assert reader.first_domain("acme") is None


def test_a_snapshot_takes_the_place_of_everything(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    writer.apply([(record, False) for record in ALL], 1)
    writer.replace([Tenant("new", "", False, "")], "lineage-2", 9)
    reader.refresh()
    assert everything(reader) == NOTHING
    assert reader.tenant("new") is not None
    assert writer.position() == ("lineage-2", 9)


def test_answers_are_kept_until_the_file_changes(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    assert everything(reader) == NOTHING
    writer.apply([(record, False) for record in (ACME, DOMAIN)], 1)
    assert reader.tenant("acme") is None
    assert reader.refresh()
    assert reader.tenant("acme") == ACME
    assert not reader.refresh()


def test_suppressions_logins_and_keys_that_are_new_count_at_once(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    everything(reader)
    writer.apply([(record, False) for record in (LOGIN, KEY, GONE)], 1)
    assert (reader.login("acme"), reader.api_key("abc"), reader.suppressions("x@example.net", ["acme"])) == (
        LOGIN,
        KEY,
        [GONE],
    )


def test_a_batch_that_fails_leaves_the_revision_before(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    writer.apply([(ACME, False)], 1)
    broken = Login("x", "acme", object())  # type: ignore[arg-type]
    with pytest.raises(sqlite3.Error):
        writer.apply([(LOGIN, False), (broken, False)], 2)
    assert writer.position()[1] == 1
    reader.refresh()
    assert reader.login("acme") is None
    writer.apply([(LOGIN, False)], 2)


def test_a_disk_that_was_full_is_no_trouble_afterwards(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    writer.apply([(ACME, False)], 1)
    with full_disk(), pytest.raises(sqlite3.Error):
        writer.apply([(LOGIN, False)], 2)
    assert writer.position()[1] == 1
    writer.apply([(LOGIN, False)], 2)
    reader.refresh()
    assert (reader.login("acme"), reader.revision) == (LOGIN, 2)


def test_it_survives_a_restart(writer: ReplicaWriter, path: Path) -> None:
    writer.replace(ALL, "lineage", 3)
    writer.close()
    again = ReplicaWriter(path)
    assert again.position() == ("lineage", 3)
    reader = ReplicaReader(path)
    assert everything(reader) == FULL
    reader.close()
    again.close()


def test_a_file_of_another_version_is_filled_anew(path: Path) -> None:
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.executescript("CREATE TABLE tenant (x); CREATE TABLE junk (y); INSERT INTO tenant VALUES (1);")
    old.close()
    writer = ReplicaWriter(path)
    assert writer.position() == ("", 0)
    reader = ReplicaReader(path)
    assert everything(reader) == NOTHING
    reader.close()
    writer.close()


def test_there_may_be_no_replica_yet(path: Path) -> None:
    with pytest.raises(ReplicaMissing, match="start the node"):
        ReplicaReader(path)
    path.parent.mkdir()
    path.touch()
    with pytest.raises(ReplicaMissing, match="not filled yet"):
        ReplicaReader(path)
    path.write_bytes(b"not a database\n" * 100)
    with pytest.raises(ReplicaMissing, match="cannot be read"):
        ReplicaReader(path)


def test_nobody_else_may_read_it(writer: ReplicaWriter, path: Path) -> None:
    writer.replace(ALL, "lineage", 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_worker_cannot_change_it(reader: ReplicaReader) -> None:
    with pytest.raises(sqlite3.OperationalError):
        reader._connection.execute("DELETE FROM tenant")


def test_memory_is_bounded(writer: ReplicaWriter, reader: ReplicaReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_SIZE", 10)
    for number in range(50):
        reader.tenant(f"t{number}")
        reader.sender_domain(f"d{number}.test")
        reader.login(f"u{number}")
    assert len(reader._tenants) <= 10
    assert len(reader._domains) <= 10
    assert len(reader._logins) <= 10


def test_a_reader_never_sees_half_a_revision(writer: ReplicaWriter, path: Path) -> None:
    writer.replace(ALL, "lineage", 1)
    reader = ReplicaReader(path)
    writer._connection.execute("BEGIN IMMEDIATE")
    writer._connection.execute("DELETE FROM domain")
    reader.refresh()
    assert everything(reader) == FULL
    writer._connection.execute("ROLLBACK")
    reader.close()


def test_senders_and_the_domain_that_signs_for_them(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    signer = SenderDomain("platform.test", "operator", False, (SEALED,), True)
    assert (reader.senders("ann@x.test"), reader.signing_domain()) == ([], None)
    ann, same = Sender("acme", "ann@x.test"), Sender("other", "ann@x.test")
    writer.apply([(ann, False), (same, False), (ann, False), (signer, False), (DOMAIN, False)], 1)
    reader.refresh()
    assert (sorted(reader.senders("ann@x.test")), reader.signing_domain()) == (["acme", "other"], signer)
    writer.apply([(ann, True), (SenderDomain("platform.test", "operator", False, (SEALED,)), False)], 2)
    reader.refresh()
    assert (reader.senders("ann@x.test"), reader.signing_domain()) == (["other"], None)
    writer.replace([], "lineage-2", 3)
    reader.refresh()
    assert reader.senders("ann@x.test") == []


def test_a_snapshot_in_pieces_counts_at_its_end(writer: ReplicaWriter, reader: ReplicaReader, path: Path) -> None:
    writer.apply([(record, False) for record in ALL], 5)
    writer.begin_snapshot()
    other = Suppression("acme", "y@example.net", "unsubscribe", "news", 7.5)
    writer.add_to_snapshot([ACME, other])
    reader.refresh()
    assert everything(reader) == FULL
    writer.begin_snapshot()  # the first one broke off
    writer.add_to_snapshot([ACME])
    writer.add_to_snapshot([DOMAIN, other])
    reader.refresh()
    assert everything(reader) == FULL
    assert reader.suppressions("y@example.net", ["acme"]) == []
    writer.finish_snapshot("two", 9)
    reader.refresh()
    assert reader.revision == 9
    assert writer.position() == ("two", 9)
    assert everything(reader) == [ACME, None, None, None, DOMAIN, [], "acme.test"]
    assert reader.suppressions("y@example.net", ["acme"]) == [other]
    writer.apply([(GONE, False), (other, True)], 10)
    reader.refresh()
    assert reader.suppressions("x@example.net", ["acme"]) == [GONE]
    assert reader.suppressions("y@example.net", ["acme"]) == []
    names = [row[0] for row in sqlite3.connect(path).execute("SELECT name FROM sqlite_master")]
    assert "domain_tenant" in names
    assert not [name for name in names if name.startswith("incoming_")]


def test_a_snapshot_that_broke_off_is_forgotten_by_the_next_program(path: Path) -> None:
    first = ReplicaWriter(path)
    first.replace([ACME], "one", 3)
    first.begin_snapshot()
    first.add_to_snapshot([LOGIN, GONE])
    first.close()
    second, reader = ReplicaWriter(path), ReplicaReader(path)
    assert second.position() == ("one", 3)
    assert reader.tenant("acme") == ACME
    second.replace([KEY], "one", 4)
    reader.refresh()
    assert reader.tenant("acme") is None
    assert reader.login("acme") is None
    assert reader.suppressions("x@example.net", ["acme"]) == []
    assert reader.api_key("abc") == KEY
    reader.close()
    second.close()


def test_one_address_may_be_suppressed_for_several_streams(writer: ReplicaWriter, reader: ReplicaReader) -> None:
    entries = [Suppression("acme", "x@example.net", "manual", stream) for stream in ("", "news", "receipts")]
    writer.apply([(entry, False) for entry in entries], 1)
    writer.apply([(entries[1], True), (entries[2]._replace(reason="complaint"), False)], 2)
    reader.refresh()
    assert reader.suppressions("x@example.net", ["acme"]) == [entries[0], entries[2]._replace(reason="complaint")]


def test_what_could_not_be_read_is_read_again(
    writer: ReplicaWriter, reader: ReplicaReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.apply([(ACME, False), (EgressRule("one", 1, suspended=True), False)], 1)
    with monkeypatch.context() as patch:
        patch.setattr(egress, "_rule", _unreadable)
        with pytest.raises(sqlite3.OperationalError):
            reader.refresh()
    assert reader.refresh()
    assert [rule.rule_id for rule in reader.egress.rules] == ["one"]
    assert not reader.refresh()


def _unreadable(row: object) -> EgressRule:
    raise sqlite3.OperationalError("disk I/O error")
