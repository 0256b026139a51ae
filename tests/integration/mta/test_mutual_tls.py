"""An installation whose control and node want client certificates: all of its programs get on with one."""

import base64
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
from msgspec.structs import replace

from mta.runtime.options import ClientTlsOptions, ControlTlsOptions, Options, ServerTlsOptions
from tests.support.certs import Authority
from tests.support.ports import free_port
from tests.support.stack import PASSWORD, RESELLER, Stack

SUB_USER = {"username": "tls-sub", "password": "developer123", "firstname": "T", "surname": "L", "organization": "S"}


def test_all_programs_get_on_with_their_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "control-authority")
    server, node_server = authority.issue("control.test"), authority.issue("node.test")
    client = authority.issue_client("programs", "barua:node/node1")
    second = f"127.0.0.1:{free_port()}"

    def change(options: Options) -> Options:
        tls = ControlTlsOptions(
            certificate_file=str(server.certificate_file),
            key_file=str(server.key_file),
            client_ca_file=str(authority.ca_file),
            client_listen=second,
        )
        node_tls = ServerTlsOptions(
            certificate_file=str(node_server.certificate_file),
            key_file=str(node_server.key_file),
            client_ca_file=str(authority.ca_file),
        )
        control_client = ClientTlsOptions(
            ca_file=str(authority.ca_file),
            certificate_file=str(client.certificate_file),
            key_file=str(client.key_file),
            server_name="control.test",
        )
        return replace(
            options,
            control=replace(options.control, tls=tls),
            control_client=control_client,
            node=replace(options.node, control_address=second, tls=node_tls),
            node_client=replace(control_client, server_name="node.test"),
            bridge=replace(options.bridge, control_address=second),
        )

    # That it starts shows that bootstrap made the tenants and that the node follows the policy.
    with Stack(tmp_path / "stack", workers=1, change=change) as stack:
        login = base64.b64encode(f"{RESELLER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"{stack.bridge_url}/email/api/reseller/createSubUser",
            json.dumps(SUB_USER).encode(),
            {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["status"] == "success"
        listed = subprocess.run(
            [sys.executable, "-m", "control.cli.main", "login", "list", RESELLER, "--config", str(stack.config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        assert RESELLER in listed
        queues = [sys.executable, "-m", "control.cli.main", "queue", "list", "--config", str(stack.config)]
        subprocess.run(queues, capture_output=True, timeout=60, check=True)
        for address in (second, stack.options.control.listen, stack.options.node.listen):
            with grpc.insecure_channel(address) as plain:
                try:
                    grpc.channel_ready_future(plain).result(timeout=1)
                except grpc.FutureTimeoutError:
                    continue
            raise AssertionError(f"{address} speaks plain text")
