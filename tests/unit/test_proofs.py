"""Who has proven what, and for how long it counts."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_proxy.clock import Clock
from mlflow_proxy.mlflow_api.messages import StoredResponse
from mlflow_proxy.mlflow_api.reads import shareable
from mlflow_proxy.mlflow_api.routes import match
from mlflow_proxy.reading.generations import Generations
from mlflow_proxy.reading.memory import Memory
from mlflow_proxy.reading.proofs import PROOF, CredentialKey, Proofs, is_proof, needs_proof
from mlflow_proxy.reading.store import Invalidation

YES = StoredResponse(200, "OK", (), b'{"registered_model": {"name": "m", "creation_timestamp": 16}}')
NO = StoredResponse(403, "Forbidden", (), b"no")


A, B, C = (CredentialKey(name, "/api/2.0/mlflow/") for name in "abc")


def new_proofs(most_bytes: int = 10**6) -> Proofs:
    return Proofs(300, 5, Generations(), most_bytes)


def test_a_yes_counts_from_when_it_was_decided() -> None:
    proofs = new_proofs()
    proofs.note(A, "m", YES, as_of=100.0, asked=0)
    known = proofs.get(A, "m", 399.9)
    assert known is not None
    assert (known.refusal, known.created) == (None, 16)
    assert proofs.get(A, "m", 400.0) is None


def test_an_older_yes_takes_nothing_away_from_a_newer_one() -> None:
    proofs = new_proofs()
    for as_of in (100.0, 60.0):
        proofs.note(A, "m", YES, as_of, 0)
    assert proofs.get(A, "m", 399.9) is not None
    other = StoredResponse(200, "OK", (), b'{"registered_model": {"name": "m", "creation_timestamp": 17}}')
    proofs.note(A, "m", other, 61.0, 0)
    assert proofs.get(A, "m", 361.0) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"registered_model": {"name": "M", "creation_timestamp": 16}}',
        b'{"registered_model": {"name": "m ", "creation_timestamp": 16}}',
        b'{"registered_model": {"name": "n", "name_": "m", "creation_timestamp": 16}}',
        b'{"registered_model": {"name": ["m"], "creation_timestamp": 16}}',
        b'{"registered_model": {"name": "m"}}',
        b'{"registered_model": "m"}',
        b'{"name": "m"}',
        b"[]",
        b"m",
    ],
)
def test_a_yes_about_another_name_shares_nothing(body: bytes) -> None:
    proofs = new_proofs()
    proofs.note(A, "m", StoredResponse(200, "OK", (), body), as_of=0.0, asked=0)
    known = proofs.get(A, "m", 1.0)
    assert known is not None
    assert (known.refusal, known.created) == (None, None)
    assert proofs.get(A, "m", 5.0) is None  # it may have been a gateway's word


@pytest.mark.parametrize(
    ("query", "proves"),
    [("name=m", True), ("name=m&model_name=n", False), ("name=m&x=1", False), ("x=m", False)],
)
def test_a_proof_asks_for_nothing_else(query: str, proves: bool) -> None:
    target = f"/api/2.0/mlflow/{PROOF}"
    read = shareable(match("GET", target), "GET", f"{target}?{query}", (), b"", "p")
    assert read is not None
    assert is_proof(read) is proves


def test_a_no_counts_for_seconds() -> None:
    proofs = new_proofs()
    proofs.note(A, "m", NO, as_of=100.0, asked=0)
    known = proofs.get(A, "m", 104.9)
    assert known is not None
    assert known.refusal is NO
    assert proofs.get(A, "m", 105.0) is None


def test_a_no_ends_a_yes_and_what_is_neither_ends_both() -> None:
    proofs = new_proofs()
    proofs.note(A, "m", YES, 0.0, 0)
    proofs.note(A, "m", NO, 1.0, 0)
    known = proofs.get(A, "m", 2.0)
    assert known is not None
    assert known.refusal is NO
    proofs.note(A, "m", StoredResponse(500, "", (), b""), 2.0, 0)
    assert proofs.get(A, "m", 2.0) is None


def test_proofs_are_of_one_credential_and_one_model() -> None:
    proofs = new_proofs()
    proofs.note(A, "m", YES, 0.0, 0)
    assert proofs.get(B, "m", 0.0) is None
    assert proofs.get(A, "M", 0.0) is None


@pytest.mark.parametrize(("granted", "said", "counts"), [
    (True, YES, False), (True, NO, False), (False, NO, False), (False, YES, True)
])  # fmt: skip
def test_what_was_asked_before_something_was_forgotten_does_not_count(
    granted: bool, said: StoredResponse, counts: bool
) -> None:
    """But a yes does if only refusals were forgotten: writes that change no permission are many."""
    memory = Memory(10_000, proof_ttl=300, refusal_ttl=5, clock=Clock(time.monotonic, time.time))
    asked = memory.generations.moment
    memory.forget(Invalidation(None, files=granted))
    memory.proofs.note(A, "m", said, 0.0, asked)
    assert (memory.proofs.get(A, "m", 0.0) is not None) == counts


@pytest.mark.parametrize(
    ("body", "created"),
    [
        (b'{"registered_model": {"name": "m", "creation_timestamp": 17}}', 17),
        (b'{"registered_model": {"name": "m", "creation_timestamp": "17"}}', 17),
        (b'{"registered_model": {"name": "M", "creation_timestamp": 17}}', None),
        (b'{"registered_model": {"name": "m"}}', None),
        (b'{"registered_model": []}', None),
        (b"<html>", None),
    ],
)
def test_a_proof_says_which_model_of_the_name_it_is_about(body: bytes, created: int | None) -> None:
    proofs = new_proofs()
    proofs.note(A, "m", StoredResponse(200, "OK", (), body), 0.0, 0)
    known = proofs.get(A, "m", 0.0)
    assert known is not None
    assert (known.refusal, known.created) == (None, created)


@pytest.mark.parametrize(("models", "concerned"), [(None, True), ({"M"}, True), ({"other"}, False)])
@pytest.mark.parametrize("granted", [True, False])
def test_forgetting(models: set[str] | None, concerned: bool, granted: bool) -> None:
    proofs = new_proofs()
    proofs.note(A, "m", YES, 0.0, 0)
    proofs.note(B, "m", NO, 0.0, 0)
    proofs.forget(Invalidation(None if models is None else frozenset(models), files=granted))
    assert (proofs.get(A, "m", 0.0) is None) == (concerned and granted)
    assert (proofs.get(B, "m", 0.0) is None) == concerned


def test_rotated_credentials_leave_a_bounded_number_behind() -> None:
    proofs = new_proofs(4000)
    for number in range(100):
        proofs.note(CredentialKey(f"credential-{number}", ""), "m", YES, 0.0, 0)
    assert len(proofs) == 10
    assert proofs.get(CredentialKey("credential-99", ""), "m", 0.0) is not None


def test_what_refusals_say_counts_as_well() -> None:
    proofs = new_proofs(100_000)
    for number in range(100):
        proofs.note(
            CredentialKey(f"c{number}", ""),
            "m",
            StoredResponse(404, "", (("a", "b"),), bytes(20_000)),
            0.0,
            0,
        )
    assert len(proofs) == 4
    proofs.note(C, "m", StoredResponse(404, "", (), bytes(70_000)), 0.0, 0)
    assert proofs.get(C, "m", 0.0) is None, "not worth its place"


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B]), st.sampled_from("mn"), st.booleans(), st.floats(0, 1000)),
        max_size=30,
    ),
    st.floats(0, 2000),
)
def test_nothing_is_granted_longer_than_it_was_proven(
    said: list[tuple[CredentialKey, str, bool, float]], now: float
) -> None:
    """Whatever was noted in whatever order."""
    proofs = new_proofs()
    for credential, model, granted, as_of in said:
        proofs.note(credential, model, YES if granted else NO, as_of, 0)
    for credential in (A, B):
        for model in "mn":
            known = proofs.get(credential, model, now)
            if known is not None and known.refusal is None:
                moments = [
                    as_of for one, other, yes, as_of in said if (one, other, yes) == (credential, model, True)
                ]
                assert now < max(moments) + 300


@pytest.mark.parametrize(
    ("endpoint", "query", "needed"),
    [
        ("model-versions/list-artifacts", "name=m&version=1", True),
        ("model-versions/get-signed-download-uri", "name=m&version=1&path=f", True),
        ("registered-models/alias", "name=m&alias=a", True),
        (PROOF, "name=m", False),
        ("registered-models/search", "name=m", False),
        ("model-versions/search", "filter=name%3D%27m%27", False),
        ("model-versions/list-artifacts", "version=1", False),
        *(
            ("model-versions/list-artifacts", f"name=m&version=1&{more}", False)
            for more in ("model_name=n", "registered_model.name=n", "x=1")
        ),
    ],
)
def test_what_needs_a_proof_is_what_is_about_one_model(endpoint: str, query: str, needed: bool) -> None:
    target = f"/api/2.0/mlflow/{endpoint}"
    read = shareable(match("GET", target), "GET", f"{target}?{query}", (), b"", "p")
    assert read is not None
    assert needs_proof(read) is needed


def test_who_is_refused_something_has_proven_nothing_until_the_workspace_says_so_again() -> None:
    proofs = new_proofs()
    proofs.note(A, "m", YES, 100.0, 0)
    proofs.withdraw(A, "m", 110.0)
    assert proofs.get(A, "m", 110.0) is None
    proofs.note(A, "m", YES, 109.9, 0)
    assert proofs.get(A, "m", 110.0) is None
    proofs.note(B, "m", YES, 109.9, 0)
    assert proofs.get(B, "m", 110.0) is not None
    proofs.note(A, "m", YES, 110.0, 0)
    assert proofs.get(A, "m", 110.0) is not None
