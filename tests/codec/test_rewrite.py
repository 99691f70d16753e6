"""Pickles written anew without their secrets: objects, sharing, sizes, code."""

import collections
import dataclasses
import datetime
import decimal
import enum
import io
import pickle
import subprocess
import sys
import types
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import pydantic
import pytest

from clearstone.codec import inert, payload
from clearstone.codec.redact import MARKER, Redactor, Rules
from clearstone.codec.rewrite import rewrite
from clearstone.span import Payload

TOKEN = "ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7abcdef"
TOKEN_MARKER = "[redacted: github token]"


def left_of(value: Any) -> Any:
    """What a value that holds a secret loads as."""
    return pickle.loads(left_of_pickle(pickle.dumps(value, 5)))


def left_of_pickle(data: bytes) -> bytes:
    left = Redactor(Rules()).payload(None, data)
    assert left is not None, "nothing was redacted"
    return left


@dataclasses.dataclass
class Config:
    user: str
    api_key: str
    retries: int = 3


class Slotted:
    __slots__ = ("name", "password")

    def __init__(self, name: str, password: str) -> None:
        self.name, self.password = name, password


class Model(pydantic.BaseModel):
    name: str
    client_secret: str
    inner: dict[str, Any] = {}


class Pair(NamedTuple):
    left: str
    right: Any


class Kind(enum.Enum):
    A = "a"


class Number(int):
    pass


class RefusedError(RuntimeError):
    token: str


def test_attributes_of_objects_are_redacted_by_their_names() -> None:
    config, slotted, model = left_of([
        Config("u", "hunter2"), Slotted("n", "hunter2"), Model(name="n", client_secret="hunter2", inner={"token": "t"}),
    ])  # fmt: skip
    assert config == Config("u", MARKER)
    assert (slotted.name, slotted.password) == ("n", MARKER)
    assert model == Model(name="n", client_secret=MARKER, inner={"token": MARKER})


def test_objects_below_a_secret_name_keep_their_shape() -> None:
    left = left_of({"credentials": [Config("u", "k", 5), Config("v", "l", 6)], "after": Config("w", "m")})
    assert left["credentials"] == [Config(MARKER, MARKER, MARKER)] * 2  # type: ignore[arg-type]  # a number became text
    assert left["after"] == Config("w", MARKER)


def test_a_named_tuple_is_redacted_by_value() -> None:
    assert left_of(Pair(f"use {TOKEN}", [TOKEN])) == Pair(f"use {TOKEN_MARKER}", [TOKEN_MARKER])


def test_attributes_and_arguments_of_exceptions_are_redacted() -> None:
    error = RefusedError(f"401 for {TOKEN}", 401)
    error.token = "hunter2"
    left = left_of(error)
    assert type(left) is RefusedError
    assert left.args == (f"401 for {TOKEN_MARKER}", 401)
    assert left.token == MARKER


@pytest.mark.parametrize(
    "value",
    [
        uuid.UUID(int=7), decimal.Decimal("1.5"), datetime.datetime(2024, 1, 1), datetime.timedelta(1), Kind.A,
        Number(5), Pair("a", "b"), Path("/x"), np.arange(3), 1 + 2j, slice(1, 2), range(3), ValueError("x"),
        collections.deque(["a"], 3), collections.Counter("ab"), collections.defaultdict(list, a=[1]),
    ],
    ids=repr,
)  # fmt: skip
def test_an_object_made_from_arguments_is_replaced_as_a_whole(value: Any) -> None:
    assert left_of({"token": value, "a": [value.__class__], "z": 1}) == {"token": MARKER, "a": [type(value)], "z": 1}
    assert left_of([{"token": [value, {"k": value}]}, "z"]) == [{"token": [MARKER, {"k": MARKER}]}, "z"]


@pytest.mark.parametrize("make", [collections.OrderedDict, dict])
def test_a_dict_of_another_class_is_walked_too(make: Any) -> None:
    assert left_of(make(token="t", x=make(a=1))) == make(token=MARKER, x=make(a=1))
    assert left_of({"cookies": make(a="t")}) == {"cookies": make(a=MARKER)}


def test_namespaces_and_default_dicts_are_redacted_by_name() -> None:
    left = left_of([types.SimpleNamespace(token="t", x=1), collections.defaultdict(list, {"secret": "t"})])
    assert left[0] == types.SimpleNamespace(token=MARKER, x=1)
    assert left[1] == {"secret": MARKER}


def test_a_tuple_of_a_dict_a_name_and_a_value_is_no_item() -> None:
    value: Any = ({}, "password", "x")
    assert left_of([value, {"password": "x"}]) == [value, {"password": MARKER}]


def test_a_text_shared_with_a_secret_place_stays_where_it_is_innocent() -> None:
    text = "".join(["hun", "ter2"])
    value: list[Any] = [text, {"password": text}, text, {"token": [text, text]}, {text: text}]
    assert left_of(value) == ["hunter2", {"password": MARKER}, "hunter2", {"token": [MARKER] * 2}, {text: text}]
    assert left_of(value[::-1]) == [{text: text}, {"token": [MARKER] * 2}, "hunter2", {"password": MARKER}, "hunter2"]


def test_a_name_may_be_the_value_of_another() -> None:
    key = "".join(["pass", "word"])
    assert left_of({key: key, "other": key, "token": key}) == {"password": MARKER, "other": key, "token": MARKER}


def test_names_of_modules_and_classes_stay_where_they_are_secret_values_too() -> None:
    module = sys.intern(Config.__module__)
    left = left_of([{"token": module}, Config("Config", "Config"), {"secret": "Config"}])
    assert left == [{"token": MARKER}, Config("Config", MARKER), {"secret": MARKER}]


def test_a_container_shared_with_an_innocent_place_is_never_shown_under_a_secret_name() -> None:
    shared: Any = ["hunter2"]
    assert left_of({"a": shared, "token": shared, "b": shared}) == {"a": ["hunter2"], "token": MARKER, "b": ["hunter2"]}
    assert left_of({"token": shared, "b": shared}) == {"token": [MARKER], "b": [MARKER]}


def test_cycles_come_back() -> None:
    ring: dict[str, Any] = {"password": "x"}
    ring["self"] = ring
    inner: list[Any] = [ring, "t"]
    ring["token"] = inner
    inner.append(inner)
    left = left_of(ring)
    assert left["self"] is left
    assert left["password"] == MARKER
    assert left["token"][:2] == [MARKER, MARKER]
    assert left["token"][2] is left["token"]


@pytest.mark.parametrize("size", [255, 256, 65_000, 70_000, 1_500_000])
def test_texts_and_bytes_of_every_size_are_redacted_inside_and_outside_of_frames(size: int) -> None:
    filler = "lorem ipsum " * (size // 12 + 1)
    text = f"{filler[: size // 2]} {TOKEN} {filler[: size // 2]}"
    expected = text.replace(TOKEN, TOKEN_MARKER)
    left = left_of([filler, text, text.encode(), bytearray(text, "ascii"), {"password": text, "n": 1}, filler])
    assert left == [filler, expected, expected.encode(), expected.encode(), {"password": MARKER, "n": 1}, filler]
    assert type(left[3]) is bytearray
    assert left[0] is left[5]


def test_what_is_written_anew_is_read_without_loading_too() -> None:
    value = {"token": ["t"], "text": "x" * 70_000, "n": 1}
    assert inert.read(left_of_pickle(pickle.dumps(value, 5))) == {**value, "token": [MARKER]}


def test_the_class_of_an_object_that_was_replaced_is_shown_beside_the_value() -> None:
    shown = inert.read(left_of_pickle(pickle.dumps({"token": [uuid.UUID(int=7)]}, 5)))
    assert isinstance(shown, inert.Aside)
    assert shown.value == {"token": [MARKER]}
    assert inert.Name("uuid", "UUID") in shown.discarded


def test_buffers_out_of_band_stay() -> None:
    buffers: list[pickle.PickleBuffer] = []
    array = np.arange(1000)
    data = pickle.dumps({"password": "x", "array": array}, 5, buffer_callback=buffers.append)
    left = pickle.loads(left_of_pickle(data), buffers=buffers)
    assert left["password"] == MARKER
    assert (left["array"] == array).all()


def test_a_pickle_of_the_pure_python_pickler_is_redacted() -> None:
    pickler = pickle._Pickler(file := io.BytesIO(), 4)  # private, and of protocol 4
    pickler.dump({"token": ["t"], "x": (1, Config("u", "k"))})
    assert pickle.loads(left_of_pickle(file.getvalue())) == {"token": [MARKER], "x": (1, Config("u", MARKER))}


def test_functions_and_classes_stored_with_their_code_still_work() -> None:
    secret = "hunter2"

    class Local:
        token = "hunter2"
        limit = 3

        def ask(self, question: str) -> str:
            return question + " ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7abcdef"

    agent = Local()
    agent.password = secret  # type: ignore[attr-defined]  # as agents have such
    value = {"agent": agent, "token": lambda x: (x + 1, "const"), "credentials": [Local(), Local], "again": Local()}
    left = pickle.loads(left_of_pickle(cloudpickle.dumps(value, 5)))
    assert left["agent"].password == MARKER
    assert left["agent"].token == MARKER
    assert left["agent"].limit == 3
    assert left["agent"].ask("why?") == f"why? {TOKEN_MARKER}"
    assert left["token"](1) == (2, "const")
    assert left["credentials"][0].ask("")
    assert type(left["again"]) is left["credentials"][1]


def test_globals_of_a_stored_function_are_redacted_by_name() -> None:
    namespace = {"PASSWORD": "hunter2", "LIMIT": 3, "__name__": "__main__"}
    exec("def ask(): return PASSWORD, LIMIT", namespace)  # noqa: S102 - a function of a script
    left = pickle.loads(left_of_pickle(cloudpickle.dumps(namespace["ask"], 5)))
    assert left() == (MARKER, 3)


SCRIPT = """
import dataclasses, pickle, sys
from clearstone.codec import payload

@dataclasses.dataclass
class Config:
    api_key: "str"
    n: int = 0

API_KEY = "".join(["hun", "ter2"])

class Agent:
    def __init__(self): self.config = Config(API_KEY, 5); self.ask = lambda x: x + self.config.n

form, data = payload.encode({"agent": Agent(), "credentials": Config(API_KEY, 1), "tokens": [1]})
assert b"hunter2" not in data
assert form == 0x21, form
sys.stdout.buffer.write(data)
"""


def test_a_value_of_a_script_is_redacted_and_loads_from_its_stored_code(tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(SCRIPT)
    data = subprocess.run([sys.executable, script], check=True, capture_output=True, timeout=60).stdout
    left = payload.load_bytes(data)
    assert left["agent"].config.api_key == MARKER
    assert left["agent"].ask(1) == 6
    assert dataclasses.asdict(left["credentials"]) == {"api_key": MARKER, "n": MARKER}
    assert [field.name for field in dataclasses.fields(left["credentials"])] == ["api_key", "n"]
    assert left["tokens"] == [1]


def test_a_pickle_without_secrets_is_given_back_as_it_is() -> None:
    data = pickle.dumps({"token": None, "max_tokens": 5, "x": [Config("u", "")]}, 5)
    assert rewrite(data, Redactor(Rules())) is data
    assert Redactor(Rules()).payload(None, data) is None


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_a_pickle_of_another_protocol_is_replaced_as_a_whole(protocol: int) -> None:
    data = pickle.dumps({"password": TOKEN}, protocol)
    assert left_of_pickle(data) == pickle.dumps(MARKER, 5)


@pytest.mark.parametrize(
    "data",
    [
        b"ghp_aB3dE6gH9jK2mN5pQ8sT1vW4yZ7abcdef",
        pickle.dumps([TOKEN], 5)[:-1],
        pickle.dumps([TOKEN], 5) + b"more",
        b"\x80\x05" + pickle.dumps(TOKEN, 5)[11:-1] + b"R.",
        b"\x80\x05" + pickle.dumps(TOKEN, 5)[11:-1] + b"h\x07.",
        b"\x80\x05" + pickle.dumps(TOKEN, 5)[11:-1] + b"u.",
        b"\x80\x05(" + pickle.dumps(TOKEN, 5)[11:-1] + b"u.",
        b"\x80\x05" + pickle.dumps(TOKEN, 5)[11:-1] + b"(\x93.",
        b"\x80\x05\x8d\xff\xff\xff\xff\xff\xff\xff\xff" + TOKEN.encode() + b".",
        b"\x80\x05\x8b\xff\xff\xff\xff" + TOKEN.encode() + b".",
        b"\x80\x05\x8c\x08password\x94\x8c",
    ],
)
def test_bytes_that_are_no_pickle_are_replaced_as_a_whole(data: bytes) -> None:
    assert left_of_pickle(data) == pickle.dumps(MARKER, 5)


def recorded(value: Any) -> tuple[Any, bytes]:
    """What a value loads as, and the bytes that are kept of it."""
    left = payload.without_secrets(payload.dump(value))
    return payload.load(left), b"".join((left.data, *left.buffers))


def letters_of(text: bytes) -> Any:
    return np.frombuffer(text, dtype=np.uint8)


def test_the_buffer_of_a_secret_array_is_not_kept() -> None:
    value, kept = recorded({"password": letters_of(b"hunter2"), "image": letters_of(b"pixels")})
    assert value["password"] == MARKER
    assert value["image"].tobytes() == b"pixels"
    assert b"hunter2" not in kept


def test_arrays_beside_secret_ones_keep_their_buffers_in_order() -> None:
    first, second, third = letters_of(b"first"), letters_of(b"hunter2"), letters_of(b"third")
    value, kept = recorded([first, {"token": [second, {"deep": second}]}, third, {"secret": third, "again": first}])
    assert [value[0].tobytes(), value[2].tobytes(), value[3]["again"].tobytes()] == [b"first", b"third", b"first"]
    assert value[1] == {"token": [MARKER, {"deep": MARKER}]}
    assert value[3]["secret"] == MARKER
    assert b"hunter2" not in kept


def test_a_secret_buffer_that_stands_for_itself_becomes_bytes_of_its_kind() -> None:
    value, kept = recorded(
        {
            "password": pickle.PickleBuffer(bytearray(b"hunter2")),
            "token": pickle.PickleBuffer(b"hunter2"),
            "image": pickle.PickleBuffer(b"pixels"),
        }
    )
    assert value["password"] == bytearray(MARKER.encode())
    assert bytes(value["token"]) == MARKER.encode()
    assert bytes(value["image"]) == b"pixels"
    assert b"hunter2" not in kept


def test_of_what_is_redacted_whole_no_buffer_is_kept() -> None:
    broken = Payload("pickle", pickle.dumps({"password": "x"}, 5) + b"more", (b"hunter2",))
    assert payload.without_secrets(broken).buffers == ()


def test_an_exempt_array_keeps_its_buffer() -> None:
    redactor = Redactor(Rules(keep=("password",)))
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps({"password": letters_of(b"x"), "token": letters_of(b"y")}, 5, buffer_callback=buffers.append)
    assert redactor.buffers(data, (b"x", b"y")) == (b"x",)


def test_a_long_number_whose_bytes_spell_a_secret_is_searched_too() -> None:
    left = left_of_pickle(pickle.dumps([int.from_bytes(TOKEN.encode(), "little"), 1 << 200], 5))
    assert TOKEN.encode() not in left
    assert pickle.loads(left) == [TOKEN_MARKER.encode(), 1 << 200]
