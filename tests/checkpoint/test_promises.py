"""What a reader who meant harm, or only had odd classes, found: each once, so that it stays mended."""

from __future__ import annotations

import collections
import copyreg
import json
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pydantic
import pytest
from tests.checkpoint.agents import Agent

from clearstone import checkpointable
from clearstone.checkpoint import container, manifests, state
from clearstone.checkpoint import sections as sections_of
from clearstone.checkpoint.joining import names_in
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.checkpoint.segments import SIZE
from clearstone.checkpoint.snapshots import Placed, Segment, Snapshot
from clearstone.codec import inert
from clearstone.codec.difference import differences
from clearstone.codec.keys import machine_key

if TYPE_CHECKING:
    from clearstone.checkpoint.state import AgentState

TEXT = "hunter2-of-the-user"


def entered(agent: Any) -> AgentState:
    return state.take(agent, at_entry=True)


def again(agent: Any, took: AgentState | None = None) -> Any:
    return state.restore(type(agent), took or entered(agent))


def written(took: AgentState) -> bytes:
    return b"".join(each.data for each in took.snapshot.segments())


# --- secrets ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class SlottedData:
    api_key: str
    n: int = 1


class Slotted:
    __slots__ = ("api_key", "n")

    def __init__(self, api_key: str) -> None:
        self.api_key, self.n = api_key, 1


class Model(pydantic.BaseModel):
    api_key: str
    n: int = 1


class Private(pydantic.BaseModel):
    n: int = 1
    _api_key: str = pydantic.PrivateAttr(default=TEXT)


class Made:
    def __init__(self, api_key: str) -> None:
        self.api_key, self.n = api_key, 1

    def __reduce__(self) -> Any:
        return Made, (self.api_key,)


class Pair(NamedTuple):
    api_key: str
    n: int = 1


class OwnState:
    def __init__(self, api_key: str) -> None:
        self.api_key, self.n = api_key, 1

    def __getstate__(self) -> Any:
        return self.api_key, self.n

    def __setstate__(self, given: Any) -> None:
        self.api_key, self.n = given


class Service:
    """Uses its key when it is loaded."""

    def __init__(self, api_key: str) -> None:
        self.api_key, self.n = api_key, 1

    def __setstate__(self, given: dict[str, Any]) -> None:
        self.__dict__.update(given)
        self.header = "Bearer " + self.api_key


@pytest.mark.parametrize("make", [SlottedData, Slotted, lambda key: Model(api_key=key), lambda _: Private()])
def test_a_secret_attribute_is_left_out_however_it_is_held(make: Any) -> None:
    agent = Agent(held=make(TEXT), memory=["m"])
    for _ in range(3):
        took = entered(agent)
        assert TEXT.encode() not in written(took)
        assert [each.path.rpartition(".")[0] for each in took.missing] == ["self.held"]
        assert again(agent, took).held.n == 1


@pytest.mark.parametrize("make", [Made, Pair, OwnState, Service])
def test_what_holds_a_secret_in_a_way_of_its_own_is_left_out_whole(make: Any) -> None:
    agent = Agent(held=make(TEXT), memory=["m"])
    for _ in range(3):
        took = entered(agent)
        assert TEXT.encode() not in written(took)
        assert [each.path for each in took.missing] == ["self.held"]
        assert again(agent, took).memory == ["m"]


def test_a_secret_that_changed_comes_back_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K1", "sk-first")
    monkeypatch.setenv("K2", "sk-second")
    agent = Agent(cfg=Agent(api_key="sk-first"))
    assert again(agent).cfg.api_key == "sk-first"
    agent.cfg.api_key = "sk-second"
    took = entered(agent)
    assert [each.variable for each in took.missing] == ["K2"]
    assert again(agent, took).cfg.api_key == "sk-second"


# --- what is left out, and what is not -------------------------------------------------------------------------------


class Reading:
    def __setstate__(self, given: dict[str, Any]) -> None:
        self.__dict__.update(given)


def test_what_was_left_out_is_looked_at_again() -> None:
    agent = Agent(left=Agent(lock=threading.Lock()), right=None, reading=Reading())
    agent.reading.lock = threading.Lock()
    assert {each.path for each in entered(agent).missing} == {"self.left.lock", "self.reading"}
    agent.left, agent.right = None, agent.left
    agent.reading.lock = None
    took = entered(agent)
    assert {each.path for each in took.missing} == {"self.right.lock"}
    assert again(agent, took).reading.lock is None


def test_one_attribute_too_deep_costs_no_other() -> None:
    chain: Any = None
    for n in range(2000):
        chain = Agent(parent=chain, n=n)
    agent = Agent(last=chain, search=Agent(lock=threading.Lock(), seen=["q"]), cfg=Agent(api_key=TEXT))
    took = entered(agent)
    left = {each.path for each in took.missing} - {"self.last"}  # Python 3.13 goes deeper
    assert left == {"self.search.lock", "self.cfg.api_key"}
    assert again(agent, took).search.seen == ["q"]


class OddNames:
    def get_state(self) -> dict[Any, Any]:
        return {1: "text", "b": 2}

    def load_state(self, given: dict[Any, Any]) -> None:
        self.given = given


class Document:
    _fields = {"a": 1}  # noqa: RUF012 - as classes of object-relational mappers have

    def __init__(self, a: int, b: int) -> None:
        self.a, self.b = a, b

    def __reduce__(self) -> Any:
        return Document, (self.a, self.b)


def test_odd_names_fields_and_keys_cost_nothing() -> None:
    assert again(OddNames()).given == {1: "text", "b": 2}
    agent = Agent(document=Document(1, 2), lock=threading.Lock(), numbers={10**5000: 1})
    took = entered(agent)
    assert [each.path for each in took.missing] == ["self.lock"]
    assert again(agent, took).document.b == 2


class View:
    """Is made of a list, and reads it."""

    def __init__(self, of: list[Any]) -> None:
        self.of, self.n = of, len(of)

    def __reduce__(self) -> Any:
        return View, (self.of,)


@pytest.mark.parametrize("first", ["views", "docs"])
def test_what_is_made_of_another_long_list_finds_it_whole(first: str) -> None:
    docs = [str(i) for i in range(100)]
    views: list[Any] = [None] * 100
    views[5], views[6] = View(docs), iter(docs)
    next(views[6])
    agent = Agent(**({"views": views, "docs": docs} if first == "views" else {"docs": docs, "views": views}))
    for n in range(4):
        docs.append(f"new {n}")
        found = again(agent)
        assert found.views[5].n == len(docs)
        assert next(found.views[6]) == "1"
        assert found.views[5].of is found.docs


def test_lists_that_hold_each_other_come_back_so() -> None:
    one: list[Any] = [[i] for i in range(SIZE)]
    other: list[Any] = [[i] for i in range(SIZE)]
    one.append(other)
    other.append(one)
    agent = Agent(one=one, other=other)
    for _ in range(3):
        found = again(agent)
        assert found.one[-1] is found.other
        assert found.other[-1] is found.one


class Vault:
    def __init__(self) -> None:
        self.held = [threading.Lock() for _ in range(100)]


def test_a_list_that_its_objects_pickle_does_not_hold_is_not_written() -> None:
    copyreg.pickle(Vault, lambda _: (Vault, ()))
    agent = Agent(vault=Vault())
    for _ in range(3):
        took = entered(agent)
        assert not took.missing
        assert not took.snapshot.containers


@checkpointable(exclude=("cache", "__private"))
class Base:
    def __init__(self) -> None:
        self.cache, self.jobs, self.__private = TEXT, 1, TEXT


@checkpointable(rebuild={"jobs": int})
class Derived(Base):
    pass


def test_what_a_base_excludes_and_what_is_private_is_excluded() -> None:
    took = entered(Derived())
    assert {each.path for each in took.missing} == {"self.cache", "self.jobs", "self._Base__private"}
    assert TEXT.encode() not in written(took)


# --- files of others -------------------------------------------------------------------------------------------------


def text(given: str) -> bytes:
    return b"\x8c" + bytes([len(given)]) + given.encode()


def test_a_name_that_is_put_together_of_two_segments_is_listed() -> None:
    first = b"\x80\x05]\x94(\x8c\x02os\x94\x8c\x06system\x94e."
    rest = (
        b"\x80\x05}" + text("x") + b"\x94" + text("y") + b"\x940" + text("collections") + b"\x940"
        + text("OrderedDict") + b"\x940" + b"h\x02h\x03\x93" + text("id") + b"\x85Rs."
    )  # fmt: skip
    shared = (((0, 0), 3), ((0, 0), 4))
    snapshot = Snapshot((("list", (Placed(Segment(first)),)),), Placed(Segment(rest), shared))
    assert "os:system" in names_in(snapshot)
    assert "os:system" not in inert.names(rest)


def told(segments: Any, containers: Any) -> Any:
    row = {"whole": True, "containers": containers, "rest": 0, "step": 1}
    return {"first": 0, "segments": segments, "rows": [["state", row]]}


@pytest.mark.parametrize(
    "table",
    [
        told([[10]], [["list", 0, [0, 0], 0]]),
        told([[10, [[0, 10], [0, 10]]]], []),
    ],
    ids=["a segment twice", "bytes of two buffers"],
)
def test_a_table_that_multiplies_its_bytes_is_refused(table: Any) -> None:
    sections = {"snapshots": json.dumps(table).encode(), "segments": bytes(10), "buffers": bytes(10)}
    with pytest.raises(ValueError, match=r"twice|after its section"):
        manifests.unpack(sections, "state")


def test_a_small_file_does_not_unpack_to_all_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    container.write(path, {}, {"state": bytes(sections_of.FREELY + 1)}, machine_key())
    header, sections = container.read(path)
    assert sections_of.Listed(*header.content["sections"][0]).codec == "none"
    assert len(sections["state"]) == sections_of.FREELY + 1


HEADERS = [
    b"[" * 200_000 + b"\n{}",
    b'{"checkpoint_id": 5}\n{}',
    json.dumps({"checkpoint_id": "c", "trace_id": "t", "agent": "a", "span_name": "s", "created_ns": "x", "error": "",
                "occurrences": 1, "moment": "made", "metadata": {}}).encode() + b"\n{}",
]  # fmt: skip


@pytest.mark.parametrize("body", HEADERS, ids=["nested", "odd id", "odd time"])
def test_a_file_with_an_odd_header_is_no_part_of_a_listing(tmp_path: Path, body: bytes) -> None:
    fields = container._FIELDS.pack(container.MAGIC, *container.FORMAT, len(body), 0)
    (tmp_path / "odd.ckpt").write_bytes(fields + sections_of.digest_of(fields + body) + bytes(32) + body)
    assert CheckpointManager(tmp_path).list_checkpoints() == []


# --- differences -----------------------------------------------------------------------------------------------------


def made(n: int) -> Any:
    return lambda: n


def nested(leaf: Any) -> Any:
    for _ in range(150):
        leaf = [leaf]
    return leaf


def changed(array: Any) -> Any:
    array[17] = -1
    return array


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "arrays": (np.zeros(5000), changed(np.zeros(5000))),
    "closures": (made(1), made(2)),
    "values under long keys": ({b"a" * 50: 1, b"b" * 50: 2}, {b"a" * 50: 99, b"b" * 50: 2}),
    "long keys": ({b"a" * 50: 1, b"b" * 50: 2}, {b"b" * 50: 2}),
    "long members": ({b"a" * 50, b"b" * 50}, {b"a" * 50, b"b" * 50, b"c" * 50}),
    "deep values": (nested(1), nested(2)),
    "deques": (deque([1, 2]), deque([1, 3])),
    "dates": (collections.OrderedDict(a=1), collections.OrderedDict(a=2)),
}


@pytest.mark.parametrize(("before", "after"), DIFFERENT.values(), ids=DIFFERENT)
def test_no_difference_is_passed_over(before: Any, after: Any) -> None:
    agents = [Agent(held=each) for each in (before, after)]
    from clearstone.checkpoint.joining import looked_at

    one, other = (looked_at(entered(each).snapshot) for each in agents)
    assert list(differences(one, other))
    assert list(differences(one, looked_at(entered(agents[0]).snapshot))) == []
