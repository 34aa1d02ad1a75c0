"""Which fields are found to keep equal questions apart."""

import tracemalloc

from mlflow_proxy.access.splits import OTHER, Split, Splits


def test_a_field_that_differs_between_equal_questions_is_found() -> None:
    splits = Splits()
    assert splits.note("q", [("X-Trace", "1"), ("X-Org", "a")]) == ()
    assert splits.note("q", [("X-Trace", "2"), ("X-Org", "a")]) == (Split("X-Trace"),)
    assert splits.note("q", [("X-Trace", "2"), ("X-Org", "a")]) == ()
    assert splits.note("q", [("X-Org", "a")]) == (Split("X-Trace"),)


def test_other_questions_say_nothing_about_each_other() -> None:
    splits = Splits()
    assert splits.note("q", [("X-Trace", "1")]) == ()
    assert splits.note("r", [("X-Trace", "2")]) == ()


def test_a_cookie_is_named_by_itself() -> None:
    splits = Splits()
    splits.note("q", [("Cookie", "session=s; SERVERID=1")])
    [found] = splits.note("q", [("Cookie", "session=s; SERVERID=2")])
    assert (str(found), found.setting) == ("Cookie SERVERID", "access.neutral_cookies")


def test_a_cookie_field_that_counts_as_a_whole_is_named_as_a_whole() -> None:
    splits = Splits()
    splits.note("q", [("Cookie", 'sid="s"; SERVERID=1')])
    [found] = splits.note("q", [("Cookie", 'sid="s"; SERVERID=2')])
    assert (str(found), found.setting) == ("Cookie", "")


def test_the_setting_is_named_where_there_is_one() -> None:
    assert Split("X-Trace").setting == "access.neutral_fields"
    assert Split("X-Forwarded-For").setting == "access.neutral_fields"
    assert Split("X-Mlflow-Workspace").setting == ""
    remedies = [Split(name).remedy for name in ("X-Trace", "X-Forwarded-For", "X-Mlflow-Workspace")]
    assert len(set(remedies)) == 3
    assert all("access.neutral_fields" in remedy for remedy in remedies[:2])


def test_the_remedy_says_when_it_is_one() -> None:
    assert Split("X-Trace").remedy.startswith("if it tells nothing about the caller, ")
    # An address does tell something: this proxy itself adds it for servers that judge by it.
    assert Split("X-Forwarded-For").remedy.startswith(
        "if the upstream answers the same to clients at any address"
    )
    assert Split("X-Databricks-Org-Id").remedy.startswith("none here")


def test_clients_cannot_make_up_names_without_end() -> None:
    splits = Splits()
    named = [splits.named(Split(f"X-{number}")) for number in range(1000)]
    assert len({name for name, _ in named}) == 65
    assert named[0] == ("X-0", True)
    assert named[-1] == (OTHER, False)
    assert splits.named(Split("X-0")) == ("X-0", False)
    assert Splits().named(Split("X" * 1000)) == (OTHER, False)


def test_what_is_kept_of_one_request_is_little_however_much_it_says() -> None:
    def note(number: int) -> None:
        cookies = ";".join(f"{number}-{each}" for each in range(4_000))
        fields = [("Cookie", cookies), (f"X-{number}-" + "x" * 30_000, "1")]
        splits.note(("GET", f"{number}" + "q" * 30_000), fields)

    splits = Splits()
    note(0)
    tracemalloc.start()
    for number in range(1, 21):
        note(number)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20 * 20_000, "so that 2,048 of them are 40 MB"
