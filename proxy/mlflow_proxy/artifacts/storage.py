"""Storage, as a signed URL names it, and the redirects on the way to it.

Storage gets the signed header fields, and what it is asked beside them; no credential of a client.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from mlflow_proxy.errors import RefusedDestinationError, RefusedRedirectError
from mlflow_proxy.metrics import Metrics
from mlflow_proxy.mlflow_api.answers import SignedUrl
from mlflow_proxy.mlflow_api.headers import Fields, for_storage
from mlflow_proxy.upstream.client import HttpClient
from mlflow_proxy.upstream.redirects import FOLLOWED, Way


class Storage:
    """Asks storage by signed URLs; ``client`` knows which places may be asked."""

    def __init__(self, client: HttpClient, metrics: Metrics) -> None:
        self._client = client
        self._metrics = metrics

    @asynccontextmanager
    async def open(self, signed: SignedUrl, asked: Fields) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield storage's response to a signed URL, after at most three redirects.

        ``asked`` are fields that may go to any place. Every place is checked like the first. Raises
        RefusedDestinationError, RefusedRedirectError and what ``HttpClient.open`` does.
        """
        given = for_storage(signed.headers)
        if given is None:
            raise RefusedDestinationError("a header field that goes with its URL is malformed")
        way = Way((signed.url,))
        while True:
            sent = (*given, *asked) if way.takes_signed_fields() else tuple(asked)
            async with self._counted(way, sent) as response:
                if response.status not in FOLLOWED:
                    yield response
                    return
                way = way.onward(response.headers.getall("Location", ()))

    @asynccontextmanager
    async def _counted(self, way: Way, sent: Fields) -> AsyncIterator[aiohttp.ClientResponse]:
        status = "error"
        try:
            async with self._client.open("GET", way.last, sent) as response:
                status = str(response.status)
                yield response
        except RefusedDestinationError as error:
            status = "refused"
            if way.redirected:
                raise RefusedRedirectError(error.reason) from error
            raise
        finally:
            self._metrics.storage_calls.labels(status).inc()
