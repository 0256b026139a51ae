"""SendPost: the public API of an account and its sub-accounts, in both of its response contracts.

One module per resource; each has ``operations()``, the calls it serves as data. ``operation`` says what a call is and
what a handler gets, ``contract`` which of the two contracts an answer is written in, ``errors`` how errors look,
``times`` how dates are read. What differs from the original and why: README.md of ``api_bridge``. Start with
``routes``.
"""
