"""Links and pictures in HTML as it is in the wild: what a browser sees as a link is rewritten, all else stays."""

import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from api_bridge.tracking import markup
from api_bridge.tracking.tracker import KEY_FILE, Tracker
from mta.runtime import keyring, links
from mta.runtime.keyring import KeyFile
from mta.runtime.links import InvalidToken, Purpose
from mta.runtime.options import BridgeOptions, Options, OptionsError

BASE = "https://mail.example.com"
_PICTURE = re.compile(r'<img src="https://mail\.example\.com/t/o/([A-Za-z0-9_-]+)\.png"[^>]*>')
_LINK = re.compile(r"https://mail\.example\.com/t/c/([A-Za-z0-9_-]+)")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    path = tmp_path_factory.mktemp("keys") / KEY_FILE
    path.write_text("ab" * 32 + "\n")
    path.chmod(0o600)
    return Tracker(BASE, KeyFile(path))


def targets(tracker: Tracker, html: str) -> list[str]:
    """Where the links of tracked HTML lead."""
    reference = tracker.reference()
    found = []
    for token in _LINK.findall(tracker.track(html, reference, opens=False)):
        link = tracker.read(token, Purpose.CLICK)
        assert link.reference == reference
        found.append(link.url)
    return found


class Reader(HTMLParser):
    """What another reader of HTML sees as links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"a", "area"}:
            self.found += [value or "" for name, value in attrs if name == "href"][:1]

    handle_startendtag = handle_starttag


def read(html: str) -> list[str]:
    """The links another reader sees."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader.found


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ('<a href="http://a.test/x">', ["http://a.test/x"]),
        ("<A HREF='HTTPS://a.test/x'>", ["HTTPS://a.test/x"]),
        ("<a href=http://a.test/x?a=b>", ["http://a.test/x?a=b"]),
        ('<a\n  class=x\thref = "http://a.test/"\n>', ["http://a.test/"]),
        ('<a/href="http://a.test/"/>', ["http://a.test/"]),
        ('<a title="a>b" data-href="http://no.test/" href="http://a.test/">', ["http://a.test/"]),
        ('<a href="http://a.test/" href="http://b.test/">', ["http://a.test/"]),
        ('<a href="http://a.test/?a=1&amp;b=2&#38;c=3&#x26;d=4">', ["http://a.test/?a=1&b=2&c=3&d=4"]),
        ('<a href="http://a.test/?a=1&b=2&copy=3&region=4">', ["http://a.test/?a=1&b=2&copy=3&region=4"]),
        ('<a href="&#104;ttp://a.test/">', ["http://a.test/"]),
        ('<a href=" \n http://a.test/a\nb \t">', ["http://a.test/ab"]),
        ('<a href="http://a.test/ä ö?q=ü&x=é">', ["http://a.test/%C3%A4%20%C3%B6?q=%C3%BC&x=%C3%A9"]),
        ('<map><area shape=rect href="https://a.test/"></map>', ["https://a.test/"]),
        ('<a href="http://a.test/"><a href="http://b.test/">', ["http://a.test/", "http://b.test/"]),
        ("<p>a < b <a href=http://a.test/>", ["http://a.test/"]),
        ("<!-- x --!><a href=http://a.test/>", ["http://a.test/"]),
        ("<!--><a href=http://a.test/>-->", ["http://a.test/"]),
        ("<!DOCTYPE html><?xml ?></ x><a href=http://a.test/>", ["http://a.test/"]),
        ("<title><a href=http://no.test/></title><a href=http://a.test/>", ["http://a.test/"]),
        ("<script>'</scriptx><a href=http://no.test/>'</SCRIPT ><a href=http://a.test/>", ["http://a.test/"]),
    ],
)
def test_what_a_browser_sees_as_a_link_is_rewritten(tracker: Tracker, html: str, found: list[str]) -> None:
    assert targets(tracker, html) == found


@pytest.mark.parametrize(
    "html",
    [
        '<a href="mailto:a@b.test">', '<a href="tel:+1">', '<a href="#top">', '<a href="/path">',
        '<a href="//b.test/">',
        '<a href="javascript:location=\'http://b.test/\'">', '<a href="data:text/html,http://b.test/">', "<a href>",
        '<a href="">', "<a href=>", "<a name=x>", '<abbr href="http://b.test/">', '<link href="http://b.test/">',
        '<base href="http://b.test/">', '<img src="http://b.test/">', '<form action="http://b.test/">',
        '<!-- <a href="http://b.test/"> -->', "<!-- <a href=http://b.test/>", '<style>a{} <a href="http://b.test/">',
        '<textarea><a href="http://b.test/"></textarea>', "<a href='http://b.test/", '<a href="http://b.test/"',
        "text http://b.test/ text", '<p title="<a href=http://b.test/>">', '<a href="http:\\\\b.test/">',
        '<a href="http://b.test\\@c.test/">', '<a href="http://bücher.test/">', '<a href="http://">',
        '<a href="http://b.test/\x00">', f'<a href="http://b.test/{"x" * links.MAX_URL}">', '<a href="http:b.test">',
        f'<a href="{BASE}/t/u/token">', "<plaintext><a href=http://b.test/>", "<a href=\"http://[b.test/\">",
    ],
)  # fmt: skip
def test_everything_else_is_left_alone(tracker: Tracker, html: str) -> None:
    assert tracker.track(html, tracker.reference(), opens=False) == html


@pytest.mark.parametrize(
    ("html", "where"),
    [
        ("<p>x</p>", 8),
        ("", 0),
        ("<body>x</BODY ></html>", 7),
        ("<html>x</html>", 7),
        ("<!-- </body> -->x</body>", 17),
        ("x</body>y</body>z", 9),
        ('<body><a href="#">x</body', 19),
        ("x<!-- y", 1),
        ("x<a href='y", 1),
        ("x<style>y</p>", 1),
    ],
)
def test_the_picture_goes_to_the_end_of_the_body(tracker: Tracker, html: str, where: int) -> None:
    reference = tracker.reference()
    tracked = tracker.track(html, reference, clicks=False)
    match = _PICTURE.search(tracked)
    assert match is not None
    assert match.start() == where
    assert tracked[: match.start()] + tracked[match.end() :] == html
    assert tracker.read(match[1], Purpose.OPEN).reference == reference


tags = st.sampled_from(
    ["<a ", "<A\n", "<a/", "<area ", "<p ", "<img ", "</a>", "</body>", "<body>", "<!--", "-->", "<script>",
     "</script>",
     "<b>", "<", ">", "/>", "text ", " ", "\t", '"', "'", "=", "&", "</", "<!", "ä"]
)  # fmt: skip
hrefs = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from([" href=", " HREF =", " hReF= ", " title=", " href"]),
    quote := st.sampled_from(['"', "'", ""]),
    st.sampled_from(["http://a.test/x?a=1&amp;b=2", "https://b.test", "mailto:x@y.test", "#x", "HTTP://c.test/%20"]),
    quote,
    st.sampled_from([">", " >", "/>", " class=x>", ""]),
)
documents = st.lists(st.one_of(tags, hrefs), max_size=30).map("".join)


@given(html=documents)
@example("<a href=\"http://a.test/x?a=1&amp;b=2'>")
@example("</body><a href=https://b.test></body><a href=https://b.test>")
def test_only_links_change_and_lead_where_they_led(tracker: Tracker, html: str) -> None:
    reference = tracker.reference()
    places = markup.survey(html)
    tracked = tracker.track(html, reference)
    assert len(_PICTURE.findall(tracked)) == 1
    plain = _PICTURE.sub("", tracked)
    # Put back, what was a link is what it was, and all else was never touched.
    rest, position = [], 0
    for target in places.targets:
        rest.append(html[position : target.start])
        position = target.end
    rest.append(html[position:])
    match = re.fullmatch(f"[\"']{_LINK.pattern}[\"']".join(map(re.escape, rest)), plain)
    assert match is not None
    assert [tracker.read(token, Purpose.CLICK).url for token in match.groups()] == [one.url for one in places.targets]
    # Tracking again finds nothing to do but the picture.
    assert _LINK.findall(tracker.track(tracked, reference)) == _LINK.findall(tracked)


@given(
    urls=st.lists(
        st.sampled_from(["http://a.test/x?a=1&amp;b=2", "https://b.test/#f", "mailto:x@y.test", "#x", "x/y"]),
        max_size=8,
    ),
    spelling=st.sampled_from(['<a href="{}">', "<A CLASS=c HREF='{}'>", "<area\nhref = {} >", "<a href={}>"]),
    noise=st.sampled_from(["<p>", "<!-- <a href='http://no.test'> -->", "<b title='>'>", " & ", "<br/>"]),
)
def test_another_reader_sees_the_same_links(tracker: Tracker, urls: list[str], spelling: str, noise: str) -> None:
    html = noise + noise.join(spelling.format(url) for url in urls)
    expected = [url for url in read(html) if url.startswith("http")]
    assert [target.url for target in markup.survey(html).targets] == expected
    seen = [url for url in read(tracker.track(html, tracker.reference())) if url.startswith("http")]
    assert [tracker.read(url.rpartition("/")[2], Purpose.CLICK).url for url in seen] == expected


@pytest.mark.parametrize(
    "piece",
    ['<a href="http://a.test/">x</a>', "<a ", "<a href=", '<a href="', "<!--", "<script>", "</", "<", "&amp;", "<a =",
     "<a\n", "<a x=' ", "<a/", '<a href="&', "<a href=&#", "</body>", "<title>", "<!", "<!--->", "\n"],
)  # fmt: skip
def test_the_time_is_linear_in_the_length(piece: str) -> None:
    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        started = time.process_time()
        markup.survey(text)
        return time.process_time() - started

    # Eight times the text would take 64 times as long if the time grew with the square of the length.
    short = min(seconds(50_000) for _ in range(5))
    assert min(seconds(400_000) for _ in range(3)) < 25 * max(short, 0.002)


def test_links_to_unsubscribe(tracker: Tracker) -> None:
    reference = tracker.reference()
    url = tracker.unsubscribe_url(reference)
    assert tracker.read(url.removeprefix(f"{BASE}/t/u/"), Purpose.UNSUBSCRIBE).reference == reference
    fields = tracker.unsubscribe_fields(reference)
    assert fields == {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    html = f'<a href="{tracker.unsubscribe_link(reference)}">no more</a>'
    assert tracker.track(html, reference, opens=False) == html
    with pytest.raises(InvalidToken):
        tracker.read(url.removeprefix(f"{BASE}/t/u/"), Purpose.OPEN)


def test_without_a_public_address_nothing_is_tracked() -> None:
    off = Tracker.load(Options())
    html = '<a href="http://a.test/">x</a>'
    assert not off.on
    assert off.reference() == b""
    assert off.track(html, bytes(16)) == html
    assert off.unsubscribe_url(bytes(16)) == ""
    assert off.unsubscribe_fields(bytes(16)) == {}
    with pytest.raises(InvalidToken):
        off.read("x", Purpose.OPEN)


def test_what_is_switched_off_is_left_out(tracker: Tracker) -> None:
    html = '<a href="http://a.test/">x</a>'
    assert tracker.track(html, tracker.reference(), opens=False, clicks=False) == html
    assert tracker.track(html, b"") == html


@pytest.mark.parametrize(
    "url", ["mail.example.com", "ftp://x.test", "https://x.test/?a", "https://u@x.test", "http://ä/"]
)
def test_a_public_address_that_cannot_be_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(OptionsError, match="public_url"):
        Tracker.load(Options(home=str(tmp_path), bridge=BridgeOptions(public_url=url)))


def test_the_key_file_is_needed_and_followed(tmp_path: Path) -> None:
    options = Options(home=str(tmp_path), bridge=BridgeOptions(public_url=f"{BASE}/"))
    with pytest.raises(OptionsError, match=KEY_FILE):
        Tracker.load(options)
    path = tmp_path / "secrets" / KEY_FILE
    path.parent.mkdir()
    path.write_text("ab" * 32)
    path.chmod(0o600)
    tracker = Tracker.load(options)
    old = tracker.unsubscribe_url(tracker.reference()).rpartition("/")[2]
    keyring.write(path, keyring.read(path).rotated())
    new = tracker.unsubscribe_url(tracker.reference()).rpartition("/")[2]
    assert old[:5] != new[:5]
    tracker.read(old, Purpose.UNSUBSCRIBE)
    keyring.write(path, keyring.read(path).without_older())
    tracker.read(new, Purpose.UNSUBSCRIBE)
    with pytest.raises(InvalidToken):
        tracker.read(old, Purpose.UNSUBSCRIBE)
