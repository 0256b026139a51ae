"""Puts tracking into messages: a picture that tells of opening, links that tell of following, links to unsubscribe.

A dialect makes a ``reference`` for each recipient's copy, gives it along with the submission, and has ``track`` rewrite
the HTML. The reference is all that links know of the message, in a signed token (``mta.runtime.links``), so nothing is
kept here, and what a link does is decided from its token alone. A copy with links is for one recipient: several
recipients with one reference could not be told apart.

Without ``bridge.public_url`` there is no tracking: references are empty and nothing is rewritten.

Limits: links with more than ``links.MAX_URL`` octets are left alone; what a message's HTML is made of is remembered for
the next copies, at most ``REMEMBERED`` messages of ``REMEMBERED_LENGTH``. Any thread: what is remembered is looked up,
added and dropped by single operations of a dict, and found twice at worst.
"""

import html as markup_text
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import urlsplit

from api_bridge.tracking import markup
from api_bridge.tracking.markup import Places
from mta.runtime import links
from mta.runtime.keyring import KeyFile
from mta.runtime.links import Link, Purpose, Signer
from mta.runtime.options import Options, OptionsError

REMEMBERED = 32
REMEMBERED_LENGTH = 500_000
"""Characters of an HTML text that is remembered."""
OPEN_PATH, CLICK_PATH, UNSUBSCRIBE_PATH = "/t/o/", "/t/c/", "/t/u/"
PICTURE_SUFFIX = ".png"
KEY_FILE = "tracking.key"

_PICTURE = '<img src="{}" width="1" height="1" alt="" style="display:block;width:1px;height:1px;border:0">'


class Tracker:
    """Makes references, rewrites HTML, makes links. ``public_url`` is where clients reach the bridge; empty: off."""

    def __init__(self, public_url: str, keys: KeyFile | None) -> None:
        self._base = public_url.rstrip("/")
        self._own = tuple(self._base + path for path in (OPEN_PATH, CLICK_PATH, UNSUBSCRIBE_PATH))
        self._keys = keys
        self._places: OrderedDict[str, Places] = OrderedDict()

    @classmethod
    def load(cls, options: Options) -> "Tracker":
        """The tracker of an installation. OptionsError: ``bridge.public_url`` or the keys cannot be used."""
        url = options.bridge.public_url
        if not url:
            return cls("", None)
        parts = urlsplit(url)
        if not links.is_target(url) or parts.query or parts.fragment or parts.username is not None:
            raise OptionsError(f'bridge.public_url: it must be like https://mail.example.com; it is "{url}"')
        return cls(url, KeyFile(options.path("secrets", KEY_FILE)))

    @property
    def on(self) -> bool:
        """Whether there is tracking at all."""
        return self._keys is not None

    def reference(self) -> bytes:
        """A new reference for one recipient's copy, for the submission; empty if there is no tracking."""
        return links.new_reference() if self.on else b""

    def track(self, html: str, reference: bytes, *, opens: bool = True, clicks: bool = True) -> str:
        """The HTML of a copy with the picture before the end of its body and its http and https links rewritten.

        Without tracking, or a reference, it is the same HTML.
        """
        if self._keys is None or not reference or not (opens or clicks):
            return html
        places, signer = self._survey(html), Signer(self._keys.ring(), reference)
        pieces: list[str] = []
        position = 0
        picture = ""
        if opens:
            picture = _PICTURE.format(f"{self._base}{OPEN_PATH}{signer.token(Purpose.OPEN)}{PICTURE_SUFFIX}")
        for target in places.targets if clicks else ():
            if target.url.startswith(self._own):  # such as a link to unsubscribe
                continue
            if position <= places.end_of_body <= target.start:
                pieces += (html[position : places.end_of_body], picture)
                position, picture = places.end_of_body, ""
            quotation = html[target.start] if html[target.start] in "\"'" else '"'
            url = f"{self._base}{CLICK_PATH}{signer.token(Purpose.CLICK, target.url)}"
            pieces += (html[position : target.start], quotation, url, quotation)
            position = target.end
        if picture:
            end = max(position, places.end_of_body)
            pieces += (html[position:end], picture)
            position = end
        pieces.append(html[position:])
        return "".join(pieces)

    def unsubscribe_url(self, reference: bytes) -> str:
        """The address of the page where the recipient of this copy unsubscribes; empty if there is no tracking."""
        if self._keys is None or not reference:
            return ""
        return f"{self._base}{UNSUBSCRIBE_PATH}{Signer(self._keys.ring(), reference).token(Purpose.UNSUBSCRIBE)}"

    def unsubscribe_link(self, reference: bytes) -> str:
        """The same, to be put into HTML."""
        return markup_text.escape(self.unsubscribe_url(reference))

    def unsubscribe_fields(self, reference: bytes) -> Mapping[str, str]:
        """The header fields for unsubscribing with one click (RFC 8058 §3.1); none if there is no tracking."""
        url = self.unsubscribe_url(reference)
        if not url:
            return {}
        return {"List-Unsubscribe": f"<{url}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}

    def read(self, token: str, purpose: Purpose) -> Link:
        """What a token of one of our links says. Raises links.InvalidToken."""
        if self._keys is None:
            raise links.InvalidToken
        return links.verify(self._keys.ring(), token, purpose)

    def _survey(self, html: str) -> Places:
        places = self._places.get(html)
        if places is None:
            places = markup.survey(html)
            if len(html) <= REMEMBERED_LENGTH:
                self._places[html] = places
                if len(self._places) > REMEMBERED:
                    self._places.popitem(last=False)
        return places
