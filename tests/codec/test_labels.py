"""What follows the name of a secret in a repr goes, however it is written and wherever the repr was cut."""

import dataclasses
import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearstone.codec import payload, redact
from clearstone.codec.exceptions import Unpicklable, or_described
from clearstone.codec.labels import without_labelled
from clearstone.codec.redact import Redactor, Rules

GITHUB = "ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7abcdef"

SHOWN = [
    ("Client(password='hunter2', n=1)", "Client(password='[redacted]', n=1)"),
    ("Client(password=b'hunter2')", "Client(password=b'[redacted]')"),
    ("Client(password=1234567, n=1)", "Client(password=[redacted], n=1)"),
    ("Client(password=hunter2)", "Client(password=[redacted])"),
    ("<Client password='hunter2' n=1>", "<Client password='[redacted]' n=1>"),
    ("<Client n=1 token=<Key a, b> c>", "<Client n=1 token=[redacted]"),
    ("{'credentials': ['hunter2', ('a', 2)], 'n': 1}", "{'credentials': [redacted], 'n': 1}"),
    ("Client(api_key=Key('a, b'), n=1)", "Client(api_key=[redacted], n=1)"),
    ("Client(api_key=Key(')', 'b'), n=1)", "Client(api_key=[redacted], n=1)"),
    ("{'api key': 'hunter2', 'n': 1}", "{'api key': '[redacted]', 'n': 1}"),
    ("{b'password': b'hunter2'}", "{b'password': b'[redacted]'}"),
    (r"'{\'password\': \'hunter, 2\', \'n\': 1}'", r"'{\'password\': \'[redacted]\', \'n\': 1}'"),
    ("Client(password='hunter2, the clos", "Client(password='[redacted]'"),
    ("Client(password=Key('hunter2', 'the", "Client(password=[redacted]"),
    ("Client(password='it\\'s', n=1)", "Client(password='[redacted]', n=1)"),
    ("Client(2password='hunter2', épassword='hunter2')", "Client(2password='[redacted]', épassword='[redacted]')"),
]
UNTOUCHED = [
    "Client(password=None, token='', secret=[], pwd=b'', cookie=False, max_tokens=5, n='hunter2')",
    "the password is a word, and so is token",
    "Client(password='[redacted]', token=[redacted])",
    "",
]


def is_secret(name: str) -> bool:
    return Redactor(Rules()).is_secret_key(name)


@pytest.mark.parametrize(("text", "left"), SHOWN)
def test_the_value_behind_a_secret_name_goes_whatever_its_form(text: str, left: str) -> None:
    assert without_labelled(text, is_secret) == left
    assert without_labelled(left, is_secret) == left


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_is_no_secret_value_stays(text: str) -> None:
    assert without_labelled(text, is_secret) == text


LEAVES = st.one_of(
    st.text("ab'\"\\,)]}>:= ", max_size=6).map(lambda text: f"hunter2{text}hunter2"),
    st.text("ab'\"\\,", max_size=4).map(lambda text: f"hunter2{text}hunter2".encode()),
    st.just(77777),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.just("n"), inner, min_size=1)
)


@given(VALUES, st.integers(min_value=1))
def test_of_any_value_behind_a_secret_name_nothing_is_left_also_if_the_repr_was_cut(value: Any, cut: int) -> None:
    text = repr({"password": value})
    for shown in (text, text[: cut % len(text) + 1], repr(text)):
        left = without_labelled(shown, is_secret)
        assert "hunter2" not in left
        assert "77777" not in left
        assert without_labelled(left, is_secret) == left


@given(VALUES)
def test_what_stands_beside_a_whole_value_without_backslashes_stays(value: Any) -> None:
    text = repr({"password": value, "n": 1})
    if "\\" not in text:
        assert without_labelled(text, is_secret).endswith(", 'n': 1}")


class Client:
    def __init__(self, shown: str) -> None:
        self.lock, self.shown = threading.Lock(), shown

    def __repr__(self) -> str:
        return self.shown


def test_a_value_is_searched_before_its_repr_is_cut() -> None:
    long = f"<Client {'a' * 60} password='hunter2 {'b' * 90}' {GITHUB} {'c' * 200}>"
    for value in (Client(long), [Client(long)], {"key": long}, f"{'x ' * 42}{GITHUB} {'x' * 200}"):
        shown = payload.safe_repr(value)
        assert "hunter2" not in shown
        assert "ghp_" not in shown
        assert len(shown) < 300


def test_a_repr_that_raises_is_said_beside_the_others() -> None:
    @dataclasses.dataclass
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no")

    assert payload.safe_repr([1, Broken()]).startswith("[1, <Broken instance at 0x")


def test_what_stands_in_for_a_value_holds_no_secret() -> None:
    client = Client(f"<Client password=b'hunter2' {'x' * 90} {GITHUB}>")
    told = json.loads(payload.without_secrets(payload.stand_in(client, TypeError("password='hunter2'"))).data)
    assert "hunter2" not in str(told)
    assert "ghp_" not in str(told)
    described = or_described(client)
    assert isinstance(described, Unpicklable)
    assert "hunter2" not in repr(described)


def test_reprs_are_whole_where_nothing_is_redacted() -> None:
    redact.use(None)
    assert payload.safe_repr({"password": Client("Key('hunter2')")}) == "{'password': Key('hunter2')}"
