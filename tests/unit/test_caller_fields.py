"""Which request fields tell callers apart: the classes, and what lies between their names."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlflow_proxy.mlflow_api.caller_fields import ROWS, WELL_KNOWN, CallerFields, Tells, names, row_of


def _words(text: str) -> list[str]:
    return text.split()


NEUTRAL = _words("""
    traceparent tracestate b3 x-b3-traceid x-b3-spanid x-b3-parentspanid x-b3-sampled x-b3-flags
    x-datadog-trace-id x-datadog-parent-id x-datadog-sampling-priority x-datadog-origin x-datadog-tags
    sentry-trace x-amzn-trace-id x-cloud-trace-context grpc-trace-bin newrelic x-newrelic-id
    x-newrelic-transaction uber-trace-id elastic-apm-traceparent request-id request-context
    x-ms-client-request-id x-request-id x-correlation-id x-request-start x-envoy-attempt-count
    x-envoy-expected-rq-timeout-ms cf-ray x-azure-ref x-amz-cf-id x-mlflow-client-version
    notebook_id job_id job_run_id job_type cluster_id command_run_id workload_id workload_class
    user-agent accept accept-encoding accept-language content-type content-length host
""")
ADDRESS = _words("""
    x-forwarded-for x-original-forwarded-for x-real-ip x-client-ip true-client-ip x-cluster-client-ip
    cf-connecting-ip cf-connecting-ipv6 cf-ipcountry fastly-client-ip x-azure-clientip x-azure-socketip
    x-envoy-external-address
""")
COUNTED = _words("""
    via x-forwarded-host x-forwarded-proto x-forwarded-port x-forwarded-prefix x-forwarded-server
    x-mlflow-workspace x-databricks-org-id x-databricks-azure-sp-management-token x-databricks-traffic-id
    x-databricks-anything x-forwarded-user x-forwarded-email x-forwarded-groups x-forwarded-access-token
    x-auth-request-user x-auth-request-access-token x-amzn-oidc-data x-amzn-oidc-anything
    cf-access-jwt-assertion cf-access-anything x-goog-iap-jwt-assertion x-goog-iap-anything
    x-ms-token-aad-access-token x-ms-token-anything remote-user x-api-key origin x-unheard-of job-id
    x-http-method-override
""")

values = st.text(string.ascii_letters + string.digits + "-.:/ ", max_size=20)


@pytest.mark.parametrize(
    ("tells", "name"),
    [
        *((Tells.NEUTRAL, name) for name in NEUTRAL),
        *((Tells.ADDRESS, name) for name in ADDRESS),
        *((Tells.COUNTED, name) for name in COUNTED),
        (Tells.CREDENTIAL, "authorization"),
    ],
)
def test_every_field_is_of_its_class_however_it_is_written(tells: Tells, name: str) -> None:
    for spelling in (name, name.upper(), name.title()):
        assert WELL_KNOWN.tells(spelling, "v")[0] is tells, spelling


def test_no_name_stands_in_two_rows_and_every_row_says_why() -> None:
    every = [name for row in ROWS for name in row.names]
    assert len(every) == len(set(every))
    assert all(name == name.lower() for name in every)
    assert all(row.why and row.source for row in ROWS)
    assert all(row.tells in {Tells.COUNTED, Tells.CREDENTIAL} for row in ROWS if row.fixed)


@given(
    st.sampled_from([name for row in ROWS for name in row.names]),
    st.integers(0, 40),
    st.sampled_from([*string.ascii_lowercase, *string.digits, "_", "-", "."]),
    st.sampled_from(["put in", "replaced", "left out"]),
    values,
)
def test_a_name_that_is_almost_another_counts(
    name: str, position: int, letter: str, change: str, value: str
) -> None:
    position %= len(name)
    middle = {"put in": letter + name[position], "replaced": letter, "left out": ""}[change]
    almost = name[:position] + middle + name[position + 1 :]
    assume(almost and row_of(almost) is None)
    assert WELL_KNOWN.tells(almost, value) == (Tells.COUNTED, value)


@given(st.sampled_from(sorted(names(Tells.NEUTRAL) | names(Tells.ADDRESS))), values)
def test_underscores_are_no_hyphens(name: str, value: str) -> None:
    # Gateways of some servers take one for the other (X_Forwarded_User), so that it may be an identity.
    other = name.replace("-", "_")
    assume(other != name)
    assert WELL_KNOWN.tells(other, value)[0] is Tells.COUNTED


def test_neutral_fields_are_gone_however_often_and_long_they_come() -> None:
    long = "x" * 30 * 1024
    told = WELL_KNOWN.identity(
        [("X-Request-Id", long), ("x-request-id", "2"), ("X-MLFLOW-WORKSPACE", "a"), ("traceparent", long)]
    )
    assert told.fields == (("X-Mlflow-Workspace", "a"),)


def test_what_goes_out_is_in_order_within_its_class() -> None:
    told = WELL_KNOWN.identity(
        [
            ("x-forwarded-for", "10.0.0.1"),
            ("AUTHORIZATION", "Bearer t"),
            ("via", "1.1 a"),
            ("X-Real-Ip", "10.0.0.2"),
            ("via", "1.1 b"),
        ]
    )
    assert told.counted == (("Via", "1.1 a"), ("Via", "1.1 b"))
    assert told.credential == (("Authorization", "Bearer t"),)
    assert told.address == (("X-Forwarded-For", "10.0.0.1"), ("X-Real-Ip", "10.0.0.2"))
    assert told.fields == (*told.counted, *told.credential, *told.address)


@pytest.mark.parametrize(
    ("cookie", "left"),
    [
        ("AWSALB=a", ""),
        ("AWSALB=a; AWSALBCORS=b; AWSALBTG=c; AWSALBTGCORS=d", ""),
        ("AWSALBAPP-0=a; AWSALBAPP-12=b", ""),
        ("ARRAffinity=a; ARRAffinitySameSite=b; GCLB=c", ""),
        ("BIGipServerpool_one=a; BIGipServer~Common~p=b", ""),
        ("AWSALB=a; session=s", "session=s"),
        ("session=s; AWSALB=a; other=o", "session=s; other=o"),
        ("session=s;AWSALB=a", "session=s"),
        ("", ""),
        (";; ", ""),
        ("awsalb=a", "awsalb=a"),
        ("AWSALBX=a; AWSALBAPP-=b; AWSALBAPP-x=c", "AWSALBX=a; AWSALBAPP-=b; AWSALBAPP-x=c"),
        ("AWSALB", ""),
        ("session", "session"),
        ('AWSALB="a"', 'AWSALB="a"'),
        ("AWSALB=a, session=s", "AWSALB=a, session=s"),
        ("$Version=1; AWSALB=a", "$Version=1; AWSALB=a"),
    ],
)
def test_cookies_count_one_by_one(cookie: str, left: str) -> None:
    assert WELL_KNOWN.tells("Cookie", cookie) == (Tells.COUNTED if left else Tells.NEUTRAL, left)


@pytest.mark.parametrize(
    ("value", "tells"),
    [
        ("sentry-trace_id=1,sentry-release=2", Tells.NEUTRAL),
        ("sentry-trace_id=1; p=q , sentry-x=2", Tells.NEUTRAL),
        ("sentry-trace_id=1,user=alice", Tells.COUNTED),
        ("user=alice", Tells.COUNTED),
        ("sentry=1", Tells.COUNTED),
        ("", Tells.COUNTED),
        ("sentry-a=1,,", Tells.COUNTED),
    ],
)
def test_baggage_is_neutral_if_all_of_it_is_a_trace(value: str, tells: Tells) -> None:
    assert WELL_KNOWN.tells("Baggage", value)[0] is tells


@pytest.mark.parametrize(
    ("value", "tells"),
    [
        ("for=10.0.0.1", Tells.ADDRESS),
        ('for=10.0.0.1, For="[2001:db8::1]:80";by=10.0.0.2', Tells.ADDRESS),
        ("for = _hidden ; by=_proxy", Tells.ADDRESS),
        ("for=10.0.0.1;host=example.com", Tells.COUNTED),
        ("for=10.0.0.1;proto=https", Tells.COUNTED),
        ("for=10.0.0.1;secret=x", Tells.COUNTED),
        ('for="a;host=b"', Tells.COUNTED),
        ('for="a\\";host=b"', Tells.COUNTED),
        ('for="a', Tells.COUNTED),
        ("", Tells.COUNTED),
        ("10.0.0.1", Tells.COUNTED),
    ],
)
def test_forwarded_is_an_address_if_it_says_nothing_else(value: str, tells: Tells) -> None:
    assert WELL_KNOWN.tells("Forwarded", value)[0] is tells


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("X-Forwarded-For", "10.0.0.1:51234", "10.0.0.1"),
        ("X-Forwarded-For", "203.0.113.9:443, 10.0.0.1:51234", "203.0.113.9, 10.0.0.1"),
        ("X-Forwarded-For", "[2001:db8::1]:80, 2001:db8::2", "[2001:db8::1], 2001:db8::2"),
        ("Forwarded", 'for="10.0.0.1:51234";by="[2001:db8::1]:80"', 'for="10.0.0.1";by="[2001:db8::1]"'),
        ("X-Real-IP", "10.0.0.1", "10.0.0.1"),
        ("X-Real-IP", "2001:db8::10.0.0.1:80", "2001:db8::10.0.0.1:80"),
        (
            "X-Forwarded-For",
            "10.0.0.1:51234x, 1.2.3.4.5:6, 10.0.0.1:",
            "10.0.0.1:51234x, 1.2.3.4.5:6, 10.0.0.1:",
        ),
        ("X-Api-Key", "10.0.0.1:51234", "10.0.0.1:51234"),
    ],
)
def test_the_port_of_a_connection_is_no_address(name: str, value: str, left: str) -> None:
    assert WELL_KNOWN.tells(name, value)[1] == left


def test_a_long_forwarded_field_is_read_at_once() -> None:
    # Would take for ever if its expression had two ways to read the same text.
    assert WELL_KNOWN.tells("Forwarded", "for=" + " " * 30_000 + "for=" * 8_000)[0] is Tells.COUNTED


def test_an_operator_can_add_names() -> None:
    fields = CallerFields(neutral={"X-My-Trace", "X-Forwarded-For"}, neutral_cookies={"SERVERID"})
    told = fields.identity(
        [("x-my-trace", "1"), ("x-forwarded-for", "10.0.0.1"), ("Cookie", "SERVERID=a; serverid=b")]
    )
    assert told.fields == (("Cookie", "serverid=b"),)
