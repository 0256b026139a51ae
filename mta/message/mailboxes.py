"""Mailboxes in header fields: From, Sender, Reply-To and the like (RFC 5322 §3.4), read and written.

`parse_header_address` is strict because authorisation hangs on it: where two readers could disagree about which
mailbox is meant, it refuses. Accepted: display names as atoms (with dots), quoted strings and encoded-words, comments
between the parts, groups, folding, UTF-8 (RFC 6532). Refused, though RFC 5322 knows them as obsolete or odd forms:
comments or spaces inside an address, source routes, empty list elements, a display name without angle brackets.

Linear time. Limits: 64 KiB of text, 1,000 mailboxes, comments nested 10 deep. Errors: AddressError. Pure; any thread.
"""

import re
from dataclasses import dataclass

from mta.message import encodedword
from mta.message.address import Address, AddressError, parse_path

MAX_TEXT = 65_536
MAX_MAILBOXES = 1_000
MAX_COMMENT_DEPTH = 10

_FOLD = re.compile(r"\r\n(?=[ \t])")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SPACE = re.compile(r"[ \t]++")
_WORD = re.compile(r'[^\x00-\x20()<>\[\]:;@\\,"\x7f]++')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"')
_ANGLE = re.compile(r'<((?:[^<>"\\]|"(?:[^"\\]|\\.)*+")*+)>')
_LITERAL = re.compile(r"\[[^\[\]\\]*+\]")
_COMMENT_STEP = re.compile(r"[^()\\]*+(?:\\.[^()\\]*+)*+")
_ATOMS_ONLY = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]++(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]++)*+")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """An address with the name shown for it."""

    name: str
    """Display name, decoded, without control characters; empty if there is none."""
    address: Address


def parse_header_address(value: str | bytes) -> list[Mailbox]:
    """The mailboxes of an address field's value, groups flattened, in order; never empty.

    `value`: the text after the colon, folded or not; bytes have to be UTF-8. Raises AddressError.
    """
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise AddressError("the field has octets that are not UTF-8; encode the name as RFC 2047 says") from None
    if len(value) > MAX_TEXT:
        raise AddressError("the field is too long")
    text = _FOLD.sub("", value)
    unfit = _UNFIT.search(text)
    if unfit:
        raise AddressError(f"the field contains the character U+{ord(unfit[0]):04X}, which is not allowed")
    found = _Reader(text).address_list()
    if not found:
        raise AddressError("the field has no address")
    return found


class _Reader:
    """Reads one field's text from left to right; every character is looked at a bounded number of times."""

    __slots__ = ("_at", "_found", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found: list[Mailbox] = []

    def address_list(self) -> list[Mailbox]:
        while True:
            self._address(in_group=False)
            self._skip()
            if self._at == len(self._text):
                return self._found
            if self._text[self._at] != ",":
                raise self._unexpected()
            self._at += 1

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _unexpected(self) -> AddressError:
        char = self._peek()
        return AddressError(f"'{char}' is out of place in the list of addresses" if char else "the list ends too early")

    def _skip(self) -> None:
        """White space and comments."""
        while True:
            char = self._peek()
            if char == "(":
                self._comment()
            elif char == " " or char == "\t":
                match = _SPACE.match(self._text, self._at)
                assert match is not None
                self._at = match.end()
            else:
                return

    def _comment(self) -> None:
        depth = 0
        while True:
            char = self._peek()
            if char == "(":
                depth += 1
                if depth > MAX_COMMENT_DEPTH:
                    raise AddressError(f"comments are nested more than {MAX_COMMENT_DEPTH} deep")
            elif char == ")":
                depth -= 1
            else:
                raise AddressError("a comment has no closing parenthesis")
            self._at += 1
            if depth == 0:
                return
            match = _COMMENT_STEP.match(self._text, self._at)
            assert match is not None
            self._at = match.end()

    def _address(self, in_group: bool) -> None:
        """One mailbox, or outside a group a whole group."""
        self._skip()
        words = self._phrase()
        char = self._peek()
        if char == "<":
            match = _ANGLE.match(self._text, self._at)
            if match is None:
                raise AddressError("an address that starts with '<' has no closing '>'")
            self._at = match.end()
            self._add(_display_name(words), match[1].strip(" \t"))
        elif char == "@":
            self._add("", self._bare(words))
        elif char == ":" and words and not in_group:
            self._at += 1
            self._group()
        elif words:
            raise AddressError(f"'{words[-1][:60]}' is no address: it has no @; names go before <address>")
        elif char in (",", ";", ""):
            raise AddressError("an address is missing in the list")
        else:
            raise self._unexpected()

    def _group(self) -> None:
        """The rest of a group after its colon; it may be empty."""
        self._skip()
        if self._peek() == ";":
            self._at += 1
            return
        while True:
            self._address(in_group=True)
            self._skip()
            char = self._peek()
            if char not in (",", ";") or not char:
                raise AddressError("a group of addresses has no closing ';'") if not char else self._unexpected()
            self._at += 1
            if char == ";":
                return

    def _phrase(self) -> list[str]:
        """Words up to the next special character. Stops before an @ with only the word that touches it in doubt."""
        words: list[str] = []
        while True:
            match = _WORD.match(self._text, self._at)
            if match is None and self._peek() == '"':
                match = _QUOTED.match(self._text, self._at)
                if match is None:
                    raise AddressError("a quoted name has no closing quote")
            if match is None:
                return words
            words.append(match[0])
            self._at = match.end()
            if self._peek() != "@":
                self._skip()
                if self._peek() == "@":
                    raise AddressError("there is a space or comment before an @")

    def _bare(self, words: list[str]) -> str:
        """An address without angle brackets: one word, the @, and the domain, all touching."""
        if len(words) != 1:
            raise AddressError("an address after a name has to stand in angle brackets: name <local@domain>")
        match = _WORD.match(self._text, self._at + 1) or _LITERAL.match(self._text, self._at + 1)
        if match is None:
            raise AddressError("there is no domain after an @")
        text = f"{words[0]}@{match[0]}"
        self._at = match.end()
        return text

    def _add(self, name: str, addr_spec: str) -> None:
        if len(self._found) >= MAX_MAILBOXES:
            raise AddressError(f"the field has more than {MAX_MAILBOXES} addresses")
        self._found.append(Mailbox(name, parse_path(addr_spec)))


def _display_name(words: list[str]) -> str:
    """The phrase as people see it. Encoded-words count outside quotes only (RFC 2047 §5)."""
    parts: list[str] = []
    plain: list[str] = []
    for word in words:
        if word[0] == '"':
            if plain:
                parts.append(encodedword.decode(" ".join(plain)))
                plain = []
            parts.append(re.sub(r"\\(.)", r"\1", word[1:-1]))
        else:
            plain.append(word)
    if plain:
        parts.append(encodedword.decode(" ".join(plain)))
    return "".join(char if char.isprintable() else " " for char in " ".join(parts)).strip()


def format_mailbox(name: str, address: Address) -> bytes:
    """`name <address>` as the value of a header field, or the bare address when `name` is empty.

    A non-ASCII name is written as encoded-words (RFC 2047); continuation lines start with a space. Raises AddressError
    when the name has control characters or is longer than 500 characters.
    """
    if not name:
        return address.mailbox.encode("utf-8")
    if len(name) > 500 or any(char < " " or char == "\x7f" for char in name):
        raise AddressError("the display name has control characters or more than 500 characters")
    if not name.isascii() or "=?" in name:
        phrase = encodedword.encode(name)
    elif _ATOMS_ONLY.fullmatch(name):
        phrase = name
    else:
        phrase = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{phrase}{_fold_or_space(phrase)}<{address.mailbox}>".encode("utf-8", "replace")


def _fold_or_space(phrase: str) -> str:
    return "\r\n " if len(phrase) > 60 else " "
