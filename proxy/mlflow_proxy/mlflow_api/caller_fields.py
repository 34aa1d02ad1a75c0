"""Which request fields tell one caller from another: one table of exact names. Pure.

A field that only names a hop, a trace or a client's version must not split what callers share; one that may
be a credential or may choose the answer must. Leaving a field out of a shared call can also make a
*restriction* disappear (a gateway's ``X-Forwarded-User``, the address that a firewall looks at), so there are
four classes:

    =============  ===========  ================  =====================  ==============================
    class          own answers  share of the      common answers of      goes out with a shared call
                                budget            callers with proofs
    =============  ===========  ================  =====================  ==============================
    NEUTRAL        no           no                no                     no
    ADDRESS        yes          no                no                     yes
    CREDENTIAL     yes          yes               no                     yes
    COUNTED        yes          yes               yes                    yes
    =============  ===========  ================  =====================  ==============================

A name that has no row is COUNTED: it may be a credential unknown to this proxy. Names are
compared without case and otherwise exactly; there are no wildcards, since ``x-forwarded-*`` would take in
identities.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from mlflow_proxy.mlflow_api.headers import CLIENT, HOP_BY_HOP, PARTIAL, Fields


class Tells(Enum):
    """What a request field says about the caller."""

    NEUTRAL = "nothing: it names a hop, a trace, a version, or the form of the message"
    ADDRESS = "where the caller is: a server may refuse an address, but answers all that it allows alike"
    CREDENTIAL = "who the caller is, by the workspace's own credential"
    COUNTED = "who the caller is, or what it asks for"


@dataclass(frozen=True, slots=True)
class Row:
    """Some fields of one class, by their names in lower case, and why they are in it.

    ``fixed`` rows may not be declared neutral by the operator's settings.
    """

    tells: Tells
    names: tuple[str, ...]
    why: str
    source: str
    fixed: bool = False


def _row(tells: Tells, names: str, why: str, source: str, *, fixed: bool = False) -> Row:
    return Row(tells, tuple(names.split()), why, source, fixed)


ROWS: tuple[Row, ...] = (
    # The message itself
    Row(Tells.NEUTRAL, tuple(sorted(HOP_BY_HOP)), "belongs to one connection", "RFC 9110 section 7.6.1"),
    Row(
        Tells.NEUTRAL,
        tuple(sorted(PARTIAL)),
        "asks for less than the whole answer, which is what is shared",
        "RFC 9110 sections 13.1 and 14.2",
    ),
    _row(
        Tells.NEUTRAL,
        "accept accept-encoding accept-language content-length content-type expect host",
        "the form of the message; a shared call has a form of its own",
        "RFC 9110 sections 7.2, 8 and 12.5",
    ),
    _row(Tells.NEUTRAL, "cache-control pragma", "meant for caches, obeyed by this one", "RFC 9111 section 5"),
    _row(Tells.NEUTRAL, "referer user-agent", "what software asks, and from where", "RFC 9110 section 10.1"),
    _row(Tells.NEUTRAL, CLIENT.lower(), "a proxy's word on whose turn it is", "this proxy"),
    # Traces: a new value for each call
    _row(Tells.NEUTRAL, "traceparent tracestate", "trace", "W3C Trace Context"),
    _row(
        Tells.NEUTRAL,
        "b3 x-b3-traceid x-b3-spanid x-b3-parentspanid x-b3-sampled x-b3-flags",
        "trace",
        "openzipkin b3-propagation",
    ),
    _row(
        Tells.NEUTRAL,
        "x-datadog-trace-id x-datadog-parent-id x-datadog-sampling-priority x-datadog-origin x-datadog-tags",
        "trace",
        "Datadog trace context propagation",
    ),
    _row(Tells.NEUTRAL, "sentry-trace", "trace", "Sentry SDK development, trace propagation"),
    _row(Tells.NEUTRAL, "x-amzn-trace-id", "trace", "AWS X-Ray, Application Load Balancer"),
    _row(Tells.NEUTRAL, "x-cloud-trace-context", "trace", "Google Cloud Trace"),
    _row(Tells.NEUTRAL, "grpc-trace-bin", "trace", "OpenCensus"),
    _row(Tells.NEUTRAL, "newrelic x-newrelic-id x-newrelic-transaction", "trace", "New Relic agents"),
    _row(Tells.NEUTRAL, "uber-trace-id", "trace", "Jaeger client libraries"),
    _row(Tells.NEUTRAL, "elastic-apm-traceparent", "trace", "Elastic APM agents"),
    _row(
        Tells.NEUTRAL,
        "request-id request-context x-ms-client-request-id",
        "trace",
        "Application Insights and Azure SDK request correlation",
    ),
    _row(Tells.NEUTRAL, "x-request-id x-correlation-id", "names one request", "Envoy, nginx, Heroku"),
    # Load balancers and meshes: a new value for each hop
    _row(Tells.NEUTRAL, "x-request-start", "when a router took the request", "Heroku, New Relic"),
    _row(
        Tells.NEUTRAL,
        "x-envoy-attempt-count x-envoy-expected-rq-timeout-ms",
        "how a mesh routes the request",
        "Envoy, router filter",
    ),
    _row(Tells.NEUTRAL, "cf-ray", "names one request", "Cloudflare HTTP headers"),
    _row(Tells.NEUTRAL, "x-azure-ref", "names one request", "Azure Front Door HTTP headers"),
    _row(Tells.NEUTRAL, "x-amz-cf-id", "names one request", "Amazon CloudFront HTTP headers"),
    # MLflow's own
    _row(Tells.NEUTRAL, "x-mlflow-client-version", "what software asks", "mlflow 3, utils/rest_utils.py"),
    _row(
        Tells.NEUTRAL,
        "notebook_id job_id job_run_id job_type cluster_id command_run_id workload_id workload_class",
        "in which job a client runs, a new value for each run; for the vendor's statistics",
        "mlflow 1.30 to 3.17, tracking/request_header/databricks_request_header_provider.py",
    ),
    # Addresses
    _row(
        Tells.ADDRESS,
        "x-forwarded-for x-original-forwarded-for x-real-ip x-client-ip true-client-ip x-cluster-client-ip",
        "address of the caller",
        "load balancers; nginx, Akamai, Rackspace",
    ),
    _row(
        Tells.ADDRESS,
        "cf-connecting-ip cf-connecting-ipv6 cf-ipcountry fastly-client-ip",
        "address of the caller",
        "Cloudflare and Fastly HTTP headers",
    ),
    _row(
        Tells.ADDRESS,
        "x-azure-clientip x-azure-socketip x-envoy-external-address",
        "address of the caller",
        "Azure Front Door HTTP headers; Envoy",
    ),
    # Credentials, identities, and what chooses the answer
    _row(
        Tells.CREDENTIAL,
        "authorization",
        "the workspace's credential, which a proof of access is about",
        "RFC 9110 section 11.6.2",
        fixed=True,
    ),
    _row(Tells.COUNTED, "cookie", "may hold a session; its pairs count one by one", "RFC 6265", fixed=True),
    _row(
        Tells.COUNTED,
        "x-mlflow-workspace",
        "chooses the tenant: the same names mean other models",
        "mlflow 3, multi-tenancy",
        fixed=True,
    ),
    _row(
        Tells.COUNTED,
        "x-databricks-org-id x-databricks-azure-sp-management-token x-databricks-azure-workspace-resource-id "
        "x-databricks-gcp-sa-access-token x-databricks-traffic-id",
        "chooses the workspace, the account or the route to it, or is a credential",
        "databricks-sdk, credentials_provider.py; mlflow, utils/rest_utils.py",
        fixed=True,
    ),
    _row(
        Tells.COUNTED,
        "x-forwarded-user x-forwarded-email x-forwarded-groups x-forwarded-preferred-username "
        "x-forwarded-access-token x-auth-request-user x-auth-request-email x-auth-request-groups "
        "x-auth-request-access-token x-auth-request-preferred-username",
        "identity that a gateway vouches for",
        "oauth2-proxy, Databricks Apps",
        fixed=True,
    ),
    _row(
        Tells.COUNTED,
        "x-amzn-oidc-data x-amzn-oidc-identity x-amzn-oidc-accesstoken cf-access-jwt-assertion "
        "cf-access-authenticated-user-email cf-access-client-id cf-access-client-secret "
        "x-goog-iap-jwt-assertion x-goog-authenticated-user-email x-goog-authenticated-user-id "
        "x-ms-token-aad-access-token x-ms-token-aad-id-token x-ms-client-principal "
        "x-ms-client-principal-id x-ms-client-principal-name",
        "identity that a gateway vouches for",
        "AWS ALB, Cloudflare Access, Google IAP and Azure App Service documentation",
        fixed=True,
    ),
    _row(
        Tells.COUNTED,
        "remote-user x-remote-user x-remote-group x-webauth-user x-api-key",
        "identity or key by convention",
        "CGI (RFC 3875 section 4.1.11), Kubernetes authenticating proxy, Grafana auth proxy; API gateways",
        fixed=True,
    ),
    _row(
        Tells.COUNTED,
        "via x-forwarded-host x-forwarded-proto x-forwarded-port x-forwarded-prefix x-forwarded-server",
        "may choose the answer (virtual hosts); constant for each way in, so that it costs nothing to count",
        "RFC 9110 section 7.6.3; nginx, Traefik, Apache httpd",
    ),
    _row(
        Tells.COUNTED,
        "origin",
        "servers answer it with Access-Control-Allow-Origin",
        "Fetch, section 3.3",
    ),
    # By their values
    _row(
        Tells.COUNTED,
        "baggage",
        "carries whatever an application put there; neutral if all keys begin with sentry-",
        "W3C Baggage; Sentry SDK development",
    ),
    _row(
        Tells.COUNTED,
        "forwarded",
        "an address if it says nothing but for and by; host and proto may choose the answer",
        "RFC 7239",
    ),
)

_BY_NAME = {name: row for row in ROWS for name in row.names}

STICKY_COOKIES = re.compile(
    r"AWSALB|AWSALBCORS|AWSALBAPP-[0-9]+|AWSALBTG|AWSALBTGCORS"  # Application Load Balancer
    r"|ARRAffinity|ARRAffinitySameSite"  # Azure App Service
    r"|GCLB"  # Google Cloud Load Balancing
    r"|BIGipServer[^=]*"  # F5 BIG-IP: followed by the name of a pool
)
"""Names of cookies by which load balancers keep a client at one server. They are their own invention, hold no
identity, and change while a client does not."""

_NOT_PLAIN_COOKIES = re.compile(r'[",$]|[^;\s]\s+[^;\s]')
"""What servers read in different ways in a Cookie field (RFC 2109, RFC 2965 and RFC 6265 differ); Python's
``http.cookies`` begins a new pair after a blank."""
_PORT = re.compile(r"((?<![\w.:])[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9a-fA-F:.]{2,45}\]):[0-9]{1,5}(?![\w.:])")
"""An address of IPv4, or of IPv6 in brackets, and its port."""
_ONLY_ADDRESSES = re.compile(
    r"(?:\s*(?:for|by)\s*=\s*(?:\"[^\"\\;,=]*\"|[^\s;,\"\\=]+)\s*(?:[;,]|$))+", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class CallerIdentity:
    """What a request's fields say about its caller: those that count, by class, as they go out.

    Names are spelt alike, so that equal callers ask equally; within a class fields keep their order.
    """

    counted: tuple[tuple[str, str], ...]
    credential: tuple[tuple[str, str], ...] = ()
    address: tuple[tuple[str, str], ...] = ()

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """All of them: what goes out with a call that others may share."""
        return (*self.counted, *self.credential, *self.address)


ANONYMOUS = CallerIdentity(())
"""For requests on behalf of no caller: no field counts."""


class CallerFields:
    """The table, and the names that an operator added to it as neutral: fields and cookies."""

    def __init__(self, neutral: Iterable[str] = (), neutral_cookies: Iterable[str] = ()) -> None:
        self._neutral = frozenset(name.lower() for name in neutral) | names(Tells.NEUTRAL)
        self._cookies = frozenset(neutral_cookies)

    def tells(self, name: str, value: str) -> tuple[Tells, str]:
        """Return the class of a field, and what is left of its value without what is neutral in it."""
        lower = name.lower()
        if lower in self._neutral:
            return Tells.NEUTRAL, ""
        row = _BY_NAME.get(lower)
        if row is None:
            return Tells.COUNTED, value
        match lower:
            case "cookie":
                left = self._counted_cookies(value)
                return (Tells.COUNTED, left) if left else (Tells.NEUTRAL, "")
            case "baggage" if all(member.strip().startswith("sentry-") for member in value.split(",")):
                return Tells.NEUTRAL, ""
            case "forwarded" if _ONLY_ADDRESSES.fullmatch(value):
                return Tells.ADDRESS, _without_ports(value)
            case _ if row.tells is Tells.ADDRESS:
                return Tells.ADDRESS, _without_ports(value)
            case _:
                return row.tells, value

    def identity(self, headers: Fields) -> CallerIdentity:
        """Return what the fields of a request say about its caller."""
        counted: list[tuple[str, str]] = []
        credential: list[tuple[str, str]] = []
        address: list[tuple[str, str]] = []
        for name, value in headers:
            tells, left = self.tells(name, value)
            if tells is Tells.COUNTED:
                counted.append((_spelt(name), left))
            elif tells is Tells.CREDENTIAL:
                credential.append((_spelt(name), left))
            elif tells is Tells.ADDRESS:
                address.append((_spelt(name), left))
        return CallerIdentity(tuple(counted), tuple(credential), tuple(address))

    def _counted_cookies(self, value: str) -> str:
        """Return the pairs of a Cookie field that count; all of it where servers may read it differently."""
        if not cookies_count_apart(value):
            return value
        return "; ".join(pair for name, pair in cookie_pairs(value) if not self._is_sticky(name))

    def _is_sticky(self, name: str) -> bool:
        return name in self._cookies or STICKY_COOKIES.fullmatch(name) is not None


def cookies_count_apart(value: str) -> bool:
    """Whether the pairs of a Cookie field count one by one, and not all of it as a whole."""
    return _NOT_PLAIN_COOKIES.search(value) is None


def cookie_pairs(value: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each pair of a Cookie field, and the pair (RFC 6265 section 4.2.1)."""
    for pair in value.split(";"):
        stripped = pair.strip(" \t")
        if stripped:
            yield stripped.partition("=")[0].rstrip(" \t"), stripped


def _without_ports(value: str) -> str:
    """Return addresses without the ports that some balancers add: a new one for each connection."""
    return _PORT.sub(r"\1", value)


def names(tells: Tells) -> frozenset[str]:
    """Return the names of a class, in lower case; without those whose values decide."""
    return frozenset(name for row in ROWS if row.tells is tells for name in row.names)


def row_of(name: str) -> Row | None:
    """Return the row of a field, None for a name that has none."""
    return _BY_NAME.get(name.lower())


@lru_cache(maxsize=128)  # names are 32 KiB at most, and usually the same few
def _spelt(name: str) -> str:
    """Return a field's name as all calls spell it."""
    return "-".join(part.capitalize() for part in name.lower().split("-"))


WELL_KNOWN = CallerFields()
"""The table alone."""
