"""The rules: which names and which texts are secret, and what the options change."""

import doctest
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clearstone.codec import payload, redact
from clearstone.codec.arguments import encode_arguments
from clearstone.codec.exceptions import dump_exception, load_exception
from clearstone.codec.redact import MARKER, Redactor, Rules
from clearstone.codec.secrets import AMBIGUOUS_WORDS, PATTERNS, WHOLE_NAMES, WORDS, letters
from clearstone.errors import ConfigurationError
from clearstone.record.sites_in_use import INNOCENT_GAVE, INNOCENT_GIVEN
from clearstone.span import CLOUDPICKLE, CODEC_MASK, CODECS, PICKLE, REDACTED

HEX = "0123456789abcdef"
ALNUM = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc+/=\n-----END RSA PRIVATE KEY-----"

SECRET_TEXTS = [
    ("api key", f"sk-{ALNUM}"),
    ("api key", f"sk-proj-{ALNUM}_{ALNUM}-x"),
    ("api key", f"sk-ant-api03-{ALNUM}-{ALNUM}AA"),
    ("api key", "sk-or-v1-" + HEX * 4),
    ("api key", "gsk_" + ALNUM * 2),
    ("api key", "xai-" + ALNUM * 2),
    ("api key", "pplx-" + ALNUM * 2),
    ("jwt", JWT),
    ("jwt", "eyJhbGciOiJSU0EtT0FFUCJ9.OKOawDo13gRp2ojaHV7LFpZcgV7T6DVZKTyKOMTYUmKoTCVJRgckCL9kiMT03JGe.48V1_ALb.5eym8"),
    ("private key", PEM),
    ("private key", PEM.replace("RSA ", "")),
    ("private key", PEM.replace("RSA ", "ENCRYPTED ").replace("\n", "\\n")),
    ("aws access key id", "AKIAIOSFODNN7EXAMPLE"),
    ("aws access key id", "ASIAIOSFODNN7EXAMPLE"),
    ("github token", "ghp_" + ALNUM + "abcdefghi"),
    ("github token", "gho_" + ALNUM + "abcdefghi"),
    ("github token", "ghu_" + ALNUM + "abcdefghi"),
    ("github token", "ghs_" + ALNUM + "abcdefghi"),
    ("github token", "ghr_" + ALNUM + "abcdefghi"),
    ("github token", "github_pat_11ABCDEFG0123456789abc_" + ALNUM * 2),
    ("gitlab token", "glpat-" + ALNUM),
    ("slack token", "xoxb-123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx"),
    ("slack token", "xoxp-1234567890-abcdef"),
    ("slack token", "xapp-1-A0123456789-1234567890123-abcdef0123456789"),
    ("google key", "AIza" + "SyA1234567890abcdefGHIJKLMN_opq-rst"),
    ("google token", "ya29.a0AfH6SMBx1234567890_abc-def"),
    ("hugging face token", "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH"),
    ("stripe key", "sk_live_" + ALNUM),
    ("stripe key", "rk_test_" + ALNUM),
]

PARTLY_KEPT = [
    (f"Authorization: Bearer {ALNUM}", "Authorization: Bearer [redacted: bearer token]"),
    (f"bearer {HEX}{HEX}==", "bearer [redacted: bearer token]"),
    ("Basic dXNlcjpwYXNzd29yZA==", "Basic [redacted: basic credentials]"),
    ("postgresql://me:hunter2@db.example:5432/x", "postgresql://me:[redacted: url password]@db.example:5432/x"),
    ("redis://:p@ss;w0rd@localhost/0", "redis://:[redacted: url password]@localhost/0"),
    ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
     "AWS_SECRET_ACCESS_KEY=[redacted: aws secret key]"),
    ('{"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}',
     '{"SecretAccessKey": "[redacted: aws secret key]"}'),
]  # fmt: skip

INNOCENT_TEXTS = [
    "risk-averse task-list disk-usage of sk-learn; sk-toggleable__label-arrow sk-container-id-1-text-repr",
    "The bearer of responsibilities knows Basic Authentication and basic arithmetic",
    "Basic Authenticationmechanisms are described here",
    "see http://localhost:8080/login?mail=a@b.example and mailto:me@example.org, or ssh://git@host/x",
    '{"url":"http://localhost:8080","email":"x@y.example"}',
    "https://user@example.org/path:with@signs",
    "123e4567-e89b-12d3-a456-426614174000",
    "9fceb02d0ae598e95dc970b74767f19372d61af8",
    "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHx" * 20,
    "data:x;base64,xxxxAKIAIOSFODNN7EXAMPLExxxx+AIzaSyA1234567890abcdefGHIJKLMNopq",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "eyJhIjoxfQ== is base64 of JSON, and eyJhbGciOiJIUzI1NiJ9 alone is no token",
    "claude-3-5-sonnet-20241022 chatcmpl-9aBcDeFgHiJkLmNoPqRsT call_aBcDeFgHiJkLmNoPqRsTuVwX toolu_01AbCdEfGhIjKlMn",
    "xoxo-love, ghp_short, hf_model, AKIA, AIza and ya29. are too short",
]

SECRET_NAMES = """
    password Password db_password PASSWD userPwd passphrase api_key apiKey API-KEY x-api-key openai_api_key ApiKey
    api_keys access_key accessKeyId private_key signing_key token auth_token authToken access_tokens refresh-tokens
    session_token admin_token super_token developer_token backend_token ipad_token authorization Authorization
    proxy-authorization auth_header credential credentials cookie Cookie set-cookie session_id sessionId client_secret
    secret secrets clientSecret csrf_token id_token auth jwt aws.secret.access.key max_tokens_password _password
    HTTP_AUTHORIZATION x_secretary_secret hf-token bearer_tokens
"""

INNOCENT_NAMES = """
    max_tokens maxTokens max-tokens min_tokens prompt_tokens completion_tokens total_tokens input_tokens output_tokens
    cached_tokens token_count tokenCount tokens tokenizer tokenizer_name token_usage tokenUsage n_tokens num_tokens
    logit_tokens token_ids token_type prompt_token_ids prompt_tokens_details prompt_token_count maxOutputTokens
    max_completion_tokens max_new_tokens time_to_first_token cost_per_token tool_call_id tool_calls key keys keyword
    public_key primary_key sort_key cache_key idempotency_key next_page_token page_token next_token nextPageToken
    continuation_token stop_token stop_tokens eos_token bos_token pad_token unk_token special_tokens secretary
    secretariat author authors authority compass passenger cookiecutter
    gen_ai.usage.input_tokens gen_ai.request.max_tokens llm.token_count.prompt monkey session content role name
"""


@pytest.fixture(autouse=True)
def default_rules() -> Iterator[None]:
    yield
    redact.use(Rules())


def redacted(value: Any, redactor: Redactor | None = None) -> Any:
    """What a payload of `value` loads as after redaction; also when it is redacted a second time."""
    data = pickle.dumps(value, 5)
    redactor = redactor or Redactor(Rules())
    left = redactor.payload("test", data)
    assert redactor.payload("test", data) == left
    if left is None:
        return value
    if not redactor.reads_every_text:
        assert redactor.payload("test", left) is None, "what was redacted is redacted again"
    return pickle.loads(left)


@pytest.mark.parametrize(("kind", "text"), SECRET_TEXTS)
def test_a_secret_text_is_replaced_wherever_it_stands(kind: str, text: str) -> None:
    marker = f"[redacted: {kind}]"
    assert redacted(text) == marker
    assert redacted([f"before {text} after"]) == [f"before {marker} after"]
    assert redacted({"a": f'{{"k":"{text}"}}'}) == {"a": f'{{"k":"{marker}"}}'}
    assert redacted((f"é={text}\n",)) == (f"é={marker}\n",)
    assert redacted(f"({text})".encode()) == f"({marker})".encode()
    assert Redactor(Rules()).text(f"failed with {text}.").startswith(f"failed with {marker}")


@pytest.mark.parametrize(("text", "left"), PARTLY_KEPT)
def test_what_surrounds_a_secret_text_stays(text: str, left: str) -> None:
    assert redacted([text]) == [left]
    assert Redactor(Rules()).text(text) == left


@pytest.mark.parametrize("text", INNOCENT_TEXTS)
def test_a_text_that_only_resembles_a_secret_stays(text: str) -> None:
    assert redacted([text, {"x": text.encode()}]) == [text, {"x": text.encode()}]
    assert Redactor(Rules()).text(text) is text or Redactor(Rules()).text(text) == text


def test_a_private_key_without_its_end_is_replaced_to_the_end_of_the_text() -> None:
    assert redacted("x " + PEM[:50] + " cut off") == "x [redacted: private key]"


@pytest.mark.parametrize("name", SECRET_NAMES.split())
def test_a_value_under_the_name_of_a_secret_is_replaced(name: str) -> None:
    assert Redactor(Rules()).is_secret_key(name)
    assert redacted({name: "hunter2", "n": 1}) == {name: MARKER, "n": 1}
    assert redacted([{"deep": {"x": 0, name: "hunter2"}}]) == [{"deep": {"x": 0, name: MARKER}}]


@pytest.mark.parametrize("name", INNOCENT_NAMES.split())
def test_a_value_under_an_innocent_name_stays(name: str) -> None:
    assert not Redactor(Rules()).is_secret_key(name)
    assert redacted({name: "hunter2"}) == {name: "hunter2"}


def test_everything_below_a_secret_name_is_replaced_but_none_truth_and_nothing() -> None:
    value = {"credentials": [{"user": "u", "n": [1, 2.5, 10**30, -1]}, b"b", None, True, "", b"", ("t",)], "x": "y"}
    assert redacted(value) == {
        "credentials": [{"user": MARKER, "n": [MARKER] * 4}, MARKER.encode(), None, True, "", b"", (MARKER,)],
        "x": "y",
    }


def test_token_is_a_piece_of_text_below_logprobs_and_usage() -> None:
    value = {"logprobs": {"content": [{"token": "the", "logprob": -0.1}]}, "usage": {"token": 3}, "token": "t"}
    assert redacted(value) == {**value, "token": MARKER}


def test_a_longer_name_than_names_are_is_a_text() -> None:
    name = "password" * 16
    assert redacted({name: "x"}) == {name: "x"}


def test_further_words_are_secret_names_too() -> None:
    redactor = Redactor(Rules(keys=("badge-number", "größe")))
    value = {"BadgeNumber": "7", "die_größe": 3, "other": "x"}
    assert redacted(value, redactor) == {"BadgeNumber": MARKER, "die_größe": MARKER, "other": "x"}


def test_a_kept_name_stays_wherever_it_stands_and_a_kept_path_only_there() -> None:
    value = {"config": {"session_token": JWT}, "session_token": JWT}
    assert redacted(value, Redactor(Rules(keep=("session_token",)))) == value
    assert redacted(value, Redactor(Rules(keep=("config.sessionToken",)))) == {**value, "session_token": MARKER}


def test_a_secret_below_a_kept_name_is_still_a_secret() -> None:
    value = {"credentials": {"user": "u", "password": "p"}}
    assert redacted(value, Redactor(Rules(keep=("credentials",)))) == {"credentials": {"user": "u", "password": MARKER}}


def test_the_function_sees_every_value_that_is_a_text_after_the_patterns() -> None:
    seen: list[str] = []

    def shout(text: str) -> str:
        seen.append(text)
        return text.upper()

    redactor = Redactor(Rules(function=shout))
    assert redacted({"name": ["ann", "bob", 1], "token": "t", "k": f"x {JWT}"}, redactor) == {
        "name": ["ANN", "BOB", 1], "token": MARKER, "k": "X [REDACTED: JWT]",
    }  # fmt: skip
    assert "x [redacted: jwt]" in seen
    assert "name" not in seen
    assert redactor.text("hello") == "HELLO"


@pytest.mark.parametrize("fault", ["raises", "gives no text"])
def test_a_function_at_fault_costs_the_text_and_is_told_once(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(text: str) -> Any:
        if fault == "raises":
            raise RuntimeError(text)

    redactor = Redactor(Rules(function=broken))
    assert redacted(["a", "b"], redactor) == [MARKER, MARKER]
    told = capsys.readouterr().err
    assert told.count("clearstone:") == 1
    assert "redaction function" in told


def test_a_fault_while_a_payload_is_written_anew_costs_the_payload_alone(capsys: pytest.CaptureFixture[str]) -> None:
    class Text(str):
        __slots__ = ()

        def encode(self, *options: Any) -> bytes:
            raise RuntimeError("no")

    assert redacted(["a", "b"], Redactor(Rules(function=lambda text: Text(text + "!")))) == MARKER
    assert "redacted whole" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"keys": ("",)}, {"keep": ("--",)}, {"keys": (1,)}, {"function": 3}])
def test_options_that_cannot_be_meant_are_refused(options: Any) -> None:
    with pytest.raises(ConfigurationError):
        Rules(**options)


def test_a_single_name_may_be_given_as_a_text() -> None:
    assert Rules(keys="badge").keys == ("badge",)  # type: ignore[arg-type]  # what a user writes by mistake


def test_attributes_are_redacted_by_key_and_by_value() -> None:
    attribute = Redactor(Rules(keep=("app.session_token",))).attribute
    assert attribute("http.request.header.authorization", ["abc"]) == [MARKER]
    assert attribute("http.request.header.authorization", ("abc", None)) == (MARKER, None)
    assert attribute("pin_password", 1234) == MARKER
    assert attribute("has_password", True) is True
    assert attribute("note", f"use {JWT}") == "use [redacted: jwt]"
    assert attribute("gen_ai.usage.input_tokens", 12) == 12
    assert attribute("app.session_token", JWT) == JWT
    assert attribute("request", {"api_key": "x", "n": [1]}) == {"api_key": MARKER, "n": [1]}
    clean = {"a": ["b", 1, None]}
    assert attribute("request", clean) is clean


def test_parameters_with_secret_names_are_found_by_their_positions() -> None:
    positions = redact.active().secret_positions
    assert positions(("prompt", "api_key", "max_tokens", "password")) == (1, 3)
    assert positions(("secret",)) == (0,)
    assert positions(()) == ()


def test_redaction_can_be_turned_off() -> None:
    redact.use(None)
    off = redact.active()
    value = {"password": "x", "t": JWT}
    assert off.payload(None, pickle.dumps(value, 5)) is None
    assert off.text(JWT) == JWT
    assert off.attribute("password", "x") == "x"
    assert not off.is_secret_key("password")
    assert off.described(b'{"repr": "password=\'x\'"}') is None
    assert payload.encode(value) == (PICKLE, pickle.dumps(value, 5))


def test_encoding_a_value_redacts_it_and_says_so() -> None:
    form, data = payload.encode({"password": "hunter2", "n": 1}, ("site", "arguments"))
    assert form == PICKLE | REDACTED
    assert pickle.loads(data) == {"password": MARKER, "n": 1}
    assert payload.encode([1]) == (PICKLE, pickle.dumps([1], 5))


@pytest.mark.parametrize("value", [{"otp": 1}, {"otp": "x"}, [{"jwt": 1}], b"://:p@", (b"://:p@",), "://:p@"])
def test_the_shortest_secrets_are_found(value: Any) -> None:
    assert redacted(value) != value


@pytest.mark.parametrize("value", ["__main__", ["__main__", "x" * 5000]])
def test_a_value_is_recorded_in_the_same_form_when_it_is_seen_again(value: Any) -> None:
    first = payload.encode(value, "kin")
    assert first[0] == CLOUDPICKLE
    assert payload.encode(value, "kin") == payload.encode(value, "kin") == first


@pytest.mark.parametrize(
    ("given", "gave"),
    [(((1,), {}), 1), ((("pwd",), {}), "pwd"), (((), {"pwd": 1}), {"pwd": 1}), ((("://:p@",), {}), "://:p@")],
)
def test_what_is_too_short_to_be_looked_at_holds_no_secret(given: Any, gave: Any) -> None:
    for value, innocent in ((given, INNOCENT_GIVEN), (gave, INNOCENT_GAVE)):
        assert redacted(value) == value or len(pickle.dumps(value, 5)) > innocent


def test_the_repr_in_a_stand_in_is_redacted() -> None:
    class Client:
        def __repr__(self) -> str:
            return f"Client(api_key='hunter2', url='u://a:hunter3@h', {{'password': \"hunter4\"}}, name='n') {JWT}"

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("no")

    form, data = payload.encode(Client())
    assert form & REDACTED
    assert CODECS[form & CODEC_MASK] == "stand-in"
    assert b"hunter" not in data
    assert b"name='n'" in data


def test_a_repr_among_arguments_that_do_not_pickle_is_redacted() -> None:
    class Client:
        def __repr__(self) -> str:
            return "Client(api_key='hunter2')"

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("no")

    form, data = encode_arguments((Client(), 1), {"password": "hunter2", "n": 1})
    assert form == PICKLE | REDACTED
    assert b"hunter2" not in data
    args, kwargs = pickle.loads(data)
    assert args[0].text == f"Client(api_key='{MARKER}')"
    assert kwargs == {"password": MARKER, "n": 1}


def test_an_exception_is_redacted_in_its_message_its_traceback_and_its_data() -> None:
    error = RuntimeError(f"refused {JWT}")
    error.password = "hunter2"  # type: ignore[attr-defined]  # as clients' errors have such
    failure = dump_exception(error)
    assert failure.message == "refused [redacted: jwt]"
    assert JWT not in failure.traceback
    assert failure.value.redacted
    loaded = load_exception(failure)
    assert type(loaded) is RuntimeError
    assert vars(loaded) == {"password": MARKER}
    assert loaded.args == ("refused [redacted: jwt]",)


def test_the_rewriter_is_not_imported_until_something_is_suspicious() -> None:
    program = (
        "import sys, clearstone.codec.payload as p\n"
        "p.encode({'max_tokens': 5})\n"
        "assert 'clearstone.codec.rewrite' not in sys.modules\n"
        "p.encode({'password': 'x'})\n"
        "assert 'clearstone.codec.rewrite' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


DOCUMENT = Path(__file__).parents[2] / "docs" / "redaction.md"


def test_the_examples_of_the_document_are_true() -> None:
    result = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_the_tables_of_the_document_are_whole() -> None:
    document = DOCUMENT.read_text()
    written = {letters(name) for name in re.findall(r"`([^`\n]+)`", document)}
    assert {*WORDS, *AMBIGUOUS_WORDS, *WHOLE_NAMES} <= written
    assert {pattern.name for pattern in PATTERNS} == set(re.findall(r"`\[redacted: ([^\]]+)\]`", document))
