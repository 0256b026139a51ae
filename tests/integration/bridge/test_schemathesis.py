"""The OpenAPI documents are true: requests made from them get the answers that they promise, and never a 5xx.

Half of the requests are as the document wants them, half are not. 2,000 for each dialect in the long suite, a few here.
"""

import base64
import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mta.runtime.options import DialectsOptions
from tests.support.sendpost import Account, make_account
from tests.support.stack import Stack

FEW, MANY = 40, 2000
SAMPLE = 12
"""Operations of each dialect in the short suite."""
DIALECTS = list(DialectsOptions().named())
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
Document = dict[str, Any]
Case = schemathesis.Case[Any]


class Target:
    """A dialect of a running installation, and credentials for it."""

    def __init__(self, stack: Stack, account: Account, dialect: str) -> None:
        self.url = stack.bridge_url
        self.document: Document = httpx.get(f"{self.url}/openapi/{dialect}.json", timeout=60).json()
        self.session = requests.Session()
        headers = {"Authorization": f"Bearer {account.key}"}
        if dialect == "sendpost":
            headers = account.account_headers | account.sub_headers
        if dialect == "mspace":
            login = f"{stack.reseller_login.username}:{stack.reseller_login.password}"
            headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
            self.document["components"]["schemas"]["Send"]["properties"]["apiKey"] = {"enum": [account.sub_key]}
        self.session.headers.update(headers)

    def schema(self) -> Any:
        """What requests are made from. Credentials are ours, so the document's are left out."""
        document = copy.deepcopy(self.document)
        document["security"] = []
        document["components"].pop("securitySchemes", None)
        for methods in document["paths"].values():
            for operation in methods.values():
                operation.pop("security", None)
        return schemathesis.openapi.from_dict(document, config=SchemathesisConfig())

    def check(self, case: Case) -> None:
        """Send one request and check its answer."""
        response = case.call(base_url=self.url, session=self.session, timeout=60)
        case.validate_response(response, checks=CHECKS)


@pytest.fixture(scope="module")
def account(shared_stack: Stack) -> Account:
    return make_account(shared_stack.operator)


@pytest.fixture(params=DIALECTS)
def target(request: pytest.FixtureRequest, shared_stack: Stack, account: Account) -> Iterator[Target]:
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    found = Target(shared_stack, account, request.param)
    with found.session:
        yield found


def run(target: Target, count: int, most: int) -> int:
    """Make ``count`` requests for ``most`` operations, at least one of each kind for each; how many were made."""
    operations = [result.ok() for result in target.schema().get_all_operations()]
    operations = operations[:: -(-len(operations) // most)]
    each = max(1, count // (2 * len(operations)))
    made = 0
    for operation in operations:
        for mode in schemathesis.GenerationMode:
            try:
                made += _run(target.check, operation.as_strategy(generation_mode=mode), each)
            except Unsatisfiable:
                # A call without parameters cannot be made wrongly.
                assert not mode.is_positive, operation.label
    return made


def _run(check: Callable[[Case], None], strategy: Any, examples: int) -> int:
    made = 0

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Case) -> None:
        nonlocal made
        made += 1
        check(case)

    each()
    return made


def test_documents_are_true(target: Target) -> None:
    run(target, FEW, SAMPLE)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_documents_are_true_at_length(target: Target) -> None:
    assert run(target, MANY, MANY) >= MANY / 2
