"""gRPC of the worker: servicers and clients that turn protos into domain values and one call, nothing else.

``injection`` and ``worker`` are served on the worker's Unix socket; ``leases`` is the way to control, through the node.
"""
