"""A job whose requests a real tracing library marks: enables the one that TRACING names, then downloads."""

import os
import runpy
from pathlib import Path


def opentelemetry() -> None:
    """Trace each request; OTEL_PROPAGATORS says by which fields."""
    from opentelemetry import trace  # type: ignore[import-not-found, unused-ignore]
    from opentelemetry.instrumentation.requests import (  # type: ignore[import-not-found, unused-ignore]
        RequestsInstrumentor,
    )
    from opentelemetry.sdk.trace import TracerProvider  # type: ignore[import-not-found, unused-ignore]

    trace.set_tracer_provider(TracerProvider())
    RequestsInstrumentor().instrument()


def sentry() -> None:
    """Trace each request as a part of the job, and report to nobody."""
    import sentry_sdk  # type: ignore[import-not-found, unused-ignore]

    sentry_sdk.init("http://public@127.0.0.1:9/1", traces_sample_rate=1.0, transport=lambda _: None)
    sentry_sdk.start_transaction(op="job", name="nightly").__enter__()


{"opentelemetry": opentelemetry, "sentry": sentry}[os.environ["TRACING"]]()
runpy.run_path(str(Path(__file__).with_name("download.py")), run_name="__main__")
