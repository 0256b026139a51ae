"""SQL, one module per table group; the only place that knows tables.

Functions take a ``Connection`` inside a transaction of the caller, and return frozen values. They raise ``Refusal`` for
what a peer can mend (not found, exists already, insufficient credits); database failures pass through to
``control.database``, which knows what to do with them. Lock order, so that nothing deadlocks: request_log, holder,
account rows by tenant id, leases, and the policy head last.
"""
