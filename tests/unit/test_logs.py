"""Secrets do not reach the logs."""

import json
import logging
import string
import sys

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy import logs

SECRET_PLACES = [
    "Authorization: Bearer {}",
    "authorization: bearer   {}",
    "Authorization: Basic {}",
    "{{'Authorization': 'Bearer {}'}}",
    "https://b.s3.amazonaws.com/k?X-Amz-Expires=900&X-Amz-Signature={}&x=1",
    "https://b/k?X-Amz-Security-Token={}&x=1",
    "https://a.blob.core.windows.net/c/b?se=2026&sig={}",
    "https://a/c?SIG={}&se=2026",
    "https://storage.googleapis.com/b/o?X-Goog-Signature={}",
    "https://b/k?AWSAccessKeyId=A&Signature={}&Expires=1",
    "https://h/cb?token={}",
    'GET "https://h/?password={}" failed',
]
# What the values of header fields and query parameters are made of.
secrets = st.text(string.ascii_letters + string.digits + "-._~+/=%", min_size=12, max_size=60)


@given(st.sampled_from(SECRET_PLACES), secrets, st.text(max_size=10))
def test_no_secret_survives(place: str, secret: str, before: str) -> None:
    assert secret not in logs.redact(f"{before} {place.format(secret)} and more")


@given(st.text("0123456789abcdef", min_size=16, max_size=40), st.sampled_from(["", "-2", "-3"]))
def test_no_databricks_token_survives_wherever_it_stands(digits: str, suffix: str) -> None:
    redacted = logs.redact(f"got dapi{digits}{suffix}, (dose{digits}) 'dkea{digits}'")
    assert digits not in redacted
    assert redacted.count("[redacted]") == 3


@pytest.mark.parametrize(
    "text",
    [
        "GET /api/2.0/mlflow/registered-models/get?name=m",
        "se=2026-03-01 X-Amz-Expires=900 Expires=1",
        "design=1 bearer",
        "dapi is a prefix",
    ],
)
def test_the_rest_is_left_alone(text: str) -> None:
    assert logs.redact(text) == text


@pytest.mark.parametrize("form", ["json", "console"])
def test_all_ways_into_the_log_are_redacted(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "json" if form == "json" else "console")
    log = structlog.get_logger()
    log.info("to sig=S3CRET", url="https://h/?sig=S3CRET", authorization="S3CRET", Cookie="S3CRET")
    logging.getLogger("library").warning("sent %s", "Bearer S3CRET")
    try:
        raise ValueError("https://h/?sig=S3CRET")
    except ValueError:
        log.exception("failed")
        logging.getLogger("library").exception("failed")
    text = capfd.readouterr().err
    assert "S3CRET" not in text
    assert text.count("[redacted]") >= 7
    if form == "json":
        assert [json.loads(line)["level"] for line in text.splitlines()] == [
            "info",
            "warning",
            "error",
            "error",
        ]


FORGED = "2026-01-01T00:00:00Z [error    ] forged"
BREAKS = [
    "\n",
    "\r",
    "\r\n",
    "\x0b",
    "\x0c",
    "\x1b[2K\x1b[1G",
    "\x85",
    "\u2028",
    "\u2029",
    "\u202e",
    "\0",
    "\udcff\n",
]


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("between", BREAKS)
def test_no_value_forges_a_line(form: str, between: str, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "json" if form == "json" else "console")
    log, text = structlog.get_logger(), f"m{between}{FORGED}"
    log.info("failed", model=text, number=[text])
    log.info(text)
    logging.getLogger("library").warning("said %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    lines = capfd.readouterr().err.splitlines()
    assert not any(line.startswith(FORGED) for line in lines)
    assert len([line for line in lines if line.strip() and not line.startswith(" ")]) == (
        4 if form == "json" else 5
    )
    assert all(line.isprintable() for line in lines)
    if form == "json":
        assert json.loads(lines[0])["model"] == text


def test_the_level_is_a_threshold(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json")
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    structlog.get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()] == ["loud"]


def test_a_line_that_cannot_be_put_in_form_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    before = logs.dropped()
    logging.getLogger("library").warning("%d", "no number")
    logging.getLogger("library").warning("%d", 1)
    assert [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()] == ["1"]
    assert logs.dropped() == before + 1


def test_the_middle_of_a_long_value_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger().info("long", value=f"begin {'x' * 50_000} sig=S3CRET end")
    value = json.loads(capfd.readouterr().err)["value"]
    assert len(value) < 20_000
    assert value.startswith("begin ")
    assert value.endswith(" sig=[redacted] end")


def test_what_the_interpreter_reports_is_a_line_too(capfd: pytest.CaptureFixture[str]) -> None:
    with logs.in_background():
        print("https://h/?sig=S3CRET", file=sys.stderr)
    assert capfd.readouterr().err == "https://h/?sig=[redacted]\n"
