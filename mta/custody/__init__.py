"""The two moments of truth: taking responsibility for a message, and letting go of it.

``intake`` is the single way in for messages by SMTP and gRPC, under the rules of ``admission``. ``settlement`` is the
single way out, and ``bounce`` tells the sender what failed. ``credits`` spends the leases that pay for it all.
"""
