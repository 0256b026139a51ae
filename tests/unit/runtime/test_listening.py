"""Where a gRPC server may listen without TLS."""

import pytest

from mta.runtime import rpc
from mta.runtime.listening import is_local, listen_plainly, listen_securely
from mta.runtime.options import OptionsError, ServerTlsOptions
from tests.support.ports import free_port


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.1", False), ("control.test", False)],
)  # fmt: skip
def test_what_this_machine_alone_reaches(host: str, local: bool) -> None:
    assert is_local(host) is local


async def test_plain_text_elsewhere_is_for_those_who_say_so() -> None:
    address = f"0.0.0.0:{free_port()}"
    with pytest.raises(OptionsError, match=r"set node\.tls, or node\.plaintext_anywhere"):
        listen_plainly(rpc.new_server(), address, "node.listen", anywhere=False)
    listen_plainly(rpc.new_server(), address, "node.listen", anywhere=True)


async def test_an_address_that_is_taken_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    server = rpc.new_server()
    listen_plainly(server, address, "node.listen", anywhere=False)
    with pytest.raises(OptionsError, match=rf"{address}; is node running already\? Change node\.listen"):
        listen_plainly(rpc.new_server(), address, "node.listen", anywhere=False)


async def test_files_that_cannot_be_read_are_named() -> None:
    tls = ServerTlsOptions(certificate_file="/nowhere.pem", key_file="/nowhere.key")
    with pytest.raises(OptionsError, match=r"node\.listen.*/nowhere\.pem"):
        listen_securely(rpc.new_server(), "127.0.0.1:0", "node.listen", tls, client_certificates=False)
