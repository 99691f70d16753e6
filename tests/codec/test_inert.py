"""The inert reader gives what a loader would load, as builtin values and named nodes, and loads nothing."""

from __future__ import annotations

import copyreg
import pickle
import subprocess
import sys
import textwrap
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.codec.inert import Aside, Key, Limits, Name, Object, Unreadable, names, read, walk
from clearstone.codec.show import render
from clearstone.errors import CheckpointDamagedError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters(codec=None), max_size=20),
    st.binary(max_size=20),
)
keys = st.one_of(scalars, st.tuples(scalars, scalars), st.frozensets(scalars, max_size=3))
leaves = st.one_of(scalars, st.binary(max_size=20).map(bytearray), st.sets(keys, max_size=4), keys)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, max_size=5)
    return st.one_of(several, several.map(tuple), st.dictionaries(keys, inner, max_size=5))


@dataclass
class Message:
    role: str
    content: Any


class Listing(list[int]):
    label = ""


def saved(value: Any, protocol: int = 5) -> Any:
    return read(pickle.dumps(value, protocol))


def only(node: Any) -> Object:
    assert isinstance(node, Object)
    return node


# --- values ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.recursive(leaves, containers), st.sampled_from(PROTOCOLS))
def test_builtin_values_come_back_as_themselves_in_every_protocol(value: Any, protocol: int) -> None:
    found = saved(value, protocol)
    assert found == value
    assert type(found) is type(value)


def test_a_nan_a_negative_zero_and_an_infinity_come_back() -> None:
    assert [repr(number) for number in saved([float("nan"), -0.0, float("-inf")])] == ["nan", "-0.0", "-inf"]


def test_a_text_of_python_2_keeps_its_escapes_and_stays_bytes_where_its_encoding_is_unknown() -> None:
    assert read(rb"S'a\x41\n\101\'\q'" + b"\n.") == "aA\nA'\\q"
    assert read(b"U\x02\xc3\xa9.") == b"\xc3\xa9"


def test_what_is_shared_stays_shared_and_a_cycle_stays_a_cycle() -> None:
    inner: list[Any] = [1]
    inner.append(inner)
    found = saved([inner, inner])
    assert found[0] is found[1] is found[0][1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_value_that_contains_itself_is_not_taken_for_one_that_hides_something(protocol: int) -> None:
    bag: list[Any] = []
    short, long, table = (bag, 1), (bag, 1, 2, 3, 4), {"bag": bag}
    bag += [short, long, table, bag]
    holder = Message("a", None)
    holder.content = {"me": holder, "all": {(1, 2): holder}, "set": {holder.role}}
    assert isinstance(saved([short, long, table, holder], protocol), list)


def test_out_of_band_buffers_stand_where_they_belong() -> None:
    value, buffers = [pickle.PickleBuffer(b"abc"), pickle.PickleBuffer(bytearray(b"d"))], list[pickle.PickleBuffer]()
    data = pickle.dumps(value, 5, buffer_callback=buffers.append)
    assert read(data, buffers=[bytes(buffer) for buffer in buffers]) == [b"abc", b"d"]
    missing: Any = read(data)
    assert [type(node) for node in missing] == [Unreadable, Unreadable]


def test_bytes_after_the_stop_are_ignored_as_a_loader_ignores_them() -> None:
    assert read(pickle.dumps(1) + b"cos\nsystem\n.") == 1


def test_a_pickle_within_a_pickle_stays_bytes() -> None:
    inner = pickle.dumps(Message("a", "b"))
    assert saved({"inner": inner}) == {"inner": inner}


# --- objects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_instance_is_its_class_by_name_and_its_attributes(protocol: int) -> None:
    found = only(saved(Message("user", "hi"), protocol))
    assert (found.origin, found.maker, found.args) == ("created", Name(__name__, "Message"), ())
    assert found.states == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_is_what_would_be_called_and_with_what(protocol: int) -> None:
    found = only(saved(ValueError("bad", 3), protocol))
    assert (found.origin, found.maker, found.args) == ("called", Name("builtins", "ValueError"), ("bad", 3))


def test_items_and_pairs_of_an_object_are_kept_apart_from_its_state() -> None:
    listing = Listing([1, 2])
    listing.label = "x"
    found = only(saved(listing))
    assert (found.items, found.pairs, found.states) == ([1, 2], None, [{"label": "x"}])
    assert only(saved(OrderedDict(a=1))).pairs == {"a": 1}


def test_the_calls_by_which_other_protocols_create_objects_are_creations_too() -> None:
    new = only(read(b"ccopyreg\n__newobj__\ncmod\nCls\nK\x01\x86R."))
    keywords = only(read(b"ccopyreg\n__newobj_ex__\ncmod\nCls\nK\x01\x85}\x87R."))
    old = only(read(b"ccopyreg\n_reconstructor\ncmod\nCls\nc__builtin__\nlist\n]\x87R."))
    assert {node.origin for node in (new, keywords, old)} == {"created"}
    assert {node.maker for node in (new, keywords, old)} == {Name("mod", "Cls")}
    assert (new.args, keywords.args, keywords.kwargs, old.args) == ((1,), (1,), {}, ([],))


def test_an_object_is_one_node_however_often_it_stands_there() -> None:
    message = Message("a", "b")
    found = saved({"first": message, "last": message})
    assert found["first"] is found["last"]


@pytest.mark.parametrize(
    ("maker", "args"),
    [
        ("_codecs\nencode", ("\u20ac", "latin1")),
        ("_codecs\nencode", ()),
        ("builtins\nbytes", (1, 2)),
        ("builtins\nbytearray", (1,)),
        ("builtins\nset", (1,)),
        ("builtins\nfrozenset", (1,)),
        ("builtins\ncomplex", (1, 2)),
        ("copyreg\n_reconstructor", (1,)),
        ("copyreg\n__newobj__", ()),
        ("copyreg\n__newobj_ex__", (1,)),
    ],
)
def test_a_call_that_does_not_make_the_builtin_value_it_should_stays_a_call(maker: str, args: Any) -> None:
    found = only(read(f"c{maker}\n".encode() + pickle.dumps(args, 2)[2:-1] + b"R."))
    assert (found.origin, found.args) == ("called", args)


@pytest.mark.parametrize("data", [b"Pabc\n.", b"\x8c\x03abcQ."])
def test_a_persistent_id_is_the_call_it_would_cause(data: bytes) -> None:
    found = only(read(data))
    assert (found.maker, found.args) == (Name("pickle", "persistent_load"), ("abc",))


def test_an_extension_code_is_a_name_that_is_not_looked_up() -> None:
    copyreg.add_extension(__name__, "Message", 240)
    try:
        assert read(b"\x80\x02\x82\xf0.") == Name("copyreg", "extension_240")
    finally:
        copyreg.remove_extension(__name__, "Message", 240)


SCRIPT = """
    import enum, sys, cloudpickle

    class Agent:
        def __init__(self):
            self.memory = [{"role": "user", "content": "hi"}]
            self.score = lambda message: len(message)

    class Mood(enum.Enum):
        GOOD = 1

    def outer(n):
        return lambda: n

    sys.stdout.buffer.write(cloudpickle.dumps([Agent(), Agent, Mood, Mood.GOOD, outer(3), outer, sys]))
"""


def test_a_scripts_functions_classes_and_instances_read_by_their_names() -> None:
    data = subprocess.check_output([sys.executable, "-c", textwrap.dedent(SCRIPT)])
    assert render(read(data), width=1000) == (
        "[Agent(memory=[{'role': 'user', 'content': 'hi'}], score=<function Agent.__init__.<locals>.<lambda>>), "
        "<class Agent>, <class Mood>, Mood(1), <function outer.<locals>.<lambda>>, <function outer>, <module sys>]"
    )


def test_a_call_that_fills_an_object_in_stands_with_that_object() -> None:
    (setter,) = only(read(cloudpickle.dumps(lambda: 1))).setters
    assert isinstance(setter.maker, Name)
    assert setter.maker.qualname == "_function_setstate"


# --- keys and nodes --------------------------------------------------------------------------------------------------


def test_an_object_may_be_a_key_and_what_cannot_be_hashed_stands_in_a_key() -> None:
    found = read(b"}(]K\x01cos\nx\nK\x02c__builtin__\nobject\n)\x81K\x03u.")
    assert isinstance(found, dict)
    unhashable, name, made = found
    assert (type(unhashable), type(name), type(made)) == (Key, Key, Object)
    assert (unhashable.value, name.value) == ([], Name("os", "x"))


def test_long_texts_and_a_crowd_of_numbers_are_not_hashed_either() -> None:
    found = saved({"x" * 20_000: 1, **dict.fromkeys(map(str, range(2_000)))})
    assert [type(key) for key in found if not isinstance(key, str)] == [Key]
    assert sum(isinstance(key, Key) for key in saved(set(range(1_500)))) == 500


def test_a_node_shows_one_level_of_itself() -> None:
    called = [repr(node) for node in walk(read(b"cos\nsystem\n)R)R.")) if isinstance(node, Object)]
    assert called == ["<called 'Object', not loaded>", "<called 'os:system', not loaded>"]
    others = [Key([[]]), Unreadable("torn", 7), Aside(1, (2,))]
    assert list(map(repr, others)) == [
        "<key of type list>",
        "<unreadable at byte 7: torn>",
        "<a value, and 1 thrown away>",
    ]


def test_a_walk_meets_every_node_once() -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    met = list(walk(saved({"a": (shared, shared), "b": OrderedDict(x=Message("r", "c"))})))
    assert len(met) == len({id(node) for node in met})
    assert {type(node) for node in met} == {dict, list, tuple, Object, Name}
    within = list(walk(Aside(Key([1]), (Unreadable("torn", 7, ({2},)),))))
    assert [type(node) for node in within] == [Aside, Unreadable, set, Key, list]


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_are_every_global_in_order_and_once_as_todays_python_calls_them() -> None:
    value = [Message("a", 1), OrderedDict(a=Message("b", 2)), {3}]
    assert names(pickle.dumps(value, 0)) == [
        "copyreg:_reconstructor",
        f"{__name__}:Message",
        "builtins:object",
        "collections:OrderedDict",
        "builtins:set",
    ]
    assert names(pickle.dumps([1, "a"])) == []


def test_a_name_that_only_loading_would_compute_is_a_question_mark() -> None:
    computed = b"\x8c\x02oscbuiltins\nstr\n\x8c\x06system\x85R\x93."
    assert names(computed) == ["builtins:str", "os:?"]
    assert isinstance(read(computed), Unreadable)


def test_names_of_every_way_to_name_a_global_are_listed() -> None:
    data = b"(ca\nb\n\x8c\x01c\x8c\x01d\x93(ie\nf\n\x82\x07\x8c\x01g\x94\x8c\x03h.i\x94h\x00h\x01\x93t."
    assert names(data) == ["a:b", "c:d", "e:f", "copyreg:extension_7", "g:h.i"]


@pytest.mark.parametrize("data", [b"cos\nsystem\n", b"", b"\xff", pickle.dumps([Message("a", 1)])[:-1]])
def test_names_of_a_pickle_without_its_end_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointDamagedError, match=f"at byte .* of {len(data)}"):
        names(data)


def test_names_are_refused_past_the_limits_instead_of_cut() -> None:
    data = pickle.dumps([Message("a", number) for number in range(100)])
    with pytest.raises(CheckpointDamagedError, match="more than 50 opcodes"):
        names(data, limits=Limits(opcodes=50))
