"""DKIM signing and the sealing of DKIM keys.

Contract: pure. No I/O, no clock, no randomness; `cryptography` does the arithmetic. Start with `dkim`. Called by
`mta.custody` once per message, between adding trace fields and the commit.
"""
