"""The node: one small process per machine between its workers and control.

``policy`` keeps the replica in step with control's stream, ``outbox`` carries events from the workers' spools to
control's journal, ``forwarding`` passes leases up and injections down, ``queues`` answers what is queued. The node
holds nothing that its files and control do not hold as well: it may be killed at any time.
"""
