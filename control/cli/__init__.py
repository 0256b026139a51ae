"""The `barua` command.

``main`` assembles it; one module per noun holds its verbs (``tenants``, ``credits``, ``domains``, ``credentials``,
``suppressions``, ``queues``, ``messages``), ``up`` runs an installation, ``send`` sends a message by SMTP. Operator
verbs speak gRPC only, through ``session``; ``output`` prints tables for people and JSON for programs.
"""
