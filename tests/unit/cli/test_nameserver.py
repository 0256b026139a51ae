"""The demo's DNS answers from zone files as they are at the moment, and passes other questions on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest

from control.demo import nameserver
from mta.runtime.lifecycle import Tasks
from mta.runtime.options import OptionsError
from tests.support.dns import DnsServer
from tests.support.ports import free_port

ZONE = """\
; made by hand
_barua-challenge.shop.example. 3600 IN TXT "barua-verify=abc"
shop.example. IN TXT "v=spf1 -all"
www 60 IN CNAME host.example.net.
long IN TXT "aaa" "bbb"
"""


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """A nameserver with the zones in ``tmp_path / "zones"``."""
    tasks, found = Tasks(), free_port()
    transport = await nameserver.listen(f"127.0.0.1:{found}", tmp_path / "zones", tasks)
    (tmp_path / "zones" / "shop.example.zone").write_text(ZONE)
    yield found
    transport.close()
    await tasks.close()


async def _ask(port: int, name: str, kind: str = "TXT") -> dns.message.Message:
    return await dns.asyncquery.udp(dns.message.make_query(name, kind), "127.0.0.1", timeout=60, port=port)


def _texts(answer: dns.message.Message) -> list[str]:
    return [record.to_text() for rrset in answer.answer for record in rrset]


async def test_records_of_a_zone_are_answered_with_authority(port: int) -> None:
    answer = await _ask(port, "_Barua-Challenge.Shop.Example")
    assert _texts(answer) == ['"barua-verify=abc"']
    assert answer.flags & dns.flags.AA
    assert _texts(await _ask(port, "shop.example")) == ['"v=spf1 -all"']
    assert _texts(await _ask(port, "long.shop.example")) == ['"aaa" "bbb"']
    assert _texts(await _ask(port, "www.shop.example", "CNAME")) == ["host.example.net."]


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("nothing.shop.example", "TXT", dns.rcode.NXDOMAIN),
        ("shop.example", "MX", dns.rcode.NOERROR),
        ("other.example", "TXT", dns.rcode.NXDOMAIN),
        ("shop.test", "TXT", dns.rcode.NXDOMAIN),
    ],
)
async def test_what_is_not_there_has_no_answer(port: int, name: str, kind: str, code: dns.rcode.Rcode) -> None:
    answer = await _ask(port, name, kind)
    assert (answer.rcode(), answer.answer) == (code, [])


async def test_what_is_saved_is_published_at_once(port: int, tmp_path: Path) -> None:
    assert _texts(await _ask(port, "new.test")) == []
    file = tmp_path / "zones" / "new.test.zone"
    file.write_text('new.test. IN TXT "one"\n')
    assert _texts(await _ask(port, "new.test")) == ['"one"']
    file.write_text('new.test. IN TXT "two"\n')
    assert _texts(await _ask(port, "new.test")) == ['"two"']
    file.unlink()
    assert (await _ask(port, "new.test")).rcode() == dns.rcode.NXDOMAIN


@pytest.mark.parametrize("content", [b"what is this?\n", b"shop.example. IN TXT \xff\n", b"$INCLUDE /etc/passwd\n"])
async def test_a_bad_file_is_a_failure_of_its_zone_alone(port: int, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "zones" / "bad.test.zone").write_bytes(content)
    assert (await _ask(port, "bad.test")).rcode() == dns.rcode.SERVFAIL
    assert (await _ask(port, "shop.example")).rcode() == dns.rcode.NOERROR


async def test_the_nearest_zone_answers(port: int, tmp_path: Path) -> None:
    (tmp_path / "zones" / "sub.shop.example.zone").write_text('sub.shop.example. IN TXT "below"\n')
    assert _texts(await _ask(port, "sub.shop.example")) == ['"below"']


async def test_noise_gets_no_answer_and_does_no_harm(port: int) -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port)
    )
    for noise in (b"", b"x", bytes(12), b"\xff" * 600):
        transport.sendto(noise)
    transport.close()
    assert _texts(await _ask(port, "shop.example")) == ['"v=spf1 -all"']


async def test_other_names_are_asked_elsewhere() -> None:
    query = dns.message.make_query("example.net", "TXT")
    with DnsServer({("example.net", "TXT"): ['"public"']}) as server:
        away, there = ("127.0.0.1", free_port()), ("127.0.0.1", server.port)
        assert _texts(await nameserver.forwarded(query, [away, there])) == ['"public"']
    assert (await nameserver.forwarded(query, [])).rcode() == dns.rcode.SERVFAIL


async def test_an_address_in_use_names_the_option(port: int, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"inbox\.dns_listen: cannot listen on 127\.0\.0\.1"):
        await nameserver.listen(f"127.0.0.1:{port}", tmp_path / "zones", Tasks())
