"""Tag lists: DKIM keys and DMARC policies as the DNS has them."""

import base64

import pytest

from control.model import taglists
from control.model.taglists import Dmarc, DmarcPolicy, TagListError

KEY = b"\x01" * 32
ENCODED = base64.b64encode(KEY).decode()


@pytest.mark.parametrize(
    ("text", "difference"),
    [
        (f"v=DKIM1; k=ed25519; p={ENCODED}", ""),
        (f"k=ed25519;p={ENCODED[:10]} {ENCODED[10:]}; t=s; n=note;", ""),
        (f"v=DKIM1; h=sha1:sha256; s=email; k=ed25519; p={ENCODED}", ""),
        (f"v=DKIM2; k=ed25519; p={ENCODED}", "v= is not"),
        (f"v=DKIM1; p={ENCODED}", "k= is rsa, not ed25519"),
        (f"v=DKIM1; k=ed25519; h=sha1; p={ENCODED}", "h= does not name sha256"),
        (f"v=DKIM1; k=ed25519; s=tlsrpt; p={ENCODED}", "s= names neither"),
        ("v=DKIM1; k=ed25519; p=", "revoked"),
        ("v=DKIM1; k=ed25519", "no p="),
        (f"v=DKIM1; k=ed25519; p={ENCODED[:-3]}", "not Base64"),
        ("v=DKIM1; k=ed25519; p=AAAA", "another key"),
        ("v=spf1 -all", "no DKIM key"),
        (f"k=ed25519; p={ENCODED}; p=x", "twice"),
    ],
)
def test_a_published_key_is_compared(text: str, difference: str) -> None:
    said = taglists.dkim_difference(text, "ed25519", KEY)
    assert difference in said
    assert bool(said) == bool(difference)


def test_a_dmarc_policy_is_read() -> None:
    found = taglists.dmarc("v=DMARC1; p=Reject; sp=quarantine; adkim=s; rua=mailto:x@x.test")
    assert found == Dmarc(DmarcPolicy.REJECT, DmarcPolicy.QUARANTINE, True, False, True)
    assert taglists.dmarc("v=DMARC1;p=none").subdomain_policy is DmarcPolicy.NONE


@pytest.mark.parametrize(
    "text", ["v=DMARC1", "v=DMARC1; p=nothing", "p=none", "v=DMARC1; p=none; p=none", "v=DMARC1 p"]
)
def test_a_broken_dmarc_record_is_refused(text: str) -> None:
    with pytest.raises(TagListError):
        taglists.dmarc(text)


def test_what_counts_as_dmarc() -> None:
    assert taglists.is_dmarc("v=DMARC1; p=none")
    assert taglists.is_dmarc("v = DMARC1")
    assert not taglists.is_dmarc("v=DMARC10; p=none")
    assert not taglists.is_dmarc("v=spf1 -all")
