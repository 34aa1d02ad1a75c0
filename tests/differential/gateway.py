"""The emulated workspace behind a gateway that looks at more than the token, and makes answers up.

Its registry, storage and discovery are those of the demo. What the gateway adds is in `Identity`: who asks is
told by four fields, each of which decides something.
"""

import itertools
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from multidict import CIMultiDict

from mlflow_proxy.demo import registry
from mlflow_proxy.demo.answers import Answer, ApiError, Delay, Fault, json_answer
from mlflow_proxy.demo.journal import Arrival
from mlflow_proxy.demo.models import Content, Model, ModelVersion
from mlflow_proxy.demo.other_apis import discovery_documents
from mlflow_proxy.demo.registry import Registry
from mlflow_proxy.demo.server import EmulatedServer
from mlflow_proxy.demo.shapes import Call
from mlflow_proxy.demo.signing import Signer
from mlflow_proxy.demo.storage import EmulatedStorage
from tests.differential import questions
from tests.differential.judge import SPOILT, Asker, marker
from tests.differential.questions import (
    FACADE_FILE,
    FACADE_LISTING,
    LATEST,
    PERSONAL,
    PREFIXES,
    Question,
)
from tests.differential.timeline import Said
from tests.differential.upstreams import Everyone, Pair, Write

MODELS = ("m0", "m1", "m2")
VERSIONS = 2
OTHER_TENANT = "blue"
BAD_ADDRESS, GOOD_ADDRESS = "10.9.9.9", "10.0.0.5"
ROOT = "dapi-root"
_LIFETIME = 900
_ADDRESSES = "/api/2.0/ip-access-lists/"
_PERMISSIONS = "/api/2.0/permissions/registered-models/"
_USERS = "/api/2.0/preview/scim/v2/Users"


@dataclass(frozen=True)
class Identity:
    """What the gateway sees of a caller."""

    token: str = ""
    user: str = ""
    address: str = ""
    tenant: str = ""

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Self:
        """Read it from a request's fields. The first address is the client's, whatever proxies append."""
        return cls(
            fields.get("Authorization", "").removeprefix("Bearer "),
            fields.get("X-Forwarded-User", ""),
            fields.get("X-Forwarded-For", "").partition(",")[0].strip(),
            fields.get("X-MLFLOW-WORKSPACE", ""),
        )

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The fields of a request by this caller."""
        said = (
            ("Authorization", f"Bearer {self.token}"),
            ("X-Forwarded-User", self.user),
            ("X-Forwarded-For", self.address),
            ("X-MLFLOW-WORKSPACE", self.tenant),
        )
        return tuple((name, value) for name, value in said if value)

    @property
    def principal(self) -> str:
        """Whose permissions count: a token acts for the user that the gateway lets in."""
        return f"{self.token}~{self.user}" if self.user else self.token

    @property
    def marker(self) -> str:
        """What marks its answers."""
        return marker(self.token, self.user, self.address, self.tenant)

    @property
    def asker(self) -> Asker:
        """Itself as the judge knows it."""
        parts = (self.token, self.user, self.address, self.tenant)
        return Asker(
            " ".join(filter(None, parts)), self.fields, replace(ROOTS, tenant=self.tenant).name, self.marker
        )

    @property
    def name(self) -> str:
        """Its name in reports."""
        return " ".join(filter(None, (self.token, self.user, self.address, self.tenant)))


ROOTS = Identity(ROOT)
"""Who may do everything, in the tenant without a name."""


def identities(tokens: int) -> Iterator[Identity]:
    """Yield callers: each token by itself, and with a field that matters."""
    for tenant in ("", OTHER_TENANT):
        yield replace(ROOTS, tenant=tenant)
    for number in range(tokens):
        plain = Identity(f"dapi-t{number}")
        yield plain
        yield replace(plain, tenant=OTHER_TENANT)
        yield replace(plain, address=GOOD_ADDRESS)
        yield replace(plain, address=BAD_ADDRESS)
        yield replace(plain, user="alice")
        if number % 2:
            yield replace(plain, user="bob", address=GOOD_ADDRESS, tenant=OTHER_TENANT)


class Gateway(EmulatedServer, Everyone):
    """The whole upstream; ``spoils`` whether it makes answers up now and then, and marks others."""

    def __init__(self, chance: Random, tokens: int, *, spoils: bool = True) -> None:
        super().__init__("127.0.0.1", 0, monotonic=time.monotonic)
        self.prefixes: tuple[str, ...] = PREFIXES
        self._chance = chance
        self._spoils = spoils
        self._numbers = itertools.count()
        self._clock = itertools.count(int(time.time() * 1000))
        who = list(identities(tokens))
        self.askers = [each.asker for each in who]
        self._who = {each.name: each for each in who}
        self.questions = [
            question for model in MODELS for question in questions.about(model, VERSIONS, files=True)
        ]
        self.questions += questions.searches()
        self._tokens = {each.token for each in who}
        self._barred = {BAD_ADDRESS}
        self._tenants: dict[str, Registry] = {}
        self._storages: dict[str, EmulatedStorage] = {}
        for tenant in ("", OTHER_TENANT):
            self._make_tenant(tenant)
        self.fault = self._delay

    def _make_tenant(self, tenant: str) -> None:
        models: dict[str, Model] = {}
        storage = EmulatedStorage(
            "127.0.0.1",
            0,
            signer=Signer(secrets.token_bytes(32), "aws", _LIFETIME),
            models=models,
            clock=time.time,
            monotonic=time.monotonic,
        )
        self._storages[tenant] = storage
        self._tenants[tenant] = Registry(models, {}, storage.sign, lambda: next(self._clock), 1000)
        for name in MODELS:
            versions = {
                str(number): ModelVersion(self._files(tenant, name)) for number in range(1, VERSIONS + 1)
            }
            readers = self._some_readers()
            models[name] = Model(
                name, versions, {"champion": "1"}, readers=readers, description=self._nonce()
            )

    async def __aenter__(self) -> Self:
        for storage in self._storages.values():
            await storage.start()
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        for storage in self._storages.values():
            await storage.stop()

    # -- answers -----------------------------------------------------------------------------------

    async def directly(self, pairs: Iterable[Pair]) -> dict[tuple[str, Question], Said]:
        """Answer as the wire would, without delays and what is made up."""
        return {
            (asker.name, question): self._said(self._who[asker.name], question) for asker, question in pairs
        }

    def _said(self, identity: Identity, question: Question) -> Said:
        asked = question.directly
        parameters = dict(asked.body or asked.parameters)
        answer = self._decide(identity, asked.method, asked.endpoint, parameters)
        body = answer.body
        assert isinstance(body, bytes)
        if answer.status == 200 and question.endpoint == FACADE_LISTING:
            body = questions.facade_listing(body)
        if answer.status == 200 and question.endpoint == FACADE_FILE:
            version = (
                self._tenants[identity.tenant]
                .models[question.model or ""]
                .versions[question.named["version"]]
            )
            content = version.files[question.path]
            assert isinstance(content, bytes)
            body = content
        return questions.said(question, answer.status, body)

    def _arrival(self, request: web.Request) -> Arrival:
        token = Identity.of(request.headers).token
        path = request.raw_path
        return Arrival(time.monotonic(), "", request.method, request.path, path, token, request.headers)

    async def _answer(self, request: web.Request, arrival: Arrival) -> Answer:
        if len(self.arrivals) > 1000:
            self.reset()
        document = discovery_documents(self.url).get(request.path)
        if document is not None:
            return json_answer(document)
        identity, body = Identity.of(request.headers), await request.read()
        parameters: dict[str, Any] = dict(request.query)
        if body:
            parameters |= json.loads(body)
        endpoint = request.path
        for prefix in PREFIXES:
            endpoint = endpoint.removeprefix(prefix)
        answer = self._decide(identity, request.method, endpoint, parameters)
        if not self._spoils or _writes(request.method, endpoint) or not endpoint.startswith(_REGISTRY):
            return answer
        return self._spoilt(identity, answer)

    def _decide(
        self, identity: Identity, method: str, endpoint: str, parameters: Mapping[str, Any]
    ) -> Answer:
        try:
            return json_answer(self._decided(identity, method, endpoint, parameters))
        except ApiError as error:
            return error.answer()

    def _decided(
        self, identity: Identity, method: str, endpoint: str, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        if identity.address in self._barred:
            raise ApiError(403, "PERMISSION_DENIED", f"Source IP address {identity.address} is blocked.")
        if identity.token not in self._tokens:
            raise ApiError(401, "UNAUTHENTICATED", "Invalid access token.")
        if identity.tenant not in self._tenants:
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", "There is no such workspace.")
        if _writes(method, endpoint) and identity.token != ROOT:
            raise ApiError(403, "PERMISSION_DENIED", "This credential may not write.")
        if endpoint.startswith("/"):
            return self._govern(identity, method, endpoint, parameters)
        known = registry.ENDPOINTS.get((method, endpoint))
        if known is None:
            raise ApiError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{method} {endpoint}'")
        return known(self._tenants[identity.tenant], Call(parameters, identity.principal))

    def _govern(
        self, identity: Identity, method: str, path: str, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change who may do what."""
        models = self._tenants[identity.tenant].models
        if method == "PATCH" and path.startswith(_PERMISSIONS):
            model = models.get(path.removeprefix(_PERMISSIONS))
            if model is not None:
                model.readers = frozenset(parameters["readers"])
                return {}
        if method == "POST" and path == _USERS:
            self._tokens.add(parameters["userName"])
            return {}
        if method == "DELETE" and path.startswith(_USERS):
            self._tokens.discard(path.removeprefix(_USERS + "/"))
            return {}
        if method == "PUT" and path.startswith(_ADDRESSES):
            address = path.removeprefix(_ADDRESSES)
            (self._barred.add if parameters["barred"] else self._barred.discard)(address)
            return {}
        raise ApiError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{method} {path}'")

    # -- what goes wrong ---------------------------------------------------------------------------

    def _delay(self, request: web.Request) -> Fault | None:
        drawn = self._chance.random()
        if drawn < 0.02:
            return Delay(self._chance.uniform(0.05, 0.3))
        return Delay(0.05 * drawn) if drawn < 0.7 else None

    def _spoilt(self, identity: Identity, answer: Answer) -> Answer:
        """Make up an answer, or mark the true one as its caller's, or leave it as it is."""
        drawn, whose = self._chance.random(), identity.marker
        if drawn < 0.01:
            page = f"<html><title>Log in</title>{SPOILT} {whose}</html>".encode()
            return Answer(200, page, {"Content-Type": "text/html"})
        if drawn < 0.015:
            return json_answer({"error_code": SPOILT, "login": whose})
        if drawn < 0.04:
            status = self._chance.choice([400, 407, 418, 422, 451, 500])
            return json_answer({"error_code": SPOILT.upper(), "message": f"{SPOILT} {whose}"}, status)
        assert isinstance(answer.body, bytes)
        if drawn < 0.08 and answer.status == 200:
            private = [("Cache-Control", "private"), ("Cache-Control", "no-store"), ("Vary", "Authorization")]
            name, value = self._chance.choice(private)
            body = json.dumps({**json.loads(answer.body), PERSONAL: whose}).encode()
            return Answer(200, body, {"Content-Type": "application/json", name: value})
        if drawn < 0.2:
            name, value = self._chance.choice(_FIELDS)
            return replace(answer, headers={**CIMultiDict(answer.headers), name: value.format(whose)})
        return answer

    # -- changes -----------------------------------------------------------------------------------

    def draw(self, chance: Random) -> Write:
        """Return a change of a model, of who may read it, or of who is let in."""
        drawn = chance.random()
        if drawn < 0.1:
            return self._users(chance)
        if drawn < 0.15:
            return self._addresses(chance)
        named = [(tenant, name) for tenant in self._tenants for name in MODELS]
        missing = [(tenant, name) for tenant, name in named if name not in self._tenants[tenant].models]
        tenant, name = chance.choice(missing if missing and drawn < 0.6 else named)
        model, identity = self._tenants[tenant].models.get(name), replace(ROOTS, tenant=tenant)
        if model is None:
            renamed = f"{name}-renamed"
            if renamed in self._tenants[tenant].models:
                return _of_model(identity, name, "rename", {"name": renamed, "new_name": name})
            return _of_model(identity, name, "create", {"name": name, "description": self._nonce()})
        if drawn < 0.5:
            body = {"readers": sorted(self._some_readers(chance))}
            return Write(f"readers of {name}", "PATCH", _PERMISSIONS + name, body, identity.fields, name)
        return self._content(chance, identity, model)

    def _content(self, chance: Random, identity: Identity, model: Model) -> Write:
        name = model.name
        about = {"name": name}
        if not model.versions or (len(model.versions) < VERSIONS and chance.random() < 0.7):
            source = self._nonce()
            self._tenants[identity.tenant].sources[source] = self._files(identity.tenant, name)
            return _of_version(identity, name, "create", {**about, "source": source})
        version = {**about, "version": chance.choice(list(model.versions))}
        # The next one gets its number, so that numbers stay among those that are asked for.
        last = {**about, "version": max(model.versions, key=int)}
        tag = {"key": "k", "value": self._nonce()}
        stage = {"stage": chance.choice(["Production", "Staging", "Archived"])}
        return chance.choice(
            [
                _of_model(identity, name, "set-tag", {**about, **tag}),
                _of_model(identity, name, "update", {**about, "description": self._nonce()}, "PATCH"),
                _of_model(identity, name, "alias", {**version, "alias": "champion"}),
                _of_model(identity, name, "alias", {**about, "alias": "champion"}, "DELETE"),
                _of_version(identity, name, "set-tag", {**version, **tag}),
                _of_version(identity, name, "update", {**version, "description": self._nonce()}, "PATCH"),
                _of_version(identity, name, "transition-stage", {**version, **stage}),
                _of_version(identity, name, "delete", last, "DELETE"),
                _of_version(identity, name, "delete", last, "DELETE"),
                _of_model(identity, name, "delete", about, "DELETE"),
                _of_model(identity, name, "rename", {**about, "new_name": f"{name}-renamed"}),
            ]
        )

    def _users(self, chance: Random) -> Write:
        tokens = sorted({each.token for each in self._who.values()} - {ROOT})
        gone = [token for token in tokens if token not in self._tokens]
        token = chance.choice(gone if gone and chance.random() < 0.8 else tokens)
        askers = frozenset(name for name, each in self._who.items() if each.token == token)
        if token in self._tokens:
            return Write(f"{token} deleted", "DELETE", f"{_USERS}/{token}", {}, ROOTS.fields, askers=askers)
        return Write(f"{token} created", "POST", _USERS, {"userName": token}, ROOTS.fields, askers=askers)

    def _addresses(self, chance: Random) -> Write:
        address = chance.choice([*sorted(self._barred), GOOD_ADDRESS, BAD_ADDRESS])
        barred = address not in self._barred
        askers = frozenset(name for name, each in self._who.items() if each.address == address)
        what = f"{address} {'barred' if barred else 'let in'}"
        return Write(what, "PUT", _ADDRESSES + address, {"barred": barred}, ROOTS.fields, askers=askers)

    def _some_readers(self, chance: Random | None = None) -> frozenset[str]:
        drawn = (chance or self._chance).random
        share = 0.7 + 0.3 * drawn()
        principals = sorted({each.principal for each in self._who.values()})
        return frozenset([ROOT, *(each for each in principals if drawn() < share)])

    def _files(self, tenant: str, name: str) -> dict[str, Content]:
        nonce = self._nonce()
        return {
            "MLmodel": f"flavors: {{}}  # {tenant} {name} {nonce}".encode(),
            "data/part.bin": f"{tenant} {name} {nonce}".encode(),
            f"data/{nonce}": b"",
        }

    def _nonce(self) -> str:
        return f"nonce-{next(self._numbers)}"


_REGISTRY = ("registered-models/", "model-versions/")
_FIELDS = (
    ("Authorization", "Bearer {}"),
    ("X-Auth-Request-Access-Token", "{}"),
    ("Set-Cookie", "session={}; Path=/"),
    ("Location", "/login?who={}"),
    ("X-Forwarded-User", "{}"),
    ("Link", "</{}>; rel=me"),
    ("WWW-Authenticate", 'Bearer realm="{}"'),
    ("Content-Disposition", "inline; filename={}"),
    ("Content-Language", "{}"),
)


def _writes(method: str, endpoint: str) -> bool:
    return method != "GET" and endpoint != LATEST


def _of_model(
    identity: Identity, name: str, verb: str, body: Mapping[str, Any], method: str = "POST"
) -> Write:
    what = f"{method} {verb} model {name} of {identity.tenant or 'the nameless'}"
    return Write(what, method, f"registered-models/{verb}", body, identity.fields, name)


def _of_version(
    identity: Identity, name: str, verb: str, body: Mapping[str, Any], method: str = "POST"
) -> Write:
    what = f"{method} {verb} version of {name} of {identity.tenant or 'the nameless'}"
    return Write(what, method, f"model-versions/{verb}", body, identity.fields, name)
