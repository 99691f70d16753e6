"""What holds for any value, any history and any bytes."""

import pickle
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.codec.redact import MARKER, Redactor, Rules
from clearstone.codec.secrets import has_clue, redacted, redacted_bytes

SECRETS = {
    "ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7abcdef": "[redacted: github token]",
    "sk-proj-aB3dE6gH9jK2mN5pQ8sT1vW4yZ7": "[redacted: api key]",
    "AKIAIOSFODNN7EXAMPLE": "[redacted: aws access key id]",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N": "[redacted: jwt]",
}
SECRET_NAMES = ("password", "apiKey", "X-Auth-Token", "db.credentials")
INNOCENT_NAMES = ("role", "content", "max_tokens", "usage", "x", "é\x94\x8c", "\ud800")

plain_text = st.text("abc xyz\n\x00é\x8c\u20ac\x94\U0001f600", max_size=300)
planted = st.builds(
    lambda left, secret, right: f"{left} {secret} {right}", plain_text, st.sampled_from(sorted(SECRETS)), plain_text
)
texts = plain_text | plain_text.map(lambda text: text * 300)
numbers = st.integers() | st.floats(allow_nan=False)
clean_leaves = st.none() | st.booleans() | numbers | texts | st.binary() | st.sampled_from(["user", "shared", MARKER])
secret_leaves = planted | planted.map(lambda text: text.encode("utf-8", "surrogatepass"))
names = st.sampled_from(INNOCENT_NAMES) | st.integers() | st.tuples(st.text("ab"), st.integers())


def nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=5)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(keys, inner, max_size=4)
            | st.frozensets(st.integers() | plain_text, min_size=1, max_size=3)
        ),
        max_leaves=25,
    )


clean_values = nested(clean_leaves, names)
secret_values = nested(clean_leaves | secret_leaves, names | st.sampled_from(SECRET_NAMES))


def reference(value: Any, *, secret: bool = False) -> Any:
    """What redaction must give, said as plainly as possible."""
    if isinstance(value, dict):
        return {key: reference(each, secret=secret or key in SECRET_NAMES) for key, each in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return type(value)(reference(each, secret=secret) for each in value)
    if value is None or isinstance(value, bool) or value in {"", b""}:
        return value
    if secret:
        return MARKER.encode() if isinstance(value, bytes) else MARKER
    for text, marker in SECRETS.items():
        if isinstance(value, str):
            value = value.replace(text, marker)
        elif isinstance(value, bytes):
            value = value.replace(text.encode(), marker.encode())
    return value


@given(secret_values)
def test_what_is_left_of_a_value_is_what_the_reference_leaves(value: Any) -> None:
    data = pickle.dumps(value, 5)
    left = Redactor(Rules()).payload(None, data)
    result = data if left is None else left
    expected = reference(value)
    assert pickle.loads(result) == expected
    assert repr(pickle.loads(result)) == repr(expected) or "frozenset" in repr(expected)
    assert (left is None) == (expected == value)
    assert not any(secret.encode() in result for secret in SECRETS)


@given(secret_values)
def test_redacting_twice_changes_nothing_more(value: Any) -> None:
    left = Redactor(Rules()).payload(None, pickle.dumps(value, 5))
    assert left is None or Redactor(Rules()).payload(None, left) is None


@given(clean_values)
def test_a_value_without_secrets_is_left_alone(value: Any) -> None:
    redactor = Redactor(Rules())
    data = pickle.dumps(value, 5)
    assert redactor.payload("kin", data) is None
    assert redactor.payload("kin", data) is None


@given(secret_values)
def test_a_function_that_changes_nothing_changes_nothing(value: Any) -> None:
    data = pickle.dumps(value, 5)
    assert Redactor(Rules(function=lambda text: text)).payload(None, data) == Redactor(Rules()).payload(None, data)


FRAGMENTS = (
    "sk-", "proj-", "aB3dE6gH9jK2mN5p", "QRSTUVWXYZABCDEF", "ghp_", "github_pat_", "eyJhbGciOiJIUzI1NiJ9", ".eyJzdWIi",
    ".abcdefgh", "AKIA", "ASIA", "IOSFODNN7EXAMPLE", "AIza", "ya29.", "xoxb-", "1234567890", "xapp-", "Bearer ",
    "bearer\t", "Basic ", "dXNlcjpwYXNzd29yZA==", "://", "user", ":", "pass", "@", "-----BEGIN ", "RSA ", "PRIVATE KEY",
    "-----", "secret_access_key", "SecretAccessKey", '": "', "=", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", " ", "\n",
    "/", "é", "x", "-", "_", "hf_", "sk_live_", "glpat-", "gsk_", "xai-", "pplx-",
)  # fmt: skip
fragments = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
cut_fragments = st.builds(lambda text, start, end: text[start : len(text) - end], fragments, *[st.integers(0, 9)] * 2)


@pytest.mark.once
@settings(max_examples=1500)
@given(fragments | cut_fragments, plain_text)
def test_the_scan_misses_no_text_that_the_exact_rules_replace(text: str, before: str) -> None:
    whole = f"{before} {text}"
    assert redacted(whole) == whole or has_clue(whole.encode("utf-8", "surrogatepass"))
    data = text.encode("utf-8", "surrogatepass")
    assert redacted_bytes(data) == data or has_clue(data)


@given(fragments, fragments)
def test_a_text_that_was_redacted_is_not_redacted_again(text: str, other: str) -> None:
    redactor = Redactor(Rules())
    left = redactor.text(f"{text} {other}")
    assert redactor.text(left) == left


FILLER = "lorem ipsum dolor sit amet " * 110
messages = st.fixed_dictionaries({"role": st.sampled_from(["user", "token", "password"]), "content": fragments | texts})
secret_messages = st.dictionaries(st.sampled_from(["role", "password", "api_key"]), st.none() | fragments, max_size=3)
extensions = st.lists(messages | secret_messages | fragments, min_size=1, max_size=8)


@pytest.mark.once
@given(extensions, extensions, st.booleans())
def test_what_is_remembered_of_a_history_changes_nothing(one: list[Any], two: list[Any], in_text: bool) -> None:
    remembering = Redactor(Rules())
    for extension in (one, two):
        history, text = [FILLER], FILLER
        for message in extension:
            history = [*history, message]
            text += str(message)
            data = pickle.dumps(({"messages": text if in_text else history, "model": "m"},), 5)
            assert remembering.payload("kin", data) == Redactor(Rules()).payload("kin", data)


@given(st.data(), secret_values)
def test_broken_bytes_never_raise(data: st.DataObject, value: Any) -> None:
    whole = pickle.dumps([value, next(iter(SECRETS)), {"password": 1}], 5)
    found = [each.span() for secret in SECRETS for each in re.finditer(re.escape(secret.encode()), whole)]
    joints = {place for start, end in found for place in (start - 1, end)}  # a letter there, and it is part of a word
    breakable = sorted(set(range(len(whole))) - joints)
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 6))):
        broken[data.draw(st.sampled_from(breakable))] = data.draw(st.integers(0, 255))
    cut = bytes(broken[: data.draw(st.integers(0, len(broken)))])
    for each in (bytes(broken), cut):
        left = Redactor(Rules()).payload(None, each)
        assert left is None or not any(secret.encode() in left for secret in SECRETS)


@given(st.binary(max_size=400))
def test_any_bytes_are_survived(data: bytes) -> None:
    for each in (data, b"\x80\x05" + data, b"\x80\x05\x8c\x08password\x94" + data):
        Redactor(Rules()).payload(None, each)
