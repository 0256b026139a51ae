"""Lists by which the validation of addresses tells them apart: throw-away domains, offices, free mail, common domains.

Each list is a JSON file here, with a line that says what it is and where it comes from. ``load`` reads them, and the
operator's own files, which add to them.
"""
