"""Unloaded objects read as a person would write them, in a line and in JSON, and never without bounds."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import json
import pathlib
import pickle
import subprocess
import sys
import textwrap
import uuid
import zoneinfo
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import cloudpickle
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone import traced
from clearstone.checkpoint.missing import Missing, MissingMember
from clearstone.codec import payload
from clearstone.codec.exceptions import dump_exception
from clearstone.codec.inert import Aside, Key, Unreadable, read
from clearstone.codec.show import render, to_json, type_name

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@dataclass
class Message:
    role: str
    content: Any = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frozen:
    number: int
    text: str


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self) -> None:
        self.left, self.right = 1, [2]


class Both(Slotted):
    def __init__(self) -> None:
        super().__init__()
        self.extra = 3


class Listing(list[int]):
    pass


class Table(dict[str, int]):
    pass


class Mood(enum.Enum):
    GOOD = 1


class Point(NamedTuple):
    x: int
    y: int


class RateLimitError(Exception):
    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Model(pydantic.BaseModel):
    name: str
    size: int = 1


class Stateful:
    def __getstate__(self) -> tuple[int, str]:
        return 1, "x"

    def __setstate__(self, state: object) -> None: ...


class Keywords:
    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, int]]:
        return (1,), {"b": 2}

    def __new__(cls, *_: object, **__: object) -> Self:
        return super().__new__(cls)


PARIS = zoneinfo.ZoneInfo("Europe/Paris")
TWO_HOURS = dt.timezone(dt.timedelta(hours=2), "two")
here = __name__

TABLE: list[tuple[Any, str]] = [
    (None, "None"),
    (True, "True"),
    (-1.5, "-1.5"),
    (1j, "1j"),
    (10**400, "<int of 1329 bits>"),
    ("it's\x1b[2J\u202e\ud800", '"it\'s\\x1b[2J\\u202e\\ud800"'),
    (b"\x00a", "b'\\x00a'"),
    (b"x" * 100, "<bytes of 100>"),
    (bytearray(b"ab"), "bytearray(b'ab')"),
    ((), "()"),
    ((1,), "(1,)"),
    ([[], {}, set(), frozenset()], "[[], {}, set(), frozenset()]"),
    ({3, 1, 2}, "{1, 2, 3}"),
    ({None, "b", (2, 1), "a"}, "{None, 'a', 'b', (2, 1)}"),
    (frozenset({"x"}), "frozenset({'x'})"),
    ({(1, 2): {"a": 1}, Mood.GOOD: 2}, f"{{(1, 2): {{'a': 1}}, {here}.Mood(1): 2}}"),
    (Message("user", "hi"), "Message(role='user', content='hi', more={})"),
    (Frozen(1, "x"), "Frozen(1, 'x')"),
    (Listing([1, 2]), "Listing([1, 2])"),
    (Table(a=1), "Table({'a': 1})"),
    (Mood.GOOD, f"{here}.Mood(1)"),
    (RateLimitError("slow down", 429), f"{here}.RateLimitError('slow down', status=429)"),
    (ValueError("bad", 3), "ValueError('bad', 3)"),
    (Model(name="x"), "Model(name='x', size=1)"),
    (Stateful(), "Stateful(state=(1, 'x'))"),
    (len, "len"),
    (json.dumps, "json.dumps"),
    (Message, f"{here}.Message"),
    ([...], "[Ellipsis]"),
    (type(None), "<class NoneType>"),
    (str.upper, "str.upper"),
    (range(0, 10, 2), "range(0, 10, 2)"),
    (dt.datetime(2024, 1, 2, 3, 4), "datetime.datetime(2024, 1, 2, 3, 4)"),
    (dt.datetime(2024, 1, 2, tzinfo=dt.UTC), "datetime.datetime(2024, 1, 2, 0, 0, tzinfo=datetime.timezone.utc)"),
    (
        dt.datetime(2024, 1, 2, tzinfo=TWO_HOURS),
        "datetime.datetime(2024, 1, 2, 0, 0, tzinfo=datetime.timezone(datetime.timedelta(seconds=7200), 'two'))",
    ),
    (
        dt.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=PARIS),
        "datetime.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=zoneinfo.ZoneInfo(key='Europe/Paris'))",
    ),
    (dt.date(2024, 2, 3), "datetime.date(2024, 2, 3)"),
    (dt.time(1, 2, 3, 4, tzinfo=dt.UTC), "datetime.time(1, 2, 3, 4, tzinfo=datetime.timezone.utc)"),
    (dt.timedelta(1, 2, 3), "datetime.timedelta(days=1, seconds=2, microseconds=3)"),
    (decimal.Decimal("1.50"), "Decimal('1.50')"),
    (fractions.Fraction(1, 3), "Fraction(1, 3)"),
    (uuid.UUID(int=77), "UUID('00000000-0000-0000-0000-00000000004d')"),
    (pathlib.PurePosixPath("/srv/x"), "PurePosixPath('/srv/x')"),
    (pathlib.PurePosixPath("x/y"), "PurePosixPath('x/y')"),
    (pathlib.PureWindowsPath("c:\\a\\b"), "PureWindowsPath('c:\\\\a\\\\b')"),
    (collections.OrderedDict(a=1), "OrderedDict({'a': 1})"),
    (collections.defaultdict(list, a=[1]), "defaultdict(list, {'a': [1]})"),
    (collections.deque([1, 2]), "deque([1, 2])"),
    (collections.deque([1, 2], maxlen=3), "deque([1, 2], maxlen=3)"),
    (collections.Counter("aab"), "Counter({'a': 2, 'b': 1})"),
    (functools.partial(print, 1, sep="x"), "functools.partial(print, 1, sep='x')"),
    (np.zeros((3, 4)), "<ndarray shape=(3, 4) dtype=float64>"),
    (np.array(["a", "bc"]), "<ndarray shape=(2,) dtype=U2>"),
    (np.float64(1.5), "float64(1.5)"),
    (np.int32(-7), "int32(-7)"),
    (np.bool_(True), "bool(True)"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("value", "line"), TABLE, ids=[line for _, line in TABLE])
def test_a_value_reads_as_a_person_would_write_it_in_every_protocol(value: Any, line: str, protocol: int) -> None:
    if isinstance(value, Frozen | Model) and protocol < 2:
        pytest.skip("does not pickle in protocols 0 and 1")
    assert render(read(pickle.dumps(value, protocol))) == line


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (Slotted(), "Slotted(left=1, right=[2])"),
        (Both(), "Both(extra=3, left=1, right=[2])"),
        (Point(1, 2), "Point(1, 2)"),
        (Keywords(), "Keywords(1, b=2)"),
        (dt.datetime(2024, 1, 2, fold=1), "datetime.datetime(2024, 1, 2, 0, 0, fold=1)"),
        (FileNotFoundError(2, "gone", "x"), "FileNotFoundError(2, 'gone', 'x')"),
    ],
)
def test_a_value_reads_as_a_person_would_write_it_in_protocol_5(value: Any, line: str) -> None:
    assert render(read(pickle.dumps(value, 5))) == line


def test_an_array_of_objects_and_a_date_in_an_unknown_zone_show_their_parts() -> None:
    class Zone(dt.tzinfo):
        def utcoffset(self, when: object) -> dt.timedelta:
            return dt.timedelta(0)

        dst = tzname = utcoffset  # type: ignore[assignment]  # never asked

    moment = read(cloudpickle.dumps(dt.datetime(2024, 1, 2, tzinfo=Zone())))
    assert render(moment, width=300).startswith("datetime.datetime(2024, 1, 2, 0, 0, 0, 0, tzinfo=")
    assert "Message(role='user'" in render(read(pickle.dumps(np.array([Message("user")]))), width=400)


def test_what_is_no_date_is_shown_as_it_stands() -> None:
    assert render(read(b"cdatetime\ndate\nC\x04\x00\x00\x63\x63\x85R.")) == "datetime.date(b'\\x00\\x00cc')"
    huge = b"cdatetime\ntimedelta\n\x8a\x09" + b"\xff" * 8 + b"\x00K\x00K\x00\x87R."
    assert render(read(huge)) == "datetime.timedelta(18446744073709551615, 0, 0)"


BAD_ARRAY = "numpy.core.numeric._frombuffer(b'', numpy.dtype('f8', ... 3 more), (None,), 'C')"


@pytest.mark.parametrize(
    ("maker", "args", "line"),
    [
        ("datetime:datetime", (b"short",), "datetime.datetime(b'short')"),
        (
            "datetime:datetime",
            (b"\xff" * 10,),
            "datetime.datetime(b'\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff')",
        ),
        ("datetime:time", (), "datetime.time()"),
        ("datetime:date", (1, 2, 3), "datetime.date(1, 2, 3)"),
        ("datetime:timezone", (1,), "datetime.timezone(1)"),
        ("uuid:UUID", ("x",), "UUID('x')"),
        ("numpy.core.numeric:_frombuffer", (b"", np.dtype("f8"), (None,), "C"), BAD_ARRAY),
        ("pathlib:PosixPath", (1,), "pathlib.PosixPath(1)"),
        ("pathlib:PosixPath", ("x" * 2_000,), "pathlib.PosixPath('" + "x" * 134 + "...')"),
        ("functools:partial", (len,), "functools.partial(len)"),
        ("collections:deque", (1, 2, 3), "deque(1, 2, 3)"),
        ("numpy.core.multiarray:scalar", (1, b"x"), "numpy.core.multiarray.scalar(1, b'x')"),
        ("numpy.core.numeric:_frombuffer", (b"", 1, (3,), "C"), "numpy.core.numeric._frombuffer(b'', 1, (3,), 'C')"),
        ("cloudpickle.cloudpickle:_make_function", (), "cloudpickle.cloudpickle._make_function()"),
        ("cloudpickle.cloudpickle:_make_function", (1,), "<function ?>"),
        ("cloudpickle.cloudpickle:_make_skeleton_class", (1, "C", (), 2), "<class C>"),
        ("cloudpickle.cloudpickle:_make_skeleton_class", (), "cloudpickle.cloudpickle._make_skeleton_class()"),
        ("cloudpickle.cloudpickle:_make_skeleton_enum", (1,), "cloudpickle.cloudpickle._make_skeleton_enum(1)"),
        ("cloudpickle.cloudpickle:subimport", (1,), "cloudpickle.cloudpickle.subimport(1)"),
        ("cloudpickle.cloudpickle:dynamic_subimport", ("a.b", {}), "<module a.b>"),
        ("vendored.cloudpickle:_builtin_type", ("CodeType",), "<class CodeType>"),
        ("builtins:type", (1,), "type(1)"),
        ("builtins:getattr", (1, "x"), "getattr(1, 'x')"),
        ("zoneinfo:ZoneInfo._unpickle", (1, 2), "zoneinfo.ZoneInfo._unpickle(1, 2)"),
        ("clearstone.codec.payload:begin_definition", ("", "f", 1, ()), "<definition f>"),
        ("clearstone.codec.payload:begin_definition", (1,), "clearstone.codec.payload.begin_definition(1)"),
        ("clearstone.codec.payload:named", ("module", "Agent.run"), "<function Agent.run>"),
        ("clearstone.codec.payload:named", (1,), "clearstone.codec.payload.named(1)"),
        ("clearstone.codec.payload:the_restored", (), "<the agent itself>"),
        ("clearstone.decorators:_empty_wrapper", (1,), "clearstone.decorators._empty_wrapper(1)"),
        ("clearstone.codec.exceptions:ExceptionData", (1,), "clearstone.codec.exceptions.ExceptionData(1)"),
    ],
)
def test_a_familiar_name_with_an_unfamiliar_shape_is_shown_as_it_stands(maker: str, args: Any, line: str) -> None:
    arguments = pickle.dumps(args, 2)[2:-1]
    assert render(read(b"c%b\n%b\n%bR." % (*map(str.encode, maker.split(":")), arguments))) == line


SCRIPT = """
    import sys
    from clearstone import checkpointable, traced
    from clearstone.codec import payload

    @traced(span_type="llm")
    def call(): ...

    def plain(): ...

    @checkpointable
    class Agent:
        def __init__(self):
            self.calls = [call, plain, self.step, Agent.step]
            self.me = self
        @traced
        def step(self): ...

    sys.stdout.buffer.write(payload.dump_by_value(Agent()))
"""


def test_definitions_of_a_script_read_by_name() -> None:
    data = subprocess.check_output([sys.executable, "-c", textwrap.dedent(SCRIPT)])
    assert render(read(data), width=1_000) == (
        "Agent(calls=[<function call>, <function plain>, clearstone.codec.payload.bound(<function Agent.step>, "
        "<cycle>, <class Agent>), clearstone.codec.payload.bound(<function Agent.step>, None, <class Agent>)], "
        "me=<cycle>)"
    )


def test_functions_classes_and_modules_stored_by_value_read_by_name() -> None:
    @traced
    def inner() -> None: ...

    class Local(enum.Enum):
        A = 1

    line = render(
        read(payload.dump_by_value([inner, lambda: 1, Local, json, inner.__code__, staticmethod(len)])), width=1500
    )
    place = "test_functions_classes_and_modules_stored_by_value_read_by_name.<locals>"
    assert line == (
        f"[<function {place}.inner>, <function {place}.<lambda>>, <class {place}.Local>, <module json>, "
        f"<code {place}.inner>, staticmethod(len)]"
    )


def test_a_recorded_exception_reads_as_itself() -> None:
    try:
        try:
            raise KeyError("k")
        except KeyError as cause:
            raise RateLimitError("slow down", 429) from cause
    except RateLimitError as error:
        line = render(read(dump_exception(error).value.data))
    assert line == f"{here}.RateLimitError('slow down', status=429, cause=KeyError('k'))"


# --- a line ----------------------------------------------------------------------------------------------------------

STATE = {
    "memory": [{"role": "user", "content": "hello " * 20, "n": 1} for _ in range(14)],
    "score": 0.5,
    "when": dt.datetime(2024, 1, 2, 3, 4, 5),
}


def test_every_item_of_a_line_gets_its_share() -> None:
    assert render(read(pickle.dumps(STATE))) == (
        "{'memory': [{'role': 'user', ... 2 more}, ... 13 more], 'score': 0.5, "
        "'when': datetime.datetime(2024, 1, 2, 3, 4, 5)}"
    )


def test_items_and_depth_of_a_line_are_bounded() -> None:
    assert render([1, 2, 3, [4]], max_items=2) == "[1, 2, ... 2 more]"
    assert render([[[[]]], {"a": {"b": 1}}], depth=2) == "[[[...]], {'a': {...}}]"
    assert render("x" * 1_000, width=20) == "'xxxxxxxxxxxxxxx...'"


def test_a_set_is_in_order_whatever_this_process_hashes_by() -> None:
    assert render({"b", "a", (2, "b"), (2, "a"), 3}) == "{3, 'a', 'b', (2, 'a'), (2, 'b')}"
    assert render(set(map(str, range(20_000))), max_items=1).endswith(", ... 19999 more}")
    within = read(b"\x8f(\x8f(K\x02K\x01\x90](\x8f(K\x03\x90e\x90.")
    assert render(within) == "{[{3}], {1, 2}}"


def test_however_deep_one_wants_to_look_nothing_recurses_without_end() -> None:
    deep = read(b")" + b"\x85" * 100_000 + b".")
    assert render(deep, depth=10**9, width=10**6).count("(") == 51
    assert json.dumps(to_json(deep, depth=10**9)).count("$tuple") == 50


def test_a_cycle_is_named() -> None:
    loop: list[Any] = []
    loop += [loop, {"a": loop}]
    assert render(read(pickle.dumps(loop))) == "[<cycle>, {'a': <cycle>}]"


def test_names_from_a_pickle_cannot_write_to_the_terminal() -> None:
    assert render(read(b"ca\x1b[2J\nb\n)\x81}\x8c\x02\x1bxK\x01sb.")) == "b('\\x1bx'=1)"
    assert render(read(b"ca\x1b[2J\nb\n.")) == "a\\x1b[2J.b"


@settings(deadline=None)
@given(
    st.integers(0, 60),
    st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
)
def test_a_line_is_never_longer_than_asked(width: int, value: Any) -> None:
    assert len(render(value, width=width)) <= width


# --- JSON ------------------------------------------------------------------------------------------------------------


def as_json(value: Any, **limits: int) -> Any:
    told = to_json(read(pickle.dumps(value)), **limits)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    return told


def test_json_of_plain_values_is_themselves_and_marks_the_rest() -> None:
    assert as_json({"a": [1, 2.5, None, True, "x"]}) == {"a": [1, 2.5, None, True, "x"]}
    assert as_json((1, b"\x00\xff", bytearray(b"a"))) == {
        "$tuple": [1, {"$bytes": 2, "$hex": "00ff"}, {"$bytearray": 1, "$hex": "61"}]
    }
    assert as_json([{2, 1}, frozenset("a")]) == [{"$set": [1, 2]}, {"$frozenset": ["a"]}]
    assert as_json([float("nan"), 1 << 60, 1 << 2_000, 1j]) == [
        {"$float": "nan"},
        {"$int": "1152921504606846976"},
        {"$int": "2001 bits"},
        {"$complex": "1j"},
    ]
    assert as_json(len) == {"$name": "builtins:len"}


def test_json_of_a_dict_whose_keys_could_be_mistaken_is_a_list_of_pairs() -> None:
    assert as_json({1: "a", "b": 2}) == {"$dict": [[1, "a"], ["b", 2]]}
    assert as_json({"$type": 1}) == {"$dict": [["$type", 1]]}


def test_json_of_an_object_tells_type_arguments_and_attributes() -> None:
    assert as_json(Message("user")) == {
        "$type": f"{here}:Message",
        "$attributes": {"role": "user", "content": None, "more": {}},
    }
    assert as_json(ValueError("x")) == {"$call": "builtins:ValueError", "$args": ["x"]}
    assert as_json(dt.date(2024, 1, 2)) == {"$type": "datetime:date", "$text": "datetime.date(2024, 1, 2)"}
    assert to_json(read(b"cos\nx\n)R)R.")) == {"$call": "?", "$maker": {"$call": "os:x"}}


def test_json_shows_a_container_once_and_points_to_it() -> None:
    message = {"role": "user"}
    state = {"a/b~": [message], "last": message, "object": Message("r", {"back": message})}
    told = as_json(state)
    assert told["last"] == {"$ref": "#/a~1b~0/0"}
    assert told["object"]["$attributes"]["content"]["back"] == {"$ref": "#/a~1b~0/0"}
    loop: list[Any] = [[]]
    loop[0].append(loop)
    assert as_json(loop) == [[{"$ref": "#"}]]


def test_json_is_bounded_in_items_depth_and_size() -> None:
    assert as_json([1, 2, 3], max_items=2) == [1, 2, {"$more": 1}]
    assert as_json({"a": 1, "b": 2}, max_items=1) == {"a": 1, "$more": 1}
    assert as_json({1: 1, 2: 2}, max_items=1) == {"$dict": [[1, 1], {"$more": 1}]}
    assert as_json([[[]]], depth=2) == [[{"$cut": "builtins:list"}]]
    assert as_json(["x" * 30_000])[0]["$length"] == 30_000
    assert len(json.dumps(as_json([["x" * 100] * 50] * 50, size=2_000))) < 5_000
    assert len(json.dumps(as_json(dict.fromkeys(range(500), "x" * 100), size=2_000))) < 5_000
    assert len(json.dumps(as_json({str(n): {n: "x" * 100} for n in range(500)}, size=2_000))) < 5_000


def test_json_of_what_cannot_be_read_says_why() -> None:
    assert to_json(read(b"NN")) == {
        "$unreadable": "the bytes end before the pickle's STOP",
        "$offset": 2,
        "$partial": [None, None],
    }
    assert to_json(read(b"h\x07.")) == {"$unreadable": "memo entry 7 was never stored", "$offset": 0}
    assert to_json(read(b"cos\nx\n)R0N.")) == {"$value": None, "$discarded": [{"$call": "os:x"}]}


def test_a_type_is_told_without_loading_it() -> None:
    nodes = [
        1,
        {},
        Key([1]),
        read(pickle.dumps(Message("a"))),
        read(pickle.dumps(ValueError())),
        read(cloudpickle.dumps(json)),
    ]
    assert [type_name(node) for node in nodes] == [
        "builtins:int",
        "builtins:dict",
        "builtins:list",
        f"{here}:Message",
        "builtins:ValueError",
        "types:ModuleType",
    ]
    assert (render(object()), to_json(object())) == ("<object>", {"$object": []})
    assert type_name(Unreadable("torn", 1)).endswith("Unreadable")
    assert type_name(Aside(1, ())).endswith("Aside")


def test_what_a_state_lacks_reads_as_missing_with_its_type_and_path() -> None:
    member = MissingMember("self.search.lock", "_thread.lock", "<a lock>", "it refuses")
    assert render(read(payload.dump([Missing(member)]).data)) == "[<missing _thread.lock self.search.lock>]"
