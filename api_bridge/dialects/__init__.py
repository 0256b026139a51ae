"""The APIs that the bridge speaks, one package each, all of the same make.

``routes`` has the paths and calls the programs behind, ``shapes`` turns JSON into protos and back (pure), ``errors``
has the error bodies. A dialect implements ``api_bridge.endpoint.Dialect`` and is listed in ``api_bridge.app.dialects``.
Dialects do not import each other; what two of them need is a module of ``api_bridge`` itself.
"""
