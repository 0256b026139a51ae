"""What a message is, apart from wire and disk: addresses, ids, header fields, envelopes, outcomes, bounce messages.

Contract: pure. No I/O, no clock, no randomness, no log; dates, ids and tokens come in as arguments. Everything may be
called from any thread. Start with `headers`, then `address`; every package of the MTA may import this one.
"""
