"""A file that is uploaded: a form with the file in its field ``fileinput``, or a body that is the file.

What is in it are lines of text: an address, or columns with commas between, the address in the first or in that which
the first line calls ``email``. Cells of our own files that a spreadsheet would take for a formula begin with an
apostrophe, which is taken away again (``marked``). Pure.

Errors: ``Problem`` 422.
"""

import csv
import io
import re
from collections.abc import Sequence

from msgspec import Struct

from api_bridge.dialects.sendpost import errors

FIELD = "fileinput"
MAX_PARTS = 20
"""Fields of a form."""
MAX_LINE = 4096
"""Characters of a line."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What formulas begin with, to one program or another."""
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'^content-disposition:[^\r\n]*?;\s*name="?([^"\r\n;]*)"?', re.IGNORECASE | re.MULTILINE)


class UploadForm(Struct):
    """The form, for the document."""

    fileinput: str


def content(data: bytes, content_type: str) -> bytes:
    """The file. Raises Problem 422."""
    if not content_type.strip().lower().startswith("multipart/form-data"):
        return data
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise errors.invalid_body(None, "The Content-Type of the form has no boundary.")
    delimiter = b"--" + (match[1] or match[2]).encode("latin-1")
    parts = (b"\r\n" + data).split(b"\r\n" + delimiter, MAX_PARTS + 1)
    if len(parts) > MAX_PARTS + 1:
        raise errors.invalid_body(None, f"The form has more than {MAX_PARTS} fields.")
    for part in parts[1:]:
        head, separator, file = part.partition(b"\r\n\r\n")
        name = _NAME.search(head.replace(b"\r\n", b"\n"))
        if separator and name is not None and name[1] == FIELD.encode():
            return file
    raise errors.invalid_body(FIELD, f"{FIELD} is required: the file to take in.")


def rows(file: bytes) -> Sequence[Sequence[str]]:
    """The lines of the file as columns, without empty ones. Raises Problem 422."""
    try:
        text = file.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        raise errors.invalid_body(FIELD, f"{FIELD} is not UTF-8: octet {error.start} cannot be read.") from None
    if any(len(line) > MAX_LINE for line in text.splitlines()):
        raise errors.invalid_body(FIELD, f"{FIELD} has a line of more than {MAX_LINE} characters.")
    try:
        return [row for row in csv.reader(io.StringIO(text, newline="")) if any(cell.strip() for cell in row)]
    except csv.Error:
        raise errors.invalid_body(FIELD, f"{FIELD} is not a list of lines, or of columns with commas.") from None


def addresses(file: bytes) -> list[tuple[int, str, Sequence[str]]]:
    """Line number, address and all columns of each line, without a head line. Raises Problem 422."""
    found = rows(file)
    place = 0
    if found and all("@" not in cell for cell in found[0]):
        names = [cell.strip().lower() for cell in found[0]]
        place = next((at for at, name in enumerate(names) if name in ("email", "e-mail", "address")), 0)
        found = found[1:]
    return [(line, _unmarked(row[place].strip()) if place < len(row) else "", row) for line, row in enumerate(found, 1)]


def marked(cell: str) -> str:
    """A cell for a file: with an apostrophe before it, if a spreadsheet would take it for a formula."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _unmarked(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
