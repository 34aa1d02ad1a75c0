"""Redirects of storage: the next URL, and whether the signed header fields may go there. Pure.

S3 answers the global name of a bucket in another region with a 307 to the regional host. The target of a
redirect is untrusted input as well: ``destination`` checks it like the first URL.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urljoin

from yarl import URL

from mlflow_proxy.errors import RefusedRedirectError

FOLLOWED = frozenset({301, 302, 307, 308})
"""Redirects after which a GET is asked again elsewhere (RFC 9110 section 15.4)."""
_MOST = 3

_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_S3 = re.compile(
    r"((?P<bucket>[a-z0-9][a-z0-9.-]*)\.)?"
    r"s3(-fips)?(\.dualstack)?([.-](?P<region>[a-z]{2}(-[a-z]+)+-[0-9]{1,2}))?"
    r"\.(?P<domain>amazonaws\.com(\.cn)?)"
)
"""The endpoints of S3 in its regions, and the global one. Other services have names much like these."""


@dataclass(frozen=True, slots=True)
class Way:
    """The URLs requested for one file, in order; the workspace signed the first."""

    urls: tuple[str, ...]

    @property
    def last(self) -> str:
        """The URL to request now."""
        return self.urls[-1]

    @property
    def redirected(self) -> bool:
        """Whether the last URL comes from a redirect of storage, not from the workspace."""
        return len(self.urls) > 1

    def onward(self, locations: Sequence[str]) -> Self:
        """Return the URLs with that of a redirect's ``Location`` fields. Raises RefusedRedirectError."""
        if len(locations) != 1:
            raise RefusedRedirectError("it does not name one place")
        [location] = locations
        try:
            # Unchanged if it is absolute: a signature covers the exact text.
            target = location if _ABSOLUTE.match(location) else urljoin(self.last, location)
        except ValueError:
            raise RefusedRedirectError("its URL cannot be read") from None
        if target in self.urls:
            raise RefusedRedirectError("the redirects go round")
        if len(self.urls) > _MOST:
            raise RefusedRedirectError(f"there are more than {_MOST} redirects")
        if _scheme(self.last) == "https" != _scheme(target):
            raise RefusedRedirectError("it is not https, as the place before it was")
        return type(self)((*self.urls, target))

    def takes_signed_fields(self) -> bool:
        """Whether the header fields that go with the signed URL may be sent to the last one.

        They can be credentials: session tokens, the keys of encrypted objects. Only the origin that they were
        signed for gets them, and another region's for the same bucket, which refuses a request without them.
        """
        try:
            signed, target = (URL(each, encoded=True) for each in (self.urls[0], self.last))
            if signed.origin() == target.origin():
                return True
            bucket = _bucket(signed)
            return bucket is not None and bucket == _bucket(target)
        except ValueError:
            return False


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _bucket(url: URL) -> tuple[str, str, str] | None:
    """Return a URL's S3 bucket: domain and government flag (names are unique within both), and name."""
    endpoint = _S3.fullmatch((url.raw_host or "").lower())
    if endpoint is None or url.scheme != "https" or url.port != 443:
        return None
    name = endpoint["bucket"] or url.raw_path.removeprefix("/").partition("/")[0]
    government = "us-gov" if (endpoint["region"] or "").startswith("us-gov-") else ""
    return (endpoint["domain"], government, name) if name else None
