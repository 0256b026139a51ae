"""What a User-Agent field says of program, system and device, as far as receivers of webhooks are told.

A short table, first match wins: programs for mail before browsers, browsers that claim to be others before those. What
is not in it is "Other". Versions are what the field says, and much of that is frozen or made up. Pure.

Limits: ``MAX_AGENT`` characters are looked at.
"""

import re
from dataclasses import dataclass

MAX_AGENT = 1000
_VERSION = r"[/ ]?(\d{1,6})?(?:[._](\d{1,6}))?(?:[._](\d{1,6}))?(?:[._](\d{1,6}))?"


@dataclass(frozen=True, slots=True)
class Named:
    """A program or system with the parts of its version; empty: not said."""

    family: str = "Other"
    version: tuple[str, str, str, str] = ("", "", "", "")


@dataclass(frozen=True, slots=True)
class Agent:
    """What a field says."""

    program: Named
    system: Named
    device: str


def _table(*rows: tuple[str, str]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((family, re.compile(f"(?:{pattern}){_VERSION}")) for family, pattern in rows)


_PROGRAMS = _table(
    ("Gmail", r"GoogleImageProxy"),
    ("Yahoo Mail", r"YahooMailProxy"),
    ("Thunderbird", r"Thunderbird"),
    ("Outlook", r"Microsoft Outlook|MSOffice|Outlook-(?:iOS|Android)"),
    ("Edge", r"Edg(?:e|A|iOS)?(?=/)"),
    ("Opera", r"OPR|Opera"),
    ("Samsung Internet", r"SamsungBrowser"),
    ("Firefox", r"Firefox|FxiOS"),
    ("Chrome", r"Chrome|CriOS"),
    ("Safari", r"Version(?=/[\d.]+ (?:Mobile/\S+ )?Safari)"),
    ("Apple Mail", r"AppleWebKit(?=/[\d.]+ \(KHTML, like Gecko\)(?: Mobile/\S+)?$)"),
    ("curl", r"curl"),
)
_SYSTEMS = _table(
    ("Windows", r"Windows NT"),
    ("iOS", r"(?:iPhone|iPad|iPod).*? OS"),
    ("macOS", r"Mac OS X"),
    ("Android", r"Android"),
    ("Chrome OS", r"CrOS \S+"),
    ("Linux", r"Linux"),
)
_DEVICES = (("iPad", "iPad"), ("iPhone", "iPhone"), ("Android", "Android"), ("Macintosh", "Mac"))
_WINDOWS = "Windows NT"


def read(text: str) -> Agent:
    """What a User-Agent field says."""
    text = text[:MAX_AGENT]
    device = next((name for sign, name in _DEVICES if sign in text), "Other")
    if _WINDOWS in text:
        device = "Windows Desktop"
    return Agent(_first(_PROGRAMS, text), _first(_SYSTEMS, text), device)


def _first(table: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> Named:
    for family, pattern in table:
        match = pattern.search(text)
        if match is not None:
            major, minor, patch, last = (part or "" for part in match.groups())
            return Named(family, (major, minor, patch, last))
    return Named()
