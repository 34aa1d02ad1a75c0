"""Content codings are undone within bounds, or the answer is broken."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.errors import BadGatewayError, TooLargeToShareError, UnknownCodingError
from mlflow_proxy.upstream.decoding import decoded

LIMIT = 1_000_000
TEXT = b'{"files": []}' * 1000
PACKED = gzip.compress(TEXT)


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


CODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@given(st.binary(max_size=3000), st.lists(st.sampled_from(["gzip", "deflate"]), max_size=2))
def test_what_was_coded_is_decoded(body: bytes, codings: list[str]) -> None:
    packed = body
    for coding in codings:
        packed = CODERS[coding](packed)
    assert decoded(packed, codings, LIMIT) == body
    assert decoded(packed, [", ".join(codings)], LIMIT) == body


@given(st.binary(max_size=3000))
def test_the_other_deflate_is_understood(body: bytes) -> None:
    assert decoded(raw_deflate(body), ["deflate"], LIMIT) == body


@pytest.mark.parametrize("coding", ["GZip", "x-gzip", " gzip ", "identity, gzip", "gzip,"])
def test_spellings(coding: str) -> None:
    assert decoded(PACKED, [coding], LIMIT) == TEXT


@pytest.mark.parametrize("codings", [[], ["identity"], [""], ["gzip"], ["deflate"]])
def test_nothing_stays_nothing(codings: list[str]) -> None:
    assert decoded(b"", codings, LIMIT) == b""


def test_members_follow_one_another() -> None:
    large = bytes(200_000)
    assert decoded(PACKED + gzip.compress(large) + PACKED, ["gzip"], LIMIT) == TEXT + large + TEXT


@pytest.mark.parametrize(
    "coding", ["br", "zstd", "compress", "gzip, br", "br, gzip", "aes128gcm", "*", "gzip;q=1"]
)
def test_codings_that_were_not_asked_for(coding: str) -> None:
    with pytest.raises(UnknownCodingError):
        decoded(PACKED, [coding], LIMIT)


def test_more_codings_than_anyone_means() -> None:
    with pytest.raises(UnknownCodingError):
        decoded(PACKED, ["gzip"] * 3, LIMIT)


def flipped(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at:][1:]


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        pytest.param("gzip", TEXT, id="not coded at all"),
        pytest.param("deflate", TEXT, id="not coded at all"),
        pytest.param("gzip", b"\x1f", id="a beginning"),
        pytest.param("deflate", b"\x78", id="a beginning"),
        pytest.param("gzip", PACKED + b"garbage", id="garbage after it"),
        pytest.param("gzip", PACKED + b"\0", id="zeros after it"),
        pytest.param("deflate", zlib.compress(TEXT) + b"x", id="garbage after it"),
        pytest.param("deflate", zlib.compress(TEXT) * 2, id="two bodies"),
        pytest.param("gzip", flipped(PACKED, -8), id="another checksum"),
        pytest.param("gzip", flipped(PACKED, -1), id="another length"),
        pytest.param("deflate", flipped(zlib.compress(TEXT), -1), id="another checksum"),
        pytest.param("gzip", zlib.compress(TEXT), id="deflate that says gzip"),
        pytest.param("gzip", gzip.compress(b"") * 17, id="more members than anyone makes"),
        pytest.param("gzip", PACKED + PACKED[:-1], id="a second that ends early"),
        pytest.param("gzip, gzip", PACKED, id="coded once, said twice"),
    ],
)
def test_what_is_broken(coding: str, body: bytes) -> None:
    with pytest.raises(BadGatewayError, match="does not decode"):
        decoded(body, [coding], LIMIT)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_an_early_end_is_seen_wherever_it_is(coding: str) -> None:
    body = CODERS[coding](b"some text, some text")
    for end in range(1, len(body)):
        with pytest.raises(BadGatewayError):
            decoded(body[:end], [coding], LIMIT)


@given(st.binary(min_size=1, max_size=300), st.sampled_from(["gzip", "deflate", "gzip, deflate"]))
def test_any_bytes_decode_or_are_broken(body: bytes, coding: str) -> None:
    try:
        assert len(decoded(body, [coding], 1000)) <= 1000
    except (BadGatewayError, TooLargeToShareError):
        return


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_the_limit_is_exact(coding: str) -> None:
    for size in (LIMIT - 1, LIMIT):
        assert len(decoded(CODERS[coding](bytes(size)), [coding], LIMIT)) == size
    for size in (LIMIT + 1, 2 * LIMIT):
        with pytest.raises(TooLargeToShareError):
            decoded(CODERS[coding](bytes(size)), [coding], LIMIT)


@pytest.mark.parametrize("codings", [1, 2])
def test_no_more_is_ever_decoded_than_the_limit(codings: int) -> None:
    bomb = bytes(200 * LIMIT)
    for _ in range(codings):
        bomb = gzip.compress(bomb)
    if codings == 2:
        # So that the inner one is what bursts: its coded form is within the limit, if barely.
        assert len(gzip.decompress(bomb)) < LIMIT
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeToShareError):
            decoded(bomb, ["gzip"] * codings, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * LIMIT, "its copies, but none of the 200 times as much"


def test_many_members_do_not_take_ever_longer() -> None:
    counts = []
    for members in (17, 10_000):
        tracemalloc.start()
        with pytest.raises(BadGatewayError):
            decoded(gzip.compress(b"") * members, ["gzip"], LIMIT)
        counts.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert all(later < earlier + 200_000 for earlier, later in pairwise(counts)), (
        "no copies of all that follows"
    )
