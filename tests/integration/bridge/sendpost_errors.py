"""The table of errors of SendPost's account resources: requests, and what each gets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

Json = Any
KINDS = {
    400: ("invalid_request", "invalid_request_error"),
    401: ("authentication_failed", "authentication_error"),
    403: ("resource_exists", "conflict_error"),
    404: ("resource_not_found", "not_found_error"),
    406: ("resource_not_found", "not_found_error"),
    409: ("idempotency_key_reused", "conflict_error"),
    422: ("validation_error", "invalid_request_error"),
}
"""Code and type of each status."""


def filled(value: Json, things: Mapping[str, Any]) -> Any:
    """A value with the names in its texts replaced."""
    if isinstance(value, str):
        for name, thing in things.items():
            value = value.replace(f"{{{name}}}", str(thing))
        return value
    if isinstance(value, dict):
        return {name: filled(inner, things) for name, inner in value.items()}
    return [filled(inner, things) for inner in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Row:
    """A request, and the error it gets. ``{names}`` stand for what the fixture ``things`` made."""

    method: str
    path: str
    body: Json
    status: int
    message: str
    param: str | None = None
    kind: tuple[str, str] | None = None

    def expected(self, things: Mapping[str, Any]) -> bytes:
        """The body of the answer."""
        code, kind = self.kind or KINDS[self.status]
        message = filled(self.message, things)
        error: dict[str, Any] = {"code": code, "message": message, "type": kind}
        if self.param:
            error["param"] = self.param
        if self.param and self.status == 422:
            error["details"] = [{"field": self.param, "message": message}]
        return msgspec.json.encode({"error": error})


ROWS = [
    Row("POST", "/subaccount/domain", {}, 422, "name is required.", "name"),
    Row("POST", "/subaccount/domain", {"name": ""}, 422, "name must have at least 1 characters.", "name"),
    Row(
        "POST",
        "/subaccount/domain",
        {"name": "not a domain"},
        422,
        'name has the label "not a domain": write 1 to 63 letters, digits, inner hyphens.',
        "name",
    ),
    Row(
        "POST",
        "/subaccount/domain",
        {"name": "localhost"},
        422,
        'name has only one label ("localhost"); write the full domain name.',
        "name",
    ),
    Row("POST", "/subaccount/domain", {"name": 5}, 422, "name must be a string.", "name"),
    Row("POST", "/subaccount/domain", {"name": "{sub_domain}"}, 403, 'The domain "{sub_domain}" is claimed already.'),
    Row("POST", "/subaccount/domain", [], 422, "The request body must be a JSON object, not a bare value or array."),
    Row("GET", "/subaccount/domain/2147483647", None, 406, "Domain not found."),
    Row("GET", "/subaccount/domain/{foreign_domain}", None, 406, "Domain not found."),
    Row("DELETE", "/subaccount/domain/x", None, 406, "Domain not found."),
    Row("POST", "/subaccount/domain/2147483647/verify", None, 406, "Domain not found."),
    Row("GET", "/subaccount/domain?limit=0", None, 400, "limit must be a whole number from 1 to 1000.", "limit"),
    Row("GET", "/subaccount/domain?offset=-1", None, 400, "offset must be a whole number from 0 to 1000000.", "offset"),
    Row(
        "POST", "/account/subaccount/", {"name": "Custom"}, 403, "A sub-account with this name exists already.", "name"
    ),
    Row("POST", "/account/subaccount/", {"name": "  "}, 422, "name must not be blank.", "name"),
    Row(
        "POST",
        "/account/subaccount/",
        {"name": "x" * 101},
        422,
        "name must have at most 100 characters.",
        "name",
    ),
    Row("POST", "/account/subaccount/", {"name": "a\r\nb"}, 422, "name must not contain control characters.", "name"),
    Row("GET", "/account/subaccount/2147483647", None, 404, "Sub-account not found."),
    Row("GET", "/account/subaccount/{foreign_number}", None, 404, "Sub-account not found."),
    Row("PUT", "/account/subaccount/2147483647", {"name": "x"}, 404, "Sub-account not found."),
    Row(
        "PUT",
        "/account/subaccount/{number}",
        {"name": "{name}"},
        403,
        "A sub-account with this name exists already.",
        "name",
    ),
    Row("DELETE", "/account/subaccount/2147483647", None, 406, "Sub-account not found."),
    Row(
        "DELETE",
        "/account/subaccount/{default}",
        None,
        406,
        "The default sub-account cannot be deleted.",
        kind=("invalid_request", "invalid_request_error"),
    ),
    Row("GET", "/account/ip/2147483647", None, 404, "IP not found."),
    Row("GET", "/account/ip/{foreign_ip}", None, 404, "IP not found."),
    Row("PUT", "/account/ip/{ip}", {}, 422, "autoWarmupEnabled is required.", "autoWarmupEnabled"),
    Row(
        "PUT",
        "/account/ip/{ip}",
        {"autoWarmupEnabled": None},
        422,
        "autoWarmupEnabled must be true or false.",
        "autoWarmupEnabled",
    ),
    Row("PUT", "/account/ip/{shared_ip}", {"autoWarmupEnabled": True}, 400, "This IP is shared: it cannot be changed."),
    Row("DELETE", "/account/ip/{ip}", None, 400, "This IP is shared or in a pool: it cannot be deleted."),
    Row("PUT", "/account/ip/allocate", {"ips": []}, 422, "ips must have at least 1 items.", "ips"),
    Row("PUT", "/account/ip/allocate", {"ips": ["x"]}, 422, "ips[0] must be an IP address.", "ips[0]"),
    Row(
        "PUT",
        "/account/ip/allocate",
        {"ips": ["{foreign_address}"]},
        404,
        "One of the IPs is not set aside for this account.",
        "ips",
    ),
    Row("POST", "/account/ippool", {}, 422, "name is required.", "name"),
    Row("POST", "/account/ippool", {"name": "POOL"}, 403, 'There is a pool "POOL" already.', "name"),
    Row(
        "POST",
        "/account/ippool",
        {"name": "x", "ips": [{"publicIP": "{foreign_address}"}]},
        422,
        "ips[0]: {foreign_address} is not allotted to this account.",
        "ips[0]",
    ),
    Row(
        "POST",
        "/account/ippool",
        {"name": "x", "ips": [{"publicIP": "x"}]},
        422,
        "ips[0] must be an IPv4 or IPv6 address; it is 'x'.",
        "ips[0]",
    ),
    Row("POST", "/account/ippool", {"name": "x", "ips": [{}]}, 422, "ips[0].publicIP is required.", "ips[0].publicIP"),
    Row(
        "POST",
        "/account/ippool",
        {"name": "x", "routingStrategy": 4},
        422,
        "routingStrategy must be at most 3.",
        "routingStrategy",
    ),
    Row(
        "POST",
        "/account/ippool",
        {"name": "x", "routingMetaData": "no"},
        422,
        "routingMetaData must be a JSON object of at most 10000 characters.",
        "routingMetaData",
    ),
    Row(
        "POST",
        "/account/ippool",
        {"name": "x", "tpsps": [1]},
        422,
        "tpsps: third-party sending providers are not served here.",
        "tpsps",
    ),
    Row(
        "POST",
        "/account/ippool",
        {"name": "x", "shouldOverflow": True},
        422,
        "overflowPoolName must name another pool if shouldOverflow is set.",
        "overflowPoolName",
    ),
    Row(
        "POST",
        "/account/ippool",
        {"name": "x", "overflowPoolName": "none"},
        422,
        'overflowPoolName: there is no other pool "none".',
        "overflowPoolName",
    ),
    Row("GET", "/account/ippool/2147483647", None, 404, "IP pool not found."),
    Row("GET", "/account/ippool/{foreign_pool}", None, 404, "IP pool not found."),
    Row("PUT", "/account/ippool/{pool}", {"name": ""}, 400, "name must have at least 1 characters.", "name"),
    Row(
        "PUT",
        "/account/ippool/{pool}",
        {"overflowPoolName": "pool"},
        400,
        'overflowPoolName: there is no other pool "pool".',
        "overflowPoolName",
    ),
    Row("PUT", "/account/ippool/2147483647", {"name": "x"}, 404, "IP pool not found."),
    Row("DELETE", "/account/ippool/2147483647", None, 404, "IP pool not found."),
    Row("POST", "/account/webhook", {}, 422, "url is required.", "url"),
    Row("POST", "/account/webhook", {"url": "http://example.org/"}, 422, "url must begin with https://.", "url"),
    Row("POST", "/account/webhook", {"url": "x"}, 422, "url must have the form https://host/path.", "url"),
    Row(
        "POST",
        "/account/webhook",
        {"url": "https://example.org/taken"},
        403,
        "A webhook with this url exists already.",
        "url",
    ),
    Row(
        "POST",
        "/account/webhook",
        {"url": "https://example.org/", "opened": "yes"},
        422,
        "opened must be true or false.",
        "opened",
    ),
    Row("GET", "/account/webhook/2147483647", None, 406, "Webhook not found."),
    Row("GET", "/account/webhook/{foreign_webhook}", None, 406, "Webhook not found."),
    Row("PUT", "/account/webhook/{webhook}", {"enabled": False}, 422, "url is required.", "url"),
    Row(
        "PUT",
        "/account/webhook/{webhook}",
        {"url": "https://example.org/taken2"},
        403,
        "A webhook with this url exists already.",
        "url",
    ),
    Row("POST", "/account/template", {"html": "x"}, 422, "name is required.", "name"),
    Row(
        "POST", "/account/template", {"name": "x"}, 422, "Template has neither html nor text; give one of them.", "html"
    ),
    Row(
        "POST",
        "/account/template",
        {"name": "Template", "html": "x"},
        403,
        'There is a template named "Template" already.',
        "name",
    ),
    Row(
        "POST",
        "/account/template",
        {"name": "x", "html": "x", "subject": "a\nb"},
        422,
        "subject must be one line of at most 998 characters, without control characters.",
        "subject",
    ),
    Row("GET", "/account/template/2147483647", None, 404, "Template not found."),
    Row("GET", "/account/template/{foreign_template}", None, 404, "Template not found."),
    Row("POST", "/subaccount/sender", {"name": "x"}, 422, "fromEmail is required.", "fromEmail"),
    Row(
        "POST",
        "/subaccount/sender",
        {"fromEmail": "x"},
        422,
        "fromEmail must be a mail address of the form local@domain, without spaces.",
        "fromEmail",
    ),
    Row(
        "POST",
        "/subaccount/sender",
        {"fromEmail": "a@{sub_domain}", "replyToEmail": "x"},
        422,
        "replyToEmail must be a mail address of the form local@domain, without spaces.",
        "replyToEmail",
    ),
    Row(
        "POST",
        "/subaccount/sender",
        {"fromEmail": "a@{sub_domain}", "domain": "x.test"},
        422,
        "domain must be that of fromEmail.",
        "domain",
    ),
    Row(
        "POST",
        "/subaccount/sender",
        {"fromEmail": "a@{foreign_domain_name}"},
        400,
        'The domain "{foreign_domain_name}" is verified for another account, whose say its addresses are.',
        "fromEmail",
    ),
    Row("GET", "/subaccount/sender/2147483647", None, 406, "Sender not found."),
    Row("POST", "/subaccount/sender/2147483647/verify", {"code": "1"}, 406, "Sender not found."),
    Row(
        "POST",
        "/account/validation/list/bulk",
        {"emailIds": []},
        422,
        "emailIds must have at least 1 items.",
        "emailIds",
    ),
    Row("GET", "/account/validation/results", None, 400, "jobId is required.", "jobId"),
    Row("GET", "/account/validation/results?jobId=2147483647", None, 404, "Validation not found."),
    Row("GET", "/account/validation/emails?tag=none", None, 404, "Validation not found."),
    Row(
        "GET",
        "/account/validation/emails?jobId=1&status=good",
        None,
        400,
        "status must be one of deliverable, risky, undeliverable, unknown.",
        "status",
    ),
    Row(
        "POST",
        "/account/alert",
        {"name": "x", "parameter": "y", "threshold": 1},
        422,
        "parameter must be one of hardBounced, softBounced, spam, delivered, balance.",
        "parameter",
    ),
    Row(
        "POST",
        "/account/alert",
        {"name": "x", "parameter": "spam", "threshold": 101},
        422,
        "threshold must be a percentage from 0 to 100.",
        "threshold",
    ),
    Row(
        "POST",
        "/account/alert",
        {"name": "x", "parameter": "spam", "threshold": 1, "slackUrl": "https://x"},
        422,
        "slackUrl is not served here; leave it out.",
        "slackUrl",
    ),
    Row(
        "POST",
        "/account/alert",
        {"name": "x", "parameter": "spam", "threshold": 1, "emails": ["a@else.test"]},
        400,
        "emails has a@else.test; verify it as a sender, or its domain, or take an address of yours.",
        "emails",
    ),
    Row("PUT", "/account/alert/2147483647", {"active": True}, 404, "Alert not found."),
    Row("PUT", "/account/alert/{alert}", {}, 422, "active is required.", "active"),
]
