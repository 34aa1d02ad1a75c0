"""Certificates that are replaced while the proxy runs, and what is said of those that cannot be used."""

import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mlflow_proxy import cli, tls
from mlflow_proxy.errors import InvalidSettingsError
from tests.certificates import Authority, Kind, Pair, subject
from tests.descriptors import no_descriptors_left


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def served(authority: Authority) -> Pair:
    """Return the files that a proxy was started with."""
    return authority.issue("first")


def shown(context: ssl.SSLContext, authority: Authority, *, host: str | None = "127.0.0.1") -> str | None:
    """Shake hands without a network; returns whose certificate was shown."""
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = authority.client()
    client.check_hostname = host is not None
    ends = (
        client.wrap_bio(a, b, server_hostname=host),
        context.wrap_bio(b, a, server_side=True),
    )
    done: set[ssl.SSLObject] = set()
    while len(done) < len(ends):
        for end in ends:
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                pass
    return subject(ends[0])


@pytest.mark.parametrize("host", ["127.0.0.1", "proxy.test", None])
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_pair_that_was_replaced_is_shown(authority: Authority, host: str | None, kind: Kind) -> None:
    served = authority.issue("first", "127.0.0.1", "proxy.test")
    listening, pair = tls.for_clients(str(served.certificate), str(served.key))
    assert shown(listening, authority, host=host) == "first"
    authority.issue("second", "127.0.0.1", "proxy.test", kind=kind).copy_to(served)
    assert shown(listening, authority, host=host) == "first", "nobody has looked yet"
    with capture_logs() as logs:
        pair.refresh()
        pair.refresh()
    assert shown(listening, authority, host=host) == "second"
    assert [line["log_level"] for line in logs] == ["info"]


def test_a_pair_that_could_not_be_read_is_taken_over_once_it_can(authority: Authority, served: Pair) -> None:
    listening, pair = tls.for_clients(str(served.certificate), str(served.key))
    authority.issue("second").copy_to(served)
    with capture_logs() as logs:
        with no_descriptors_left():
            pair.refresh()
            pair.refresh()
        assert shown(listening, authority) == "first"
        pair.refresh()
        assert shown(listening, authority) == "second"
    assert [line["log_level"] for line in logs] == ["error", "info"]
    assert "Too many open files" in logs[0]["reason"]


def test_a_link_that_is_turned_is_a_change(authority: Authority, tmp_path: Path) -> None:
    """As Kubernetes replaces what a secret is mounted as."""
    link = Pair(tmp_path / "link.pem", tmp_path / "link.key")
    for name in ("first", "second"):
        issued = authority.issue(name)
        for new, at in ((issued.certificate, link.certificate), (issued.key, link.key)):
            at.unlink(missing_ok=True)
            at.symlink_to(new)
        if name == "first":
            listening, pair = tls.for_clients(str(link.certificate), str(link.key))
    pair.refresh()
    assert shown(listening, authority) == "second"


def test_what_does_not_match_or_is_half_written_changes_nothing_and_is_told_once(
    authority: Authority, served: Pair
) -> None:
    listening, pair = tls.for_clients(str(served.certificate), str(served.key))
    second = authority.issue("second", kind="rsa")
    certificate, key = second.certificate.read_bytes(), second.key.read_bytes()
    with capture_logs() as logs:
        served.certificate.write_bytes(certificate[:100])
        pair.refresh()
        assert shown(listening, authority) == "first"
        served.certificate.write_bytes(certificate)
        pair.refresh()  # belongs to another key now
        assert shown(listening, authority) == "first"
        served.key.write_bytes(key[:-100])
        pair.refresh()
        served.key.unlink()
        pair.refresh()
        assert shown(listening, authority) == "first"
    assert [line["log_level"] for line in logs] == ["error"]
    assert "holds no certificate in PEM form" in logs[0]["reason"]
    served.key.write_bytes(key)
    pair.refresh()
    assert shown(listening, authority) == "second"
    with capture_logs() as logs:
        served.key.write_bytes(b"")
        pair.refresh()
    assert [line["log_level"] for line in logs] == ["error"], "another time is told again"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_tls_is_refused(authority: Authority, served: Pair, version: ssl.TLSVersion) -> None:
    listening, _ = tls.for_clients(str(served.certificate), str(served.key))
    client = authority.client()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.minimum_version = version
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.maximum_version = version
    client.set_ciphers("ALL:@SECLEVEL=0")
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    said = client.wrap_bio(a, b, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        said.do_handshake()
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        listening.wrap_bio(b, a, server_side=True).do_handshake()


def test_an_authority_that_was_replaced_is_trusted(tmp_path: Path) -> None:
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    trusted = tls.for_upstream(str(old.file))
    assert trusted is not None
    before = trusted.current
    trusted.refresh()
    assert trusted.current is before
    old.file.write_bytes(new.file.read_bytes())
    trusted.refresh()
    authorities = trusted.current.get_ca_certs(binary_form=True)
    assert new.der in authorities
    assert old.der not in authorities


def test_nothing_special_is_the_systems_own() -> None:
    assert tls.for_upstream("") is None


# -- wrong files -----------------------------------------------------------------------------------------


def complaint(certificate: Path, key: Path) -> str:
    with pytest.raises(InvalidSettingsError) as problem:
        tls.for_clients(str(certificate), str(key))
    assert "\n" not in str(problem.value)
    return str(problem.value)


def test_each_wrong_file_is_named(authority: Authority, served: Pair, tmp_path: Path) -> None:
    absent, text = tmp_path / "absent.pem", tmp_path / "text.pem"
    text.write_text("no PEM")
    certificate, key = served.certificate, served.key
    assert complaint(absent, key) == (
        f"tls.certificate: {absent} cannot be read (No such file or directory); "
        "give --tls.certificate a readable PEM file"
    )
    assert complaint(certificate, absent).startswith(f"tls.key: {absent} cannot be read (No such file")
    assert complaint(tmp_path, key).startswith(f"tls.certificate: {tmp_path} cannot be read (Is a directory)")
    assert complaint(text, key).startswith(f"tls.certificate: {text} holds no certificate in PEM form")
    assert complaint(key, key).startswith(f"tls.certificate: {key} holds no certificate in PEM form")
    assert complaint(certificate, text).startswith(f"tls.key: {text} holds no private key in PEM form")
    other = authority.issue("other").key
    assert complaint(certificate, other).startswith(
        f"tls.key: {other} does not belong to the first certificate"
    )
    locked = authority.issue("locked", password=b"secret")
    assert complaint(locked.certificate, locked.key).startswith(f"tls.key: {locked.key} is encrypted")


def test_wrong_files_for_the_workspace_are_named_too(served: Pair, tmp_path: Path) -> None:
    for ca_file, certificate, key, expected in (
        (tmp_path / "absent", "", "", "connections.ca_file: .*absent cannot be read"),
        (served.key, "", "", "connections.ca_file: .*first.key holds no certificates"),
        (
            "",
            served.key,
            served.key,
            "connections.client_certificate: .*give --connections.client-certificate",
        ),
        ("", served.certificate, served.certificate, "connections.client_key: .*--connections.client-key"),
    ):
        with pytest.raises(InvalidSettingsError, match=expected):
            tls.for_upstream(str(ca_file), str(certificate), str(key))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--tls.certificate", "/absent"],
            "tls.key: certificate needs its private key, a PEM file; set --tls.key",
        ),
        (
            ["--tls.key", "/absent"],
            "tls.key: a key is of no use without certificate, a PEM file; set --tls.key",
        ),
        (
            ["--connections.client-certificate", "/absent"],
            "connections.client_key: client_certificate needs its private key",
        ),
        (["--tls.certificate", "/absent", "--tls.key", "/absent"], "tls.certificate: /absent cannot be read"),
        (["--connections.ca-file", "/absent"], "connections.ca_file: /absent cannot be read"),
    ],
)
def test_it_does_not_start_with_them(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", "--upstream", "https://workspace.example", "--port", "0", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"mlflow-proxy: {line}")
    assert told.count("\n") == 1
