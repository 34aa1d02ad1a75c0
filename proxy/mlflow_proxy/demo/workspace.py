"""The emulated Databricks workspace: a real HTTP server that enforces the registry's limit.

What belongs here: the options, and the order in which a workspace looks at a call. The limiter comes first
because calls that are refused for their credential count as well.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from mlflow_proxy.demo import other_apis, registry
from mlflow_proxy.demo.answers import Answer, ApiError, json_answer
from mlflow_proxy.demo.journal import Arrival, Arrivals
from mlflow_proxy.demo.limiters import make_limiter
from mlflow_proxy.demo.models import Content, Model
from mlflow_proxy.demo.registry import Registry
from mlflow_proxy.demo.server import EmulatedServer
from mlflow_proxy.demo.shapes import Call, Json
from mlflow_proxy.demo.signing import SignedUrlForm, Signer
from mlflow_proxy.demo.storage import EmulatedStorage

REGISTRY = "registry"
TRACKING = "tracking"
DISCOVERY = "discovery"
OTHER = "other"

_PREFIXES = tuple(
    f"/{root}/{version}/{preview}mlflow/"
    for root in ("api", "ajax-api")
    for version in ("2.0", "3.0")
    for preview in ("", "preview/")
)
_REGISTRY_SERVICES = ("registered-models/", "model-versions/")


@dataclass(frozen=True)
class WorkspaceOptions:
    """How the workspace behaves.

    Attributes:
        limiter: how registry calls are counted, one of `limiters.LIMITERS`.
        limit: registry calls a second, 40 being the published limit of a workspace.
        capacity: the size of the token bucket, by default one second's worth.
        retry_after: whether a 429 says when to retry, in whole seconds; the real one often does not.
        latency: seconds that every API answer takes.
        page_size: entries on a page of list-artifacts.
        signed_url_form: whose signed URLs are handed out.
        signed_url_lifetime: seconds until they expire; about 15 minutes has been reported.
        tokens: the bearer tokens that are valid; None lets everyone in, without a token too.
        host: the address both servers listen on.
        port: the API's port, 0 for a free one.
        storage_port: the storage origin's port, 0 for a free one.

    """

    limiter: str = "sliding"
    limit: int = 40
    capacity: int | None = None
    retry_after: bool = False
    latency: float = 0.03
    page_size: int = 1000
    signed_url_form: SignedUrlForm = "aws"
    signed_url_lifetime: int = 900
    tokens: frozenset[str] | None = None
    host: str = "127.0.0.1"
    port: int = 0
    storage_port: int = 0


class EmulatedWorkspace(EmulatedServer):
    """A workspace with its registered models and the storage they are kept in.

    `models` and `sources` may be changed at any time; see `Registry` for their meaning. `clock` is in seconds
    since 1970 and decides about expiry; `monotonic` feeds the limiter.
    """

    def __init__(
        self,
        models: Iterable[Model] = (),
        options: WorkspaceOptions | None = None,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        storage_type: type[EmulatedStorage] = EmulatedStorage,
    ) -> None:
        self.options = options = options or WorkspaceOptions()
        super().__init__(options.host, options.port, monotonic=monotonic, latency=options.latency)
        self.models = {model.name: model for model in models}
        self.sources: dict[str, Mapping[str, Content]] = {}
        self.storage = storage_type(
            options.host,
            options.storage_port,
            signer=Signer(secrets.token_bytes(32), options.signed_url_form, options.signed_url_lifetime),
            models=self.models,
            clock=clock,
            monotonic=monotonic,
        )
        service = Registry(
            self.models, self.sources, self.storage.sign, lambda: int(clock() * 1000), options.page_size
        )
        self._limiter = make_limiter(options.limiter, options.limit, options.capacity)
        self._endpoints: dict[tuple[str, str], Callable[[Call], Json]] = {
            **{key: partial(endpoint, service) for key, endpoint in registry.ENDPOINTS.items()},
            **other_apis.ENDPOINTS,
        }

    @property
    def storage_url(self) -> str:
        """The origin of the signed URLs."""
        return self.storage.url

    @property
    def registry_arrivals(self) -> Arrivals:
        """The calls that count against the registry's limit."""
        return self.arrivals.in_group(REGISTRY)

    async def start(self) -> None:
        """Start the API and the storage.

        Raises OSError if a port is taken.
        """
        await self.storage.start()
        try:
            await super().start()
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop both, cutting the connections."""
        await super().stop()
        await self.storage.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def reset(self) -> None:
        """Forget what arrived, at the storage too; the limiter remembers."""
        super().reset()
        self.storage.reset()

    def _arrival(self, request: web.Request) -> Arrival:
        group, endpoint = _classify(request.path)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return Arrival(
            time=self._monotonic(),
            group=group,
            method=request.method,
            endpoint=endpoint,
            target=request.raw_path,
            token=token if scheme == "Bearer" else None,
            headers=request.headers,
        )

    async def _answer(self, request: web.Request, arrival: Arrival) -> Answer:
        if arrival.group == REGISTRY:
            wait = self._limiter.admit(arrival.time)
            if wait is not None:
                return self._over_limit(wait)
        if arrival.group == DISCOVERY:
            return self._discovery(arrival)
        try:
            endpoint = self._endpoints.get((arrival.method, arrival.endpoint))
            if endpoint is None:
                raise _no_endpoint(arrival)
            if self.options.tokens is not None and arrival.token not in self.options.tokens:
                message = "Credential was not sent or was of an unsupported type for this API."
                raise ApiError(401, "UNAUTHENTICATED", message)
            arrival.body = await request.read()
            return json_answer(endpoint(Call(_parameters(request, arrival.body), arrival.token)))
        except ApiError as error:
            return error.answer()

    def _over_limit(self, wait: float) -> Answer:
        error = ApiError(429, "REQUEST_LIMIT_EXCEEDED", "RPC token bucket limit has been exceeded.")
        return error.answer({"Retry-After": str(max(1, ceil(wait)))} if self.options.retry_after else None)

    def _discovery(self, arrival: Arrival) -> Answer:
        document = other_apis.discovery_documents(self.url).get(arrival.endpoint)
        return _no_endpoint(arrival).answer() if document is None else json_answer(document)


def _no_endpoint(arrival: Arrival) -> ApiError:
    return ApiError(404, "ENDPOINT_NOT_FOUND", f"No API found for '{arrival.method} {arrival.endpoint}'")


def _classify(path: str) -> tuple[str, str]:
    """Return the rate-limit group of a path, and its endpoint: what all prefixes of the MLflow API share."""
    for prefix in _PREFIXES:
        if path.startswith(prefix):
            endpoint = path.removeprefix(prefix)
            return REGISTRY if endpoint.startswith(_REGISTRY_SERVICES) else TRACKING, endpoint
    return DISCOVERY if "/.well-known/" in path else OTHER, path


def _parameters(request: web.Request, body: bytes) -> Mapping[str, Any]:
    parameters: dict[str, Any] = {}
    for name in request.query:
        values = request.query.getall(name)
        parameters[name] = values if len(values) > 1 else values[0]
    if body:
        try:
            document = json.loads(body)
        except ValueError:
            raise ApiError(400, "MALFORMED_REQUEST", "The body is not JSON.") from None
        if not isinstance(document, dict):
            raise ApiError(400, "MALFORMED_REQUEST", "The body is not a JSON object.")
        parameters |= document
    return parameters
