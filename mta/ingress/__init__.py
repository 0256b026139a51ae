"""In by SMTP: sockets, sessions, and the decisions on what peers ask.

``listener`` accepts, ``connection`` pumps bytes between a socket and ``mta.smtp.server``, ``checks`` decides, ``auth``
verifies passwords. A complete message goes to ``mta.custody.intake``.
"""
