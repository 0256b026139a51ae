"""DkimKeyService: the DKIM keys of sender domains, and their rotation."""

import asyncio
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from barua.control.v1 import dkim_key_pb2, dkim_key_service_pb2
from barua.control.v1.dkim_key_service_pb2_grpc import DkimKeyServiceServicer

from control import dkimkeys, rotation
from control.authentication import caller
from control.database import Connection, Database
from control.dkimkeys import Algorithm, KeyPair
from control.domaincheck.checker import Checker
from control.domaincheck.subject import published
from control.model import names
from control.model.caller import Role
from control.model.fields import invalid
from control.sealing import Sealer
from control.services.domain_answers import key_to_proto
from control.services.domains import demand, find, parse_id
from control.services.listing import page_of
from control.services.mutation import Mutations
from control.store import dkim_keys, domains
from control.store.dkim_keys import DkimKey, KeyState, NewKey
from control.store.domains import Domain
from control.store.tenants import not_found
from mta.runtime.refusals import Reason, Refusal

_Context = grpc.aio.ServicerContext[Any, Any]

_ALGORITHMS = {
    dkim_key_pb2.DkimKey.ALGORITHM_UNSPECIFIED: Algorithm.RSA,
    dkim_key_pb2.DkimKey.ALGORITHM_RSA: Algorithm.RSA,
    dkim_key_pb2.DkimKey.ALGORITHM_ED25519: Algorithm.ED25519,
}


@dataclass(frozen=True, slots=True)
class _KeyName:
    domain: names.ChildName
    selector: str


class DkimKeyServicer(DkimKeyServiceServicer):
    """See the proto."""

    def __init__(self, database: Database, mutations: Mutations, sealer: Sealer, checker: Checker) -> None:
        self._database = database
        self._mutations = mutations
        self._sealer = sealer
        self._checker = checker
        self._making_keys = asyncio.Semaphore(1)

    async def GetDkimKey(
        self, request: dkim_key_service_pb2.GetDkimKeyRequest, context: _Context
    ) -> dkim_key_pb2.DkimKey:
        """See the proto."""
        name = _key_name(request.name)
        _, key = await self._database.transact(lambda connection: _find(connection, name))
        return key_to_proto(key)

    async def ListDkimKeys(
        self, request: dkim_key_service_pb2.ListDkimKeysRequest, context: _Context
    ) -> dkim_key_service_pb2.ListDkimKeysResponse:
        """See the proto."""
        name = _domain_name(request.parent, "parent")
        page = page_of(request, "", name.tenant_id, name.id)

        async def read(connection: Connection) -> list[DkimKey]:
            domain = await find(connection, name)
            return await dkim_keys.page(connection, domain.tenant_id, domain.domain, page.after, page.limit)

        found, token = page.cut(await self._database.transact(read), lambda key: key.selector)
        return dkim_key_service_pb2.ListDkimKeysResponse(dkim_keys=map(key_to_proto, found), next_page_token=token)

    async def GenerateDkimKey(
        self, request: dkim_key_service_pb2.GenerateDkimKeyRequest, context: _Context
    ) -> dkim_key_pb2.DkimKey:
        """See the proto."""
        name = _domain_name(request.parent, "parent")
        algorithm = _ALGORITHMS.get(request.algorithm)
        if algorithm is None:
            raise invalid("algorithm", f"algorithm {request.algorithm} is not known")
        bits = dkimkeys.checked_bits(algorithm, request.bits)
        selector = dkimkeys.checked_selector(request.selector) if request.selector else ""
        earlier = await self._mutations.earlier(request, dkim_key_pb2.DkimKey)
        if earlier is not None:
            return earlier
        chosen = selector or dkimkeys.new_selector(algorithm)
        await self._check_room(name, chosen)
        if request.validate_only:  # a dry run has no use for a key, which costs seconds of CPU
            pair = KeyPair(chosen, algorithm, bits, b"", b"")
        else:
            pair = await self._make(algorithm, bits, chosen)
        return await self._add(request, name, pair)

    async def ImportDkimKey(
        self, request: dkim_key_service_pb2.ImportDkimKeyRequest, context: _Context
    ) -> dkim_key_pb2.DkimKey:
        """See the proto."""
        name = _domain_name(request.parent, "parent")
        selector = dkimkeys.checked_selector(request.selector)
        await self._database.transact(lambda connection: find(connection, name))
        pair = await dkimkeys.from_pem(request.private_key_pem, selector, allow_weak=request.allow_weak)
        return await self._add(request, name, pair)

    async def ActivateDkimKey(
        self, request: dkim_key_service_pb2.ActivateDkimKeyRequest, context: _Context
    ) -> dkim_key_pb2.DkimKey:
        """See the proto."""
        name = _key_name(request.name)
        if request.trusted and caller().role is not Role.OPERATOR:
            text = "only the operator may activate a key without a look at the DNS"
            raise Refusal(Reason.PERMISSION_DENIED, text, field="trusted")
        _, key = await self._database.transact(lambda connection: _find(connection, name))
        if key.state is not KeyState.ACTIVE and not request.trusted:
            demand(*await self._checker.check_keys(key.domain, [published(key)]))

        async def effect(connection: Connection) -> dkim_key_pb2.DkimKey:
            domain, current = await _find(connection, name, lock=True)
            if current.state is KeyState.ACTIVE:
                return key_to_proto(current)
            if current.public_key != key.public_key:
                raise rotation.changed_meanwhile()
            return key_to_proto((await rotation.switch(connection, domain, [current]))[0])

        return await self._mutations.run(request, dkim_key_pb2.DkimKey, effect)

    async def RetireDkimKey(
        self, request: dkim_key_service_pb2.RetireDkimKeyRequest, context: _Context
    ) -> dkim_key_pb2.DkimKey:
        """See the proto."""
        name = _key_name(request.name)

        async def effect(connection: Connection) -> dkim_key_pb2.DkimKey:
            domain, key = await _find(connection, name, lock=True)
            if key.state is KeyState.RETIRED:
                return key_to_proto(key)
            if key.state is KeyState.PENDING:
                text = f'the key "{key.selector}" is pending: it signs nothing; delete it if it is not wanted'
                raise Refusal(Reason.FAILED_PRECONDITION, text, metadata={"selector": key.selector})
            _check_spare(domain, key)
            retired = await dkim_keys.retire(connection, domain.tenant_id, domain.domain, key.selector)
            await domains.log_change(connection, domain.domain)
            return key_to_proto(retired)

        return await self._mutations.run(request, dkim_key_pb2.DkimKey, effect)

    async def RotateDkimKeys(
        self, request: dkim_key_service_pb2.RotateDkimKeysRequest, context: _Context
    ) -> dkim_key_service_pb2.RotateDkimKeysResponse:
        """See the proto."""
        response = dkim_key_service_pb2.RotateDkimKeysResponse
        name = _domain_name(request.name, "name")
        earlier = await self._mutations.earlier(request, response)
        if earlier is not None:
            return earlier
        found = await self._database.transact(lambda connection: find(connection, name))
        waiting = dkim_keys.awaited(found.keys)
        if waiting:
            demand(*await self._checker.check_keys(found.domain, [published(key) for key in waiting]))
        new = [] if waiting else await self._successors(found, dry=request.validate_only)

        async def effect(connection: Connection) -> dkim_key_service_pb2.RotateDkimKeysResponse:
            domain = await find(connection, name, lock=True)
            if waiting:
                keys = await rotation.finish(connection, domain, waiting)
                return response(phase=response.PHASE_SWITCHED, dkim_keys=map(key_to_proto, keys))
            keys = await rotation.begin(connection, domain, new)
            return response(phase=response.PHASE_PUBLISH, dkim_keys=map(key_to_proto, keys))

        return await self._mutations.run(request, response, effect)

    async def DeleteDkimKey(self, request: dkim_key_service_pb2.DeleteDkimKeyRequest, context: _Context) -> Empty:
        """See the proto."""
        name = _key_name(request.name)

        async def effect(connection: Connection) -> Empty:
            domain, key = await _find(connection, name, lock=True)
            if key.state is KeyState.ACTIVE:
                _check_spare(domain, key)
            await dkim_keys.delete(connection, domain.tenant_id, domain.domain, key.selector)
            if key.state is KeyState.ACTIVE:
                await domains.log_change(connection, domain.domain)
            return Empty()

        return await self._mutations.run(request, Empty, effect)

    async def _check_room(self, name: names.ChildName, selector: str) -> None:
        """What ``_add`` would refuse, before a key is made."""

        async def check(connection: Connection) -> None:
            domain = await find(connection, name)
            await dkim_keys.check_room(connection, domain.tenant_id, domain.domain, [NewKey(selector, "", 0, b"", b"")])

        await self._database.transact(check)

    async def _make(self, algorithm: Algorithm, bits: int, selector: str) -> KeyPair:
        async with self._making_keys:  # the cores are for the others
            return await dkimkeys.generate_one(algorithm, bits, selector)

    async def _add(self, request: Any, name: names.ChildName, pair: KeyPair) -> dkim_key_pb2.DkimKey:
        async def effect(connection: Connection) -> dkim_key_pb2.DkimKey:
            domain = await find(connection, name, lock=True)
            key = rotation.sealed(self._sealer, pair, domain.tenant_id, domain.domain)
            return key_to_proto((await dkim_keys.insert(connection, domain.tenant_id, domain.domain, [key]))[0])

        return await self._mutations.run(request, dkim_key_pb2.DkimKey, effect)

    async def _successors(self, domain: Domain, *, dry: bool) -> list[NewKey]:
        keys = dkim_keys.active(domain.keys)
        if not keys:
            text = f'the domain "{domain.domain}" has no active key to rotate; make one and activate it'
            raise Refusal(Reason.FAILED_PRECONDITION, text, metadata={"domain": domain.domain})
        if dry:
            return []
        async with self._making_keys:
            return await rotation.successors(self._sealer, domain)


async def _find(connection: Connection, name: _KeyName, *, lock: bool = False) -> tuple[Domain, DkimKey]:
    domain = await find(connection, name.domain, lock=lock)
    for key in domain.keys:
        if key.selector == name.selector:
            return domain, key
    raise not_found("DKIM key", name.selector)


def _check_spare(domain: Domain, key: DkimKey) -> None:
    """Refuse to take the last active key from a domain that must sign."""
    if domain.settings.signing_off or len(dkim_keys.active(domain.keys)) > 1:
        return
    raise Refusal(
        Reason.FAILED_PRECONDITION,
        f'"{key.selector}" is the last active key of {domain.domain}, whose messages must be signed; activate another'
        " first, or switch signing off",
        metadata={"domain": domain.domain, "selector": key.selector},
    )


def _domain_name(name: str, field: str) -> names.ChildName:
    return parse_id(names.child(name, "domains", caller().tenant_id, field), field)


def _key_name(name: str) -> _KeyName:
    parent, collection, selector = [*name.rsplit("/", 2), "", ""][:3]
    if collection != "dkimKeys" or not selector or "\0" in selector:
        shown = name[:200] or "nothing"
        raise invalid(
            "name", f'name must have the form tenants/{{tenant}}/domains/{{domain}}/dkimKeys/{{id}}; it is "{shown}"'
        )
    return _KeyName(_domain_name(parent, "name"), selector)
