"""What one flight brought for the whole fleet, as bytes: an answer and its lifetime, or an error."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from mlflow_proxy.errors import (
    BadGatewayError,
    MlflowProxyError,
    TooLargeToShareError,
    UnknownCodingError,
    UnreadableError,
)
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.reading.store import Entry

_EVEN = 1.0
"""Seconds by which clocks of one fleet may go unevenly while an answer is fetched."""
_ERRORS: Mapping[str, type[MlflowProxyError]] = {
    "unavailable": BadGatewayError,
    "too-large": TooLargeToShareError,
    "coding": UnknownCodingError,
}
"""Errors shared with waiting members, which would meet them as well. A time-out concerns one caller only."""


@dataclass(frozen=True, slots=True)
class Record:
    """An answer; ``stored_at`` and ``lifetime`` in seconds of the server's clock."""

    response: StoredResponse
    model: str | None
    version: str | None
    survives_metadata_writes: bool
    stored_at: float
    lifetime: float

    @classmethod
    def of(cls, entry: Entry, stored_at: float) -> "Record":
        """Describe an answer that is being stored; ``stored_at`` is the server's time of that."""
        return cls(
            entry.response,
            entry.model,
            entry.version,
            entry.survives_metadata_writes,
            stored_at,
            entry.expires_at - entry.stored_at,
        )

    def entry(self, server_now: float, now: float) -> Entry:
        """Return what to store of it here, where it is ``now``.

        Raises UnreadableError for a record from the future: the server's clock was set back, so the record's
        age is unknown.
        """
        age = server_now - self.stored_at
        if age < -_EVEN:
            raise UnreadableError("stored in the future: the clock of Redis, or of a member, was set")
        stored_at = now - max(0.0, age)
        return Entry(
            self.response,
            self.model,
            self.version,
            self.survives_metadata_writes,
            stored_at,
            stored_at + self.lifetime,
        )


def pack(record: Record) -> bytes:
    """Return a record as bytes."""
    response = record.response
    head = {
        "status": response.status,
        "reason": response.reason,
        "headers": response.headers,
        "model": record.model,
        "version": record.version,
        "survives": record.survives_metadata_writes,
        "stored_at": record.stored_at,
        "lifetime": record.lifetime,
    }
    text = json.dumps(head).encode()
    return struct.pack(">I", len(text)) + text + response.body


def pack_error(error: BaseException) -> bytes | None:
    """Return an error as bytes, None if it concerns no other member."""
    for name, kind in _ERRORS.items():
        if isinstance(error, kind):
            text = json.dumps({"error": name, "message": str(error)}).encode()
            return struct.pack(">I", len(text)) + text
    return None


def unpack(data: bytes) -> Record:
    """Return the record that was packed; raises the error if it was one, UnreadableError if neither."""
    try:
        (length,) = struct.unpack_from(">I", data)
        head = json.loads(data[4 : 4 + length])
        if "error" in head:
            error = _ERRORS[head["error"]](head["message"])
        else:
            headers = tuple((name, value) for name, value in head["headers"])
            response = StoredResponse(head["status"], head["reason"], headers, data[4 + length :])
            return Record(
                response,
                head["model"],
                head["version"],
                head["survives"],
                head["stored_at"],
                head["lifetime"],
            )
    except (KeyError, TypeError, ValueError, struct.error) as problem:
        raise UnreadableError("sealed by a member of another version") from problem
    raise error
