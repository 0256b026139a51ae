"""Webhooks: events by HTTP POST, signed, at least once, to endpoints of tenants.

``fanout`` makes of each event of the journal a row per webhook that wants it; ``dispatcher`` posts what is due, with
``sender`` (one request to a checked address), ``rendering`` (the form of a request) and ``schedule`` (when again).
``destinations`` says which URLs and addresses may be posted to. Mail does not wait for any of this.
"""
