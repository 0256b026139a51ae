"""The control plane: tenants, credentials, credits, domains, suppressions and history, in PostgreSQL, over gRPC.

Stateless: everything is in the database, so several may run side by side. Layers, downwards only: ``app`` builds
everything; ``services`` and ``policystream`` speak protos; ``store`` speaks SQL; ``model`` knows the rules and does no
I/O.
"""
