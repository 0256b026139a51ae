"""When each recipient is tried, and in what order.

Two stages: what waits for time stays in the spool and is read when due (``manager``); what waits for capacity stands in
a ready queue per site (``ready``), in turn by tenant. Memory is bounded by the active window, not by the length of the
queue. Only ``manager`` is asynchronous; the rest decides at once.
"""
