"""ListValidationService: whether mail to addresses would arrive, asked before it is sent."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import list_validation_service_pb2 as pb
from barua.control.v1.list_validation_pb2 import AddressValidation
from barua.control.v1.list_validation_pb2 import ListValidation as ListValidationProto
from barua.control.v1.list_validation_service_pb2_grpc import ListValidationServiceServicer

from control.authentication import caller
from control.database import Connection, Database
from control.model import fields, names, selection
from control.model.selection import Order
from control.model.suppressions import stream
from control.model.validation import Verdict
from control.services import validationshapes as shapes
from control.services.listing import listing_of, page_of
from control.services.mutation import Mutations
from control.services.validator import Validator
from control.store import listvalidations, tenants
from control.store.listvalidations import FINISHED, Checked, ListValidation
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]
_Pieces = AsyncIterator[pb.UploadListValidationRequest]

MAX_AT_ONCE = 1000
"""Addresses validated in one call."""
CALLS_AT_ONCE = 64
"""Such calls at once on one control program: each may wait for the DNS."""
CALLS_OF_TENANT = 8
"""Of these, with the credentials of one tenant."""
MAX_PIECE = 10_000
"""Addresses of one message."""
MAX_ADDRESSES = 1_000_000
"""Addresses of one list."""
MAX_OPEN = 10
"""Lists of a tenant that are not finished."""
MAX_TEXT = 320
"""Characters of an address: longer ones are none, and cut."""
SILENCE_SECONDS = 60.0
"""A client that sends nothing for so long has gone."""


class ListValidationServicer(ListValidationServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, validator: Validator) -> None:
        self._database = database
        self._mutations = mutations
        self._validator = validator
        self._validating: Counter[str] = Counter()

    async def ValidateAddresses(
        self, request: pb.ValidateAddressesRequest, context: _Context
    ) -> pb.ValidateAddressesResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        if not 1 <= len(request.addresses) <= MAX_AT_ONCE:
            text = f"addresses must be 1 to {MAX_AT_ONCE}; there are {len(request.addresses)}"
            raise fields.invalid("addresses", text)
        name = stream(request.stream, "stream")
        tenant = await self._database.transact(lambda c: tenants.visible(c, me, tenant_id))
        with self._turn(me):
            judged = await self._validator.validate(tenant, request.addresses, name)
        results = [shapes.to_validation(entry, line) for line, entry in enumerate(judged, 1)]
        return pb.ValidateAddressesResponse(results=results)

    async def CreateListValidation(
        self, request: pb.CreateListValidationRequest, context: _Context
    ) -> ListValidationProto:
        """See the proto."""
        me = caller()
        tenant_id = names.tenant(request.parent, me.tenant_id, "parent")
        title, name = _wanted(request.list_validation)
        if not 1 <= len(request.addresses) <= MAX_PIECE:
            text = f"addresses must be 1 to {MAX_PIECE}; there are {len(request.addresses)}. Upload a longer list"
            raise fields.invalid("addresses", text)
        addresses = _kept(request.addresses)
        id_ = _new_id()

        async def effect(connection: Connection) -> ListValidationProto:
            await self._begin(connection, me.tenant_id, tenant_id)
            await listvalidations.create(connection, tenant_id, id_, title, name, me.name)
            await listvalidations.add(connection, tenant_id, id_, addresses, 1)
            return shapes.to_list(await listvalidations.complete(connection, tenant_id, id_))

        return await self._mutations.run(request, ListValidationProto, effect)

    async def UploadListValidation(self, request_iterator: _Pieces, context: _Context) -> ListValidationProto:
        """See the proto."""
        me = caller()
        first = await _next(request_iterator)
        if first is None:
            raise fields.invalid("parent", "parent must be tenants/{tenant} in the first message; there was none")
        tenant_id = names.tenant(first.parent, me.tenant_id, "parent")
        title, name = _wanted(first.list_validation)
        id_ = _new_id()

        async def begin(connection: Connection) -> None:
            await self._begin(connection, me.tenant_id, tenant_id)
            await listvalidations.create(connection, tenant_id, id_, title, name, me.name)

        await self._database.transact(begin)
        try:
            count = await self._receive(tenant_id, id_, first, request_iterator)
            if not count:
                raise fields.invalid("addresses", "addresses must be at least one; there are none")
            done = await self._database.transact(lambda c: listvalidations.complete(c, tenant_id, id_), repeatable=True)
        except Refusal:
            await self._database.transact(lambda c: listvalidations.delete(c, tenant_id, id_))
            raise
        return shapes.to_list(done)

    async def GetListValidation(self, request: pb.GetListValidationRequest, context: _Context) -> ListValidationProto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "listValidations", me)

        async def read(connection: Connection) -> ListValidation:
            await tenants.visible(connection, me, name.tenant_id)
            return await listvalidations.get(connection, name.tenant_id, name.id)

        return shapes.to_list(await self._database.transact(read))

    async def ListListValidations(
        self, request: pb.ListListValidationsRequest, context: _Context
    ) -> pb.ListListValidationsResponse:
        """See the proto."""
        me = caller().tenant_id
        tenant_id = names.tenant(request.parent, me, "parent")
        listing = listing_of(request, tenant_id, default=Order.NEWEST)

        async def read(connection: Connection) -> tuple[list[ListValidation], int]:
            await tenants.visible(connection, me, tenant_id)
            return await listvalidations.page(connection, tenant_id, listing.wanted)

        found, total = await self._database.transact(read)
        shown, token = listing.cut(found, lambda entry: entry.validation_id)
        return pb.ListListValidationsResponse(
            list_validations=map(shapes.to_list, shown), next_page_token=token, total_size=total
        )

    async def ListAddressValidations(
        self, request: pb.ListAddressValidationsRequest, context: _Context
    ) -> pb.ListAddressValidationsResponse:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.parent, "listValidations", me, "parent")
        verdict = int(request.verdict) or None
        if verdict is not None and verdict not in set(Verdict):
            raise fields.invalid("verdict", f"verdict {verdict} is not known")
        skip = selection.skip(request.skip)
        page = page_of(request, 0, name.tenant_id, name.id, str(verdict))

        async def read(connection: Connection) -> list[Checked]:
            await tenants.visible(connection, me, name.tenant_id)
            await listvalidations.get(connection, name.tenant_id, name.id)
            return await listvalidations.results(
                connection, name.tenant_id, name.id, verdict, page.after, page.limit, skip
            )

        found, token = page.cut(await self._database.transact(read), lambda checked: checked.line)
        results = [AddressValidation.FromString(checked.result) for checked in found]
        return pb.ListAddressValidationsResponse(address_validations=results, next_page_token=token)

    async def CancelListValidation(
        self, request: pb.CancelListValidationRequest, context: _Context
    ) -> ListValidationProto:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "listValidations", me)

        async def effect(connection: Connection) -> ListValidationProto:
            await tenants.visible(connection, me, name.tenant_id)
            found = await listvalidations.get(connection, name.tenant_id, name.id, lock=True)
            if found.state in FINISHED:
                message = "the validation of this list is finished; there is nothing to cancel"
                raise Refusal(Reason.FAILED_PRECONDITION, message, metadata={"state": found.state.name})
            return shapes.to_list(await listvalidations.cancel(connection, name.tenant_id, name.id))

        return await self._mutations.run(request, ListValidationProto, effect)

    async def DeleteListValidation(self, request: pb.DeleteListValidationRequest, context: _Context) -> Empty:
        """See the proto."""
        me = caller().tenant_id
        name = names.child(request.name, "listValidations", me)

        async def effect(connection: Connection) -> Empty:
            await tenants.visible(connection, me, name.tenant_id)
            await listvalidations.delete(connection, name.tenant_id, name.id)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    @contextmanager
    def _turn(self, tenant_id: str) -> Iterator[None]:
        """One of the calls that are answered at once. RATE_LIMITED if there are too many."""
        if self._validating[tenant_id] >= CALLS_OF_TENANT or self._validating.total() >= CALLS_AT_ONCE:
            message = "too many addresses are being validated at this moment; try again, or make a list of them"
            raise Refusal(Reason.RATE_LIMITED, message, retry_after=2.0)
        self._validating[tenant_id] += 1
        try:
            yield
        finally:
            self._validating[tenant_id] -= 1
            if not self._validating[tenant_id]:
                del self._validating[tenant_id]

    async def _begin(self, connection: Connection, me: str, tenant_id: str) -> None:
        """Refuse a list too many."""
        await tenants.visible(connection, me, tenant_id, lock=True)
        if await listvalidations.count_open(connection, tenant_id) >= MAX_OPEN:
            message = f"this account has {MAX_OPEN} lists that are not finished; wait for one of them or cancel it"
            raise Refusal(Reason.RATE_LIMITED, message, retry_after=60.0, metadata={"limit": str(MAX_OPEN)})

    async def _receive(self, tenant_id: str, id_: str, first: pb.UploadListValidationRequest, pieces: _Pieces) -> int:
        """Take all pieces in; how many addresses there are."""
        count, piece = 0, first
        while True:
            addresses = _kept(piece.addresses)
            if len(addresses) > MAX_PIECE:
                raise fields.invalid("addresses", f"addresses must be at most {MAX_PIECE} in one message")
            if count + len(addresses) > MAX_ADDRESSES:
                raise fields.invalid("addresses", f"a list has at most {MAX_ADDRESSES} addresses; split it")
            if addresses:
                await self._add(tenant_id, id_, addresses, count + 1)
                count += len(addresses)
            following = await _next(pieces)
            if following is None:
                return count
            if following.parent:
                raise fields.invalid("parent", "parent belongs in the first message alone; leave it out of the others")
            piece = following

    async def _add(self, tenant_id: str, id_: str, addresses: list[str], line: int) -> None:
        async def work(connection: Connection) -> None:
            await listvalidations.add(connection, tenant_id, id_, addresses, line)

        await self._database.transact(work, repeatable=True)


def _wanted(proto: ListValidationProto) -> tuple[str, str]:
    """The title and the stream of a list."""
    title = fields.text(proto.display_name, "list_validation.display_name")
    return title, stream(proto.stream, "list_validation.stream")


def _kept(addresses: Iterable[str]) -> list[str]:
    """Texts that the database can hold: it has no place for NUL. With SUB in its place it is no address either."""
    return [text.replace("\0", "\x1a")[:MAX_TEXT] for text in addresses]


def _new_id() -> str:
    """An id that rises with time."""
    return f"{uuid.uuid1().time:015x}{uuid.uuid4().hex[:8]}"


async def _next(pieces: _Pieces) -> pb.UploadListValidationRequest | None:
    """The next message; None: there is none."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await anext(pieces, None)
    except TimeoutError:
        raise Refusal(Reason.UNAVAILABLE, f"nothing came for {SILENCE_SECONDS:.0f} s; send the list again") from None
