"""Hostile pickles are read without executing anything, without an exception, and within bounds."""

from __future__ import annotations

import _compat_pickle
import contextlib
import io
import json
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clearstone.codec.inert import Aside, Limits, Name, Node, Object, Unreadable, names, read
from clearstone.codec.opcodes import HANDLERS
from clearstone.codec.show import render, to_json
from clearstone.errors import CheckpointDamagedError

if TYPE_CHECKING:
    from pathlib import Path


def u8(number: int) -> bytes:
    return struct.pack("<Q", number)


COMMAND = b"\x8c\x0atouch /tmp"

CALLS = {
    "REDUCE": b"cos\nsystem\n" + COMMAND + b"\x85R.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + COMMAND + b"\x85R.",
    "dotted STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x10print.__call__.x\x93" + COMMAND + b"\x85R.",
    "INST": b"(S'touch /tmp'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + COMMAND + b"o.",
    "NEWOBJ": b"cos\nsystem\n" + COMMAND + b"\x85\x81.",
    "NEWOBJ_EX": b"\x80\x04cos\nsystem\n" + COMMAND + b"\x85}\x92.",
    "BUILD on a class": b"cuuid\nSafeUUID\n}\x8c\x04safeK\x01sb.",
    "BUILD on a dict": b"}}\x8c\x01aK\x01sb.",
    "APPEND on a call": b"cos\nsystem\n" + COMMAND + b"\x85RK\x01a.",
    "SETITEM on a module": b"cos\nenviron\n\x8c\x04PATH\x8c\x01xs.",
    "ADDITEMS on a list": b"](K\x01\x90.",
    "EXT1": b"\x80\x02\x82\x01)R.",
    "EXT4": b"\x80\x02\x84\xff\xff\xff\xff.",
    "PERSID": b"Pos.system\n.",
    "BINPERSID": b"cos\nsystem\nQ.",
    "call of a call": b"cfunctools\npartial\ncos\nsystem\n\x85R" + COMMAND + b"\x85R.",
    "thrown away": b"cos\nsystem\n" + COMMAND + b"\x85R0}.",
    "left on the stack": b"cos\nsystem\n" + COMMAND + b"\x85R}.",
    "overwritten": b"}K\x01cos\nsystem\n" + COMMAND + b"\x85RsK\x01K\x02s.",
    "popped to the mark": b"(cos\nsystem\n" + COMMAND + b"\x85R1N.",
    "a nested pickle": b"c_pickle\nloads\nC\x0ecos\nsystem\n)R.\x85R.",
}
BROKEN = {
    "nothing": b"",
    "no STOP": b"K\x01",
    "missing MARK": b"t.",
    "missing MARK under items": b"]K\x01e.",
    "stack underflow": b".",
    "TUPLE3 of two": b"NN\x87.",
    "underflow below a mark": b"N(\x85.",
    "DUP of nothing": b"2.",
    "REDUCE of nothing": b"R.",
    "PUT of nothing": b"q\x00.",
    "OBJ of nothing": b"(o.",
    "an odd SETITEMS": b"}(K\x01u.",
    "an odd DICT": b"(K\x01d.",
    "an unknown opcode": b"\xff.",
    "a protocol to come": b"\x80\x09N.",
    "BINBYTES8 of a terabyte": b"\x8e" + u8(1 << 40) + b"abc.",
    "BINUNICODE8 of all": b"\x8d" + u8((1 << 64) - 1) + b"abc.",
    "BYTEARRAY8 of a terabyte": b"\x96" + u8(1 << 40) + b"abc.",
    "LONG4 of two gigabytes": b"\x8b\xff\xff\xff\x7f\x01.",
    "LONG4 of less than nothing": b"\x8b\xff\xff\xff\xff\x01.",
    "BINSTRING of less than nothing": b"T\xff\xff\xff\xff.",
    "a line without its end": b"Vabc.",
    "a memo index that is a word": b"Npx\n.",
    "a negative memo index": b"Np-1\n.",
    "marks without end": b"(" * 100_000,
    "a frame within a frame": b"\x95" + u8(20) + b"\x95" + u8(1) + b"N.",
    "an opcode across a frame's end": b"\x95" + u8(3) + b"cos\nsystem\n.",
}
ODD = {
    "LONG_BINPUT of two billion": b"Nr\x00\x00\x00\x80.",
    "a memo entry that is not there": b"h\x07.",
    "text that is no UTF-8": b"\x8c\x02\xff\xfe.",
    "a name that is no UTF-8": b"c\xff\n\xfe\n.",
    "an integer that is a word": b"Ione\n.",
    "an integer of ten thousand digits": b"L" + b"9" * 10_000 + b"L\n.",
    "a float that is a word": b"Fone\n.",
    "a text without quotes": b"Sabc\n.",
    "two hundred thousand tuples in each other": b")" + b"\x85" * 200_000 + b".",
    "a list of a hundred thousand lists in each other": b"]" * 100_000 + b"a" * 99_999 + b".",
    "two hundred thousand tuples as one key": b"})" + b"\x85" * 200_000 + b"Ns.",
    "a hundred thousand calls of calls": b"cos\nx\n" + b")R" * 100_000 + b".",
    "billion laughs": b"]" + b"".join(b"q%c(h%ch%ch%ct" % (n, n, n, n) for n in range(200)) + b".",
    "billion laughs as a key": b"})" + b"2\x86" * 200 + b"Ns.",
    "a list that is its own key and member": b"\x8f\x94]\x94(h\x01h\x00e}(h\x01h\x01uh\x00(h\x01h\x00\x90h\x01.",
    "copies of a big set": b"cbuiltins\nset\nq\x00](" + b"N" * 1_000 + b"e\x85q\x01(" + b"h\x00h\x01R" * 9_000 + b"t.",
}
HOSTILE = {**CALLS, **BROKEN, **ODD}

corpus = pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)


def shown(data: bytes) -> Node:
    """Read and show `data` in every way, and check what is promised of that."""
    node = read(data)
    line = render(node)
    assert len(line) <= 160
    assert line.isprintable()
    json.dumps(to_json(node), allow_nan=False)
    try:
        assert all(":" in name for name in names(data))
    except CheckpointDamagedError:
        assert isinstance(node, Unreadable)
    return node


# --- nothing runs ----------------------------------------------------------------------------------------------------

AUDITED = """
import json, sys
from clearstone.codec.inert import names, read
from clearstone.codec.show import render, to_json
from clearstone.errors import CheckpointDamagedError

corpus = [bytes.fromhex(line) for line in sys.stdin.read().split()]
events, watching = [], True

def hook(event, arguments):
    if watching and event != "builtins.id":
        events.append((event, str(arguments)[:80]))

sys.addaudithook(hook)
for data in corpus:
    node = read(data)
    render(node), to_json(node)
    try:
        names(data)
    except CheckpointDamagedError:
        pass
watching = False
print(json.dumps([len(corpus), events]))
"""


def test_reading_the_hostile_corpus_imports_opens_compiles_and_runs_nothing() -> None:
    good = [pickle.dumps([1, {"a": {2}}, ValueError("x"), b"y"], protocol) for protocol in range(6)]
    lines = "\n".join(data.hex() for data in [*CALLS.values(), *BROKEN.values(), *ODD.values(), *good] if data)
    done = subprocess.run([sys.executable, "-c", AUDITED], input=lines, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [len(lines.split()), []]


def test_a_module_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()")
    monkeypatch.syspath_prepend(tmp_path)
    for data in (b"ctrap\nx\n.", b"(itrap\nx\n.", b"\x80\x04\x8c\x04trap\x8c\x01x\x93)R."):
        shown(data)
    assert "trap" not in sys.modules
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("way", "line"),
    [
        ("REDUCE", "os.system('touch /tmp')"),
        ("STACK_GLOBAL", "os.system('touch /tmp')"),
        ("dotted STACK_GLOBAL", "print.__call__.x('touch /tmp')"),
        ("INST", "os.system('touch /tmp')"),
        ("OBJ", "os.system('touch /tmp')"),
        ("NEWOBJ", "system('touch /tmp')"),
        ("NEWOBJ_EX", "system('touch /tmp')"),
        ("BUILD on a class", "<altered>(SafeUUID, safe=1)"),
        ("BUILD on a dict", "<altered>({}, a=1)"),
        ("APPEND on a call", "os.system('touch /tmp', [1])"),
        ("SETITEM on a module", "<altered>(os.environ, {'PATH': 'x'})"),
        ("EXT1", "copyreg.extension_1()"),
        ("PERSID", "pickle.persistent_load('os.system')"),
        ("BINPERSID", "pickle.persistent_load(os.system)"),
        ("call of a call", "functools.partial(os.system)('touch /tmp')"),
        ("thrown away", "{} <and, thrown away: os.system('touch /tmp')>"),
        ("left on the stack", "{} <and, thrown away: os.system('touch /tmp')>"),
        ("overwritten", "{1: 2} <and, thrown away: os.system('touch /tmp')>"),
        ("popped to the mark", "None <and, thrown away: os.system('touch /tmp')>"),
    ],
)
def test_every_way_to_run_something_is_shown_as_what_it_would_run(way: str, line: str) -> None:
    assert render(read(CALLS[way])) == line


def test_a_call_on_an_object_is_shown_with_it_although_its_result_is_thrown_away() -> None:
    data = b"cmod\nThing\n)\x81q\x00cos\nsystem\nh\x00\x85R0."
    assert render(read(data)) == "Thing(then=os.system(<cycle>))"


def test_a_familiar_name_hides_no_state_and_no_argument() -> None:
    evil = b"cos\nsystem\n)R"
    date = b"cdatetime\ndate\nC\x04\x07\xe8\x01\x02\x85R"
    assert render(read(date + b".")) == "datetime.date(2024, 1, 2)"
    assert "os.system()" in render(read(date + b"}\x8c\x01x" + evil + b"sb."))
    assert "os.system()" in render(read(b"cuuid\nUUID\n)\x81}(\x8c\x03intK\x01\x8c\x01x" + evil + b"ub."))
    assert "os.system()" in render(read(b"cclearstone.codec.payload\nthe_restored\n" + evil + b"\x85R."))


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.once
@corpus
def test_a_hostile_pickle_is_shown_in_a_moment_and_in_little_memory(data: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    shown(data)
    spent, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000 + 500 * len(data)
    assert spent < 60  # measured by tracemalloc, too: a tenth of that without


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_a_broken_pickle_gives_an_unreadable_with_its_place(data: bytes) -> None:
    found = read(data)
    assert isinstance(found, Unreadable)
    assert 0 <= found.offset <= len(data)
    with pytest.raises(CheckpointDamagedError):
        names(data)


def test_what_was_read_before_the_end_is_kept() -> None:
    found = read(pickle.dumps(["a", {"b": 1}, ("c", 2, 3, 4)])[:-8])
    assert isinstance(found, Unreadable)
    assert found.partial[:3] == ([], "a", {"b": 1})


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(opcodes=100), "more than 100 opcodes"),
        (Limits(nodes=100), "more than 100 nodes"),
        (Limits(depth=0), "more than 0 marks open"),
    ],
)
def test_a_pickle_over_a_limit_says_which(limits: Limits, reason: str) -> None:
    found = read(pickle.dumps([[number] for number in range(1_000)]), limits=limits)
    assert isinstance(found, Unreadable)
    assert found.reason == reason


def test_long_values_over_the_limit_are_left_out_and_the_rest_stays() -> None:
    found: Any = read(pickle.dumps(["x" * 5_000, "short", b"y" * 2_000]), limits=Limits(content=6_000))
    assert (len(found[0]), found[1], type(found[2])) == (5_000, "short", Unreadable)
    assert found[2].reason == "2000 bytes, left out over the limit of 6000"


def test_numbers_made_to_collide_take_no_quadratic_time() -> None:
    numbers = [pickle.encode_long(number * sys.hash_info.modulus) for number in range(1, 50_000)]
    began = time.process_time()
    found = read(b"\x8f(" + b"".join(b"\x8a%c%b" % (len(raw), raw) for raw in numbers) + b"\x90.")
    assert isinstance(found, set)
    assert len(found) == len(numbers)
    assert time.process_time() - began < 10


# --- whatever the bytes ----------------------------------------------------------------------------------------------


def test_every_opcode_that_python_knows_is_handled() -> None:
    unknown = HANDLERS[0]
    assert [op.name for op in pickletools.opcodes if HANDLERS[ord(op.code)] is unknown] == []


class Anything:
    """Stands for every class and function a loader asks for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Anything:
        return self

    append = extend = add = __setitem__ = lambda *_: None


def samples() -> list[bytes]:
    value = [
        1,
        2.5,
        "a",
        b"b",
        (1, 2, 3, 4),
        {"k": {1, 2}},
        ValueError("x"),
        1j,
        1 << 70,
        frozenset({1}),
    ]
    code = cloudpickle.dumps([lambda: value, Anything])
    return [*(pickle.dumps(value, protocol) for protocol in range(6)), code]


SAMPLES = samples()


@pytest.mark.parametrize("data", SAMPLES)
def test_a_pickle_torn_at_any_byte_is_read_as_far_as_it_goes(data: bytes) -> None:
    step = max(1, len(data) // 1_000)
    for end in range(0, len(data), step):
        assert isinstance(shown(data[:end]), Unreadable)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_without_an_exception(data: bytes) -> None:
    shown(data)


OPCODES = [op.code.encode("latin-1") for op in pickletools.opcodes if op.name != "BYTEARRAY8"]
pieces = st.one_of(
    st.sampled_from(OPCODES), st.sampled_from([b"os\n", b"1\n", b"\x00", b"\x01", b"\x8c\x01a", b"N", b")"])
)
programs = st.lists(pieces, max_size=40).map(b"".join)


@settings(deadline=None)
@given(programs)
def test_random_opcodes_are_read_without_an_exception(data: bytes) -> None:
    shown(data)


@settings(deadline=None)
@given(st.sampled_from(SAMPLES[:6]), st.integers(0), st.integers(0, 3), programs)
def test_names_lack_none_that_a_loader_asks_for(data: bytes, place: int, cut: int, program: bytes) -> None:
    place %= len(data)
    data = data[:place] + program + data[place + cut :]
    assume(b"\x96" not in data)  # a loader allocates what BYTEARRAY8 declares
    asked: list[tuple[str, str]] = []

    class Loader(pickle._Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            asked.append((module, name))
            return Anything

    with contextlib.suppress(Exception):
        Loader(io.BytesIO(data)).load()
    try:
        listed = set(names(data))
    except CheckpointDamagedError:
        return
    renamed = [_compat_pickle.NAME_MAPPING.get(name, name) for name in asked]
    modules = _compat_pickle.IMPORT_MAPPING
    for (module, name), (new_module, new_name) in zip(asked, renamed, strict=True):
        assert {f"{module}:{name}", f"{modules.get(module, module)}:{name}", f"{new_module}:{new_name}"} & listed


def test_an_aside_is_made_of_what_acts_only() -> None:
    found = read(b"](K\x01\x8c\x01a]1cos\nx\n0N.")
    assert isinstance(found, Aside)
    assert found.value is None
    assert [type(node) for node in found.discarded] == [Name]
    assert read(b"](K\x01]1N.") is None
    assert isinstance(read(b"cos\nx\n)R."), Object)
