"""RoutingService: which way a message would take from here, for the operator."""

from typing import Any

import grpc

from barua.mta.v1 import routing_service_pb2 as pb
from barua.mta.v1 import routing_service_pb2_grpc as services

from mta.message.address import AddressError, parse_path
from mta.routing.explanation import Inquiry, RouteExplainer
from mta.rpc.authentication import CallerAuthentication
from mta.runtime.refusals import Reason, Refusal

Context = grpc.aio.ServicerContext[Any, Any]


class RoutingService(services.RoutingServiceServicer):
    """Serves ``barua.mta.v1.RoutingService``."""

    def __init__(self, explainer: RouteExplainer, authentication: CallerAuthentication) -> None:
        self._explainer = explainer
        self._authentication = authentication

    def add_to(self, server: grpc.aio.Server) -> str:
        """Serve on ``server``; the service's full name, for reflection."""
        services.add_RoutingServiceServicer_to_server(self, server)
        return pb.DESCRIPTOR.services_by_name["RoutingService"].full_name

    async def ExplainRoute(self, request: pb.ExplainRouteRequest, context: Context) -> pb.ExplainRouteResponse:
        """See the proto."""
        if self._authentication.caller(context).tenant_id:
            raise Refusal(Reason.PERMISSION_DENIED, "this is for the operator; use the operator's token")
        inquiry = Inquiry(
            request.tenant_id,
            request.stream,
            _domain(request.sender_domain, "sender_domain") if request.sender_domain else "",
            _domain(request.recipient_domain, "recipient_domain"),
            request.smtp_provider,
        )
        told = await self._explainer.explain(inquiry)
        return pb.ExplainRouteResponse(
            smtp_provider=told.provider,
            pool=told.pool,
            sources=[
                pb.SourceState(
                    source_id=source.source_id,
                    address=source.address,
                    ehlo_name=source.ehlo_name,
                    weight=source.weight,
                    unusable=source.unusable,
                )
                for source in told.sources
            ],
            waits=told.waits,
            site=told.site,
            hosts=told.hosts,
            connections=told.connections,
            messages_per_connection=told.messages_per_connection,
            messages_per_minute=told.messages_per_minute,
            decided_by=dict(told.decided_by),
        )


def _domain(text: str, field: str) -> str:
    """A domain in the form that addresses have it."""
    try:
        return parse_path(f"x@{text}", allow_single_label=True).domain
    except AddressError as error:
        raise Refusal(Reason.INVALID_ARGUMENT, f"{field} is not a domain: {error}", field=field) from error
