"""What exists in demo mode only: an inbox that takes every message, a DNS, a certificate authority for localhost.

``inbox`` is the program (``python -m control.demo.inbox --config FILE``), ``store`` its messages on disk, ``pages`` its
HTTP side, ``signatures`` checks DKIM with the keys that control would have published in the DNS. ``nameserver`` answers
DNS questions from zone files that are written by hand. ``authority`` makes the certificates that ``demo.json`` names as
``ca_file``.
"""
