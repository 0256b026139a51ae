"""The policy replica: control's records in a local SQLite file, ``policy.db``.

The node writes it (``writer``), the workers read it (``reader``), and both go on with the last good state while control
is away.
"""
