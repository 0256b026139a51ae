"""Headers: any octets are read or refused, and what is stored is what came, plus and minus what is documented."""

from hypothesis import given
from hypothesis import strategies as st

from mta.message.address import parse_path
from mta.message.headers import REMOVED, Headers, MessageError, check_body, prepare, scan, subject

SENDER = parse_path("sender@demo.test")
pieces = st.sampled_from(
    [
        *(b"From: a@b.co", b"from:x", b"To:", b"Bcc: y", b"X-Barua-Id: 7", b"Received: z", b"Subject: =?utf-8?q?=C3?="),
        *(b"\r\n", b"\r\n", b"\r\n", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b"\r", b"\n", b" ", b":", b"\x00", b"\xc3\xa9"),
        *(b"Date: d", b"Message-ID: <m@x>", b"From ", b"X :", b"text", b"x" * 1000),
    ]
)
fields = st.sampled_from(
    [
        *(
            b"From: a@b.co\r\n",
            b"date:\r\n",
            b"MESSAGE-ID: <m@x>\r\n",
            b"Bcc: y,\r\n z\r\n",
            b"bcc:\r\n",
            b"X:y\r\n\tz\r\n",
        ),
        *(b"X-Barua-Id: 7\r\n\t8\r\n", b"Return-Path: <>\r\n", b"Received: z\r\n", b"To: \xc3\xa9\r\n"),
    ]
)
sound = st.tuples(
    st.lists(fields, unique=True).map(b"".join),
    st.sampled_from([b"", b"\r\n"]),
    st.sampled_from([b"", b"text\r\n", b"\r\n"]),
).map(b"".join)
contents = sound | st.lists(pieces, max_size=25).map(b"".join) | st.binary(max_size=200)


def stored(headers: Headers) -> Headers:
    return prepare(
        headers, received=b"Received: by x\r\n", date="DATE", message_id="<ID>", sender=SENDER, sender_name="Näme"
    )


def scanned(content: bytes) -> Headers | None:
    try:
        return scan(content)
    except MessageError as error:
        assert str(error).isprintable()
        return None


@given(contents)
def test_fields_and_body_make_up_the_message(content: bytes) -> None:
    headers = scanned(content)
    if headers is None:
        return
    assert b"".join(content[start:end] for _, start, end in headers.fields) == content[: headers.end]
    between = content[headers.end : headers.body]
    assert between in (b"", b"\r\n")
    for name, start, end in headers.fields:
        assert content[start:end].lower().startswith(name + b":")
        assert b"\r\n" not in (headers.first(name) or b"")
    assert isinstance(subject(headers), str)


@given(contents)
def test_the_stored_message_reads_the_same_way(content: bytes) -> None:
    headers = scanned(content)
    if headers is None:
        return
    result = stored(headers)
    again = scan(result.content)
    assert (again.fields, again.end, again.body) == (result.fields, result.end, result.body)
    assert (again.is_ascii, again.received) == (result.is_ascii, result.received)


@given(contents)
def test_nothing_changes_but_what_is_documented(content: bytes) -> None:
    headers = scanned(content)
    if headers is None:
        return
    result = stored(headers)
    assert result.content[result.body :] == content[headers.body :]
    kept = [
        content[start:end].removesuffix(b"\r\n")
        for name, start, end in headers.fields
        if name not in REMOVED and not name.startswith(b"x-barua-")
    ]
    fields = [result.content[start:end].removesuffix(b"\r\n") for _, start, end in result.fields]
    added = fields[: len(fields) - len(kept)]
    assert fields[len(added) :] == kept
    names = [name for name, _, _ in headers.fields]
    missing = [name for name in (b"from", b"date", b"message-id") if name not in names]
    assert [field.partition(b":")[0].lower() for field in added] == [b"received", *missing]
    assert not {b"bcc", b"return-path"} & {name for name, _, _ in result.fields}


@given(st.binary(max_size=100) | st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"\0"])).map(b"".join))
def test_a_checked_body_has_whole_line_ends_only(body: bytes) -> None:
    headers = scan(b"To: x\r\n\r\n" + body)
    stripped = body.replace(b"\r\n", b"")
    sound = not set(b"\r\n\0") & set(stripped)
    try:
        check_body(headers)
    except MessageError:
        assert not sound
    else:
        assert sound
