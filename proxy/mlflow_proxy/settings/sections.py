"""The settings of `mlflow-proxy serve`: each one's name, meaning, default and bounds.

Durations are seconds. ``config.example.toml`` documents every setting, and a test holds it to that.
"""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import NoDecode

from mlflow_proxy.mlflow_api.routes import Group
from mlflow_proxy.settings.kinds import (
    CookieNames,
    FieldNames,
    File,
    OptionalAddresses,
    PositiveSeconds,
    Seconds,
    Secret,
    Size,
    key_of,
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CacheSettings(_Section):
    """What is stored and for how long."""

    max_bytes: Size = Field(ByteSize(256 * 2**20), description="memory for stored answers")
    memo_bytes: ByteSize = Field(
        ByteSize(32 * 2**20),
        ge=0,
        description="memory beside max_bytes for answers that are kept as they were sent; 0 for none",
    )
    max_entry_bytes: Size = Field(
        ByteSize(8 * 2**20), description="answers larger than this are streamed and not stored"
    )
    listing_ttl: Seconds = Field(3600, description="file listings of READY model versions")
    unverified_ttl: Seconds = Field(60, description="file listings of versions whose status is not known")
    pending_ttl: Seconds = Field(5, description="file listings of versions that are not READY")
    mutable_ttl: Seconds = Field(5, description="aliases, stages, latest versions, searches")
    not_found_ttl: Seconds = Field(5, description="404 answers")
    discovery_ttl: Seconds = Field(3600, description="/.well-known documents of the workspace")
    stale_if_error: Seconds = Field(
        0, description="how long expired listings of READY versions are served while the workspace is down"
    )
    signed_url_ttl: Seconds = Field(
        900, description="signed URLs at most, however late they say that they expire"
    )
    signed_url_margin: Seconds = Field(
        120, description="a signed URL is not given out in the last seconds before it expires"
    )


class BudgetSettings(_Section):
    """The workspace's limits; 0 for none."""

    registry_limit: int = Field(
        40, ge=0, description="calls per second to the Workspace Model Registry API, all clients together"
    )
    runs_search_limit: int = Field(7, ge=0, description="calls per second to runs/search")
    experiments_limit: int = Field(
        7, ge=0, description="calls per second that create, update, delete, restore or list experiments"
    )
    log_batch_limit: int = Field(47, ge=0, description="calls per second to runs/log-batch")
    tracking_limit: int = Field(127, ge=0, description="calls per second to the rest of the tracking API")
    floor: float = Field(
        1,
        gt=0,
        allow_inf_nan=False,
        description="calls per second kept up however often the workspace refuses",
    )
    background_share: float = Field(
        0.25, gt=0, le=1, description="of a limit, for calls that no client waits for"
    )
    queue_per_client: int = Field(2_000, ge=1, description="calls that one client may have waiting")
    queue_total: int = Field(10_000, ge=1, description="calls that may wait for one limit")
    jitter_margin: float = Field(
        0.04,
        ge=0,
        le=1,
        description="how much calls may drift together on their way to the workspace, seconds",
    )
    patience: PositiveSeconds = Field(
        40, description="how long a request may wait in all; the clients' own time-out is 60 s"
    )

    @property
    def limits(self) -> dict[Group, int]:
        """The limit of each group that has one."""
        limits = {
            Group.REGISTRY: self.registry_limit,
            Group.RUNS_SEARCH: self.runs_search_limit,
            Group.EXPERIMENTS: self.experiments_limit,
            Group.LOG_BATCH: self.log_batch_limit,
            Group.TRACKING: self.tracking_limit,
        }
        return {group: limit for group, limit in limits.items() if limit}

    @field_validator("floor")
    @classmethod
    def _below_the_limits(cls, floor: float, info: ValidationInfo) -> float:
        for name, limit in info.data.items():
            if name.endswith("_limit") and 0 < limit < floor:
                raise ValueError(f"{floor:g} is above {name}, which is {limit}; choose less")
        return floor


class AccessSettings(_Section):
    """Whose credentials the workspace sees, and which answers a client may be served."""

    sharing: Literal["auto", "credential", "proven", "service"] = Field(
        "auto",
        description="whose answers a client gets: those fetched with its own credential, or with any once it "
        "has proven that it may read the model, or with the one that the proxy holds as a service; auto is "
        "proven for a Databricks workspace and credential for other upstreams",
    )
    proof_ttl: PositiveSeconds = Field(300, description="proven: how long such a proof counts")
    refusal_ttl: Seconds = Field(5, description="proven: how long a refusal counts")
    neutral_fields: Annotated[FieldNames, NoDecode] = Field(
        (),
        description="request fields that say nothing about the caller, with commas between them, beside the "
        "well-known ones",
    )
    neutral_cookies: Annotated[CookieNames, NoDecode] = Field(
        (),
        description="cookies that say nothing about the caller, such as a load balancer's, with commas"
        " between them",
    )
    token_file: File = Field(
        "", description="service: file with the workspace's token, read again when it changes"
    )
    profile: str = Field(
        "", description="service: Databricks profile, when the environment does not say it all"
    )
    clients_file: File = Field(
        "", description="service: TOML file of the clients and the digests of their tokens"
    )
    reach: Literal["mlflow", "everything"] = Field(
        "mlflow", description="service: which APIs clients may call with the proxy's credential"
    )

    @field_validator("neutral_fields", "neutral_cookies")
    @classmethod
    def _of_callers(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if names and info.data.get("sharing") == "service":
            raise ValueError(
                "has no use with access.sharing service, where no field of a client separates answers; "
                "leave it out"
            )
        return names

    @field_validator("token_file", "profile", "clients_file", "reach")
    @classmethod
    def _of_service(cls, value: str, info: ValidationInfo) -> str:
        if value in {"", "mlflow"}:
            return value
        if info.data.get("sharing") != "service":
            raise ValueError(
                "is for access.sharing service, where the proxy holds the credential and knows its clients; "
                "otherwise the workspace does. Give --access.sharing service too, or do not"
            )
        if info.field_name == "profile" and info.data.get("token_file"):
            raise ValueError("access.token_file is set as well, and one credential is enough; do not")
        return value


class ConnectionSettings(_Section):
    """The connections to the workspace and its storage, and those of clients."""

    connect_timeout: PositiveSeconds = Field(10, description="to open a connection")
    read_timeout: PositiveSeconds = Field(300, description="between two reads of an answer that is streamed")
    max_connections: int = Field(256, ge=1, description="to the workspace, and as many to its storage")
    max_clients: int = Field(10_000, ge=1, description="connections of clients open at once")
    max_requests: int = Field(10_000, ge=1, description="requests of clients being answered at once")
    head_timeout: PositiveSeconds = Field(
        30, description="for a client to send a request's head, from when it connected or began with it"
    )
    client_timeout: PositiveSeconds = Field(
        60, description="for a client to send nothing of a body, or to take nothing of an answer"
    )
    idle_timeout: PositiveSeconds = Field(3630, description="for a client's connection between requests")
    forwarded_fields: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether the upstream hears clients' addresses, in X-Forwarded-For and its like; auto: "
        "unless it is known to be a Databricks workspace",
    )
    ca_file: File = Field("", description="PEM file of CAs to trust beside the system's")
    client_certificate: File = Field("", description="PEM file, for a workspace that wants one")
    client_key: Annotated[File, AfterValidator(key_of("client_certificate"))] = Field(
        "", validate_default=True, description="PEM file of its private key"
    )


class TlsSettings(_Section):
    """https for clients, on the same port. The files are read again when they change."""

    certificate: File = Field("", description="PEM file: the certificate and those between it and its CA")
    key: Annotated[File, AfterValidator(key_of("certificate"))] = Field(
        "", validate_default=True, description="PEM file of its private key"
    )


class ArtifactSettings(_Section):
    """Door A: plain http(s) tracking URIs."""

    rewrite_dbfs: bool = Field(True, description="serve registry models whose download URI is dbfs: as files")
    local_storage: bool = Field(
        False, description="follow signed URLs to this machine although the workspace is elsewhere"
    )


class FleetSettings(_Section):
    """What proxies that share a Redis have in common beside their budgets."""

    secret: Secret = Field(
        SecretStr(""), description="the same on all proxies, so that they share answers as well"
    )


_ADMIN_PORT = 8081


class AdminSettings(_Section):
    """The proxy's own endpoints, under /-/."""

    host: Annotated[OptionalAddresses, NoDecode] = Field(
        (),
        description="address of a listener for them alone, or several with commas between them; empty: with "
        "everything else",
    )
    port: int = Field(_ADMIN_PORT, ge=0, le=65535, description="its port, 0 for any free one")
    token: Secret = Field(
        SecretStr(""),
        description="what a purge must show; without one, only clients on this machine may purge",
    )

    @field_validator("port")
    @classmethod
    def _of_the_host(cls, port: int, info: ValidationInfo) -> int:
        if port != _ADMIN_PORT and info.data.get("host") == ():
            raise ValueError("a port is of no use without admin.host, such as 127.0.0.1")
        return port
