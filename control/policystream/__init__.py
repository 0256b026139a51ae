"""The policy stream: what nodes need in order to accept mail on their own, as numbered changes.

Start with ``service``. ``records`` turns rows into the protos of a change.
"""
