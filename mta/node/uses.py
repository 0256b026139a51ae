"""Tells control which credentials the workers have seen used, in batches: for "last used", and nothing depends on it.

What a worker has handed over and control did not get is lost.
"""

import asyncio
from collections.abc import Sequence

import grpc

from barua.mta.v1 import worker_service_pb2 as worker_pb
from barua.mta.v1 import worker_service_pb2_grpc as worker_services
from barua.policy.v1 import policy_service_pb2 as policy_pb
from barua.policy.v1 import policy_service_pb2_grpc as policy_services

from mta.runtime.log import get_logger

log = get_logger(__name__)

BATCH_SECONDS = 20.0
"""Between batches."""
CALL_SECONDS = 5.0
"""Deadline of a call."""


class UseReporter:
    """Carries uses from the workers to control."""

    def __init__(
        self,
        node: str,
        control: grpc.aio.Channel,
        metadata: tuple[tuple[str, str], ...],
        workers: Sequence["worker_services.WorkerServiceAsyncStub"],
    ) -> None:
        self._node = node
        self._control: policy_services.PolicyServiceAsyncStub = policy_services.PolicyServiceStub(control)
        self._metadata = metadata
        self._workers = workers

    async def run(self) -> None:
        """Report for ever."""
        while True:
            await asyncio.sleep(BATCH_SECONDS)
            await self.report()

    async def report(self) -> None:
        """Report once. Workers and control that are away are passed over."""
        answers = await asyncio.gather(
            *(
                worker.TakeCredentialUses(worker_pb.TakeCredentialUsesRequest(), timeout=CALL_SECONDS)
                for worker in self._workers
            ),
            return_exceptions=True,
        )
        taken = [answer for answer in answers if not isinstance(answer, BaseException)]
        uses = [use for answer in taken for use in answer.uses]
        if not uses:
            return
        request = policy_pb.ReportCredentialUsesRequest(node=self._node, uses=uses)
        try:
            await self._control.ReportCredentialUses(request, metadata=self._metadata, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            log.info("credential_uses_not_reported", count=len(uses), reason=error.code().name)
