"""Where a domain's mail goes: static routes first, then the DNS.

``router`` answers with a ``Route``, whose site is what limits apply to, or a ``RouteFailure``. The DNS is reached
through ``ports.Resolver``.
"""
