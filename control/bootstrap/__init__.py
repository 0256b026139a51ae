"""What a first start makes: tenants of the configuration, and in demo mode the demo accounts and ``demo.json``.

Everything goes through control's gRPC services with the operator's token, like any other client, and everything is
idempotent: what exists is left alone, so a crash half-way is mended by the next start. ``__main__`` is the program
``python -m control.bootstrap --config FILE``, which `barua up` runs once at each start. ``client`` is the operator's
gRPC client, also used by ``control.cli`` and ``control.demo``; ``privatefile`` writes files for the owner's eyes only.
"""
