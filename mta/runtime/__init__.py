"""Process plumbing shared by all programs: options, logs, metrics, life cycle, gRPC servers, refusals.

It knows processes and nothing of mail. It is the only part of ``mta`` that ``control`` and ``api_bridge`` may import.
Start with ``options``.
"""
