"""The request fields that the upstream gets, and whether the proxy adds X-Forwarded fields to them."""

from typing import Literal

from aiohttp import web

from mlflow_proxy.mlflow_api.forwarded import FORWARDED, forwarded
from mlflow_proxy.mlflow_api.headers import end_to_end, without
from mlflow_proxy.mlflow_api.upstream_kind import KnownUpstream


class Forwarding:
    """``connections.forwarded_fields`` at work.

    A Databricks workspace has no use for the fields: it knows callers by their credentials alone. Without
    ``as_sent`` a client's own are dropped where nothing is appended to them.
    """

    def __init__(
        self, when: Literal["auto", "always", "never"], upstream: KnownUpstream, *, as_sent: bool
    ) -> None:
        self._when = when
        self._upstream = upstream
        self._as_sent = as_sent

    @property
    def appends(self) -> bool:
        """Whether the proxy adds X-Forwarded fields about the client; may change at any moment."""
        return self._when == "always" or (self._when == "auto" and not self._upstream.current.is_databricks)

    def fields(self, request: web.BaseRequest) -> list[tuple[str, str]]:
        """Return the end-to-end fields of a client's request, as the upstream may get them."""
        fields = end_to_end(request.headers.items())
        if self.appends:
            return forwarded(fields, request.remote, request.scheme, request.headers.get("Host"))
        return fields if self._as_sent else without(fields, FORWARDED)
