"""Signed URLs in the forms of the three clouds: made by the registry, verified by the storage origin.

What belongs here: the query parameters and headers each cloud uses, and the signature over them. Only the
names and the shape are the clouds'; the signature is an HMAC of our own, which only our storage verifies.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode

SignedUrlForm = Literal["aws", "azure", "gcp"]

_SIGNATURE = {"aws": "X-Amz-Signature", "azure": "sig", "gcp": "X-Goog-Signature"}
_BASIC_TIME = "%Y%m%dT%H%M%SZ"
_EXTENDED_TIME = "%Y-%m-%dT%H:%M:%SZ"
_AZURE_VERSION = {"x-ms-version": "2021-08-06"}


class RefusedError(Exception):
    """The storage origin does not accept the URL; the text is what the cloud would say."""


@dataclass(frozen=True)
class SignedUrl:
    """A URL and the headers that have to be sent with it."""

    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Signer:
    """Signs and verifies with one secret; `lifetime` is in seconds."""

    secret: bytes
    form: SignedUrlForm
    lifetime: int

    def sign(self, base: str, path: str, now: float) -> SignedUrl:
        """Sign the decoded `path` ("/" first) below the origin `base`, from `now` (seconds since 1970)."""
        query = self._query(datetime.fromtimestamp(int(now), UTC))
        headers = _AZURE_VERSION if self.form == "azure" else {}
        query[_SIGNATURE[self.form]] = self._signature(path, query, headers)
        return SignedUrl(f"{base}{quote(path)}?{urlencode(query)}", headers)

    def verify(self, target: str, headers: Mapping[str, str], now: float) -> None:
        """Accept the raw request target at `now` (seconds since 1970).

        Raises RefusedError if the signature or a signed header is absent or wrong, or the URL has expired.
        """
        path, _, raw_query = target.partition("?")
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        signature = query.pop(_SIGNATURE[self.form], "")
        signed_headers = _AZURE_VERSION if self.form == "azure" else {}
        presented = {name: headers.get(name, "") for name in signed_headers}
        expected = self._signature(unquote(path), query, presented)
        if not hmac.compare_digest(signature.encode(), expected.encode()) or presented != signed_headers:
            raise RefusedError("The signature does not match the request.")
        if now >= self._expiry(query).timestamp():
            raise RefusedError("Request has expired")

    def _query(self, date: datetime) -> dict[str, str]:
        match self.form:
            case "aws":
                return {
                    "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
                    "X-Amz-Credential": f"EMULATED/{date:%Y%m%d}/us-east-1/s3/aws4_request",
                    "X-Amz-Date": date.strftime(_BASIC_TIME),
                    "X-Amz-Expires": str(self.lifetime),
                    "X-Amz-SignedHeaders": "host",
                }
            case "azure":
                return {
                    "sv": _AZURE_VERSION["x-ms-version"],
                    "st": date.strftime(_EXTENDED_TIME),
                    "se": (date + timedelta(seconds=self.lifetime)).strftime(_EXTENDED_TIME),
                    "sr": "b",
                    "sp": "r",
                }
            case "gcp":
                return {
                    "X-Goog-Algorithm": "GOOG4-RSA-SHA256",
                    "X-Goog-Credential": f"emulated@example.com/{date:%Y%m%d}/auto/storage/goog4_request",
                    "X-Goog-Date": date.strftime(_BASIC_TIME),
                    "X-Goog-Expires": str(self.lifetime),
                    "X-Goog-SignedHeaders": "host",
                }

    def _expiry(self, query: Mapping[str, str]) -> datetime:
        if self.form == "azure":
            return datetime.strptime(query["se"], _EXTENDED_TIME).replace(tzinfo=UTC)
        prefix = "X-Amz" if self.form == "aws" else "X-Goog"
        date = datetime.strptime(query[f"{prefix}-Date"], _BASIC_TIME).replace(tzinfo=UTC)
        return date + timedelta(seconds=int(query[f"{prefix}-Expires"]))

    def _signature(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
        text = "\n".join([path, urlencode(sorted(query.items())), urlencode(sorted(headers.items()))])
        digest = hmac.digest(self.secret, text.encode(), hashlib.sha256)
        # Azure's is base64, whose "+", "/" and "=" only survive a client that leaves the query as it is.
        return base64.b64encode(digest).decode() if self.form == "azure" else digest.hex()
