"""Where control listens: ``control.listen``, and a second address for clients with certificates if there is one.

Where authorities of client certificates are named, every client needs a certificate: on ``control.tls.client_listen``
if that is given, else on ``control.listen``. See ``mta.runtime.listening`` for the rest.

Errors: ``OptionsError`` with a text for the operator.
"""

import grpc

from mta.runtime.listening import listen_plainly, listen_securely
from mta.runtime.options import ControlOptions


def listen(server: grpc.aio.Server, options: ControlOptions) -> None:
    """Have ``server`` listen as the options say."""
    tls = options.tls
    if not tls.certificate_file:
        listen_plainly(server, options.listen, "control.listen", anywhere=options.plaintext_anywhere)
        return
    required = bool(tls.client_ca_file) and not tls.client_listen
    listen_securely(server, options.listen, "control.listen", tls, client_certificates=required)
    if tls.client_listen:
        listen_securely(server, tls.client_listen, "control.tls.client_listen", tls, client_certificates=True)
