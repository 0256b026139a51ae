"""What a program calls itself in ``User-Agent``, as the original shows it: "Chrome 29.0.1547.57" on "Linux".

Only what is common is known; the rest is "" and never an error. Pure.
"""

import re

# The first that is found counts: most programs name others, too, which they want to be taken for.
_BROWSERS = tuple(
    (name, re.compile(rf"\b{token}/([0-9][0-9.]{{0,30}})"))
    for name, token in (
        ("Thunderbird", "Thunderbird"),
        ("Edge", "Edg(?:e|A|iOS)?"),
        ("Opera", "OPR"),
        ("Opera", "Opera"),
        ("Samsung Browser", "SamsungBrowser"),
        ("Yandex Browser", "YaBrowser"),
        ("Vivaldi", "Vivaldi"),
        ("Firefox", "(?:Firefox|FxiOS)"),
        ("Chrome", "(?:Chrome|CriOS)"),
        ("Safari", "Version"),
        ("curl", "curl"),
    )
)
_OLD_EXPLORER = re.compile(r"\bMSIE ([0-9][0-9.]{0,10})|\bTrident/.{0,60}\brv:([0-9][0-9.]{0,10})")
_OUTLOOK = re.compile(r"\b(?:Microsoft )?Outlook[ /]([0-9][0-9.]{0,30})")
_SYSTEMS = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        ("Windows 10", r"Windows NT 10\.0"),
        ("Windows 8.1", r"Windows NT 6\.3"),
        ("Windows 8", r"Windows NT 6\.2"),
        ("Windows 7", r"Windows NT 6\.1"),
        ("Windows", r"Windows"),
        ("iOS", r"iPhone|iPad|iPod"),
        ("Android", r"Android"),
        ("macOS", r"Mac OS X|Macintosh"),
        ("Chrome OS", r"\bCrOS\b"),
        ("Linux", r"Linux|X11"),
    )
)


def browser(agent: str) -> str:
    """The program and its version, or ""."""
    agent = agent[:1000]
    outlook = _OUTLOOK.search(agent)
    if outlook is not None:
        return f"Outlook {outlook[1]}"
    for name, pattern in _BROWSERS:
        match = pattern.search(agent)
        if match is not None:
            return f"{name} {match[1]}"
    explorer = _OLD_EXPLORER.search(agent)
    return f"Internet Explorer {explorer[1] or explorer[2]}" if explorer is not None else ""


def system(agent: str) -> str:
    """The operating system, or ""."""
    agent = agent[:1000]
    return next((name for name, pattern in _SYSTEMS if pattern.search(agent)), "")
