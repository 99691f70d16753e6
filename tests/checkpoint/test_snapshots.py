"""Snapshots in a file: what two of them share is there once, looking at one shows what loading it gives, and a table
that does not fit is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.checkpoint.agents import Agent
from tests.checkpoint.oracle import form
from tests.checkpoint.test_segments import message, restored

from clearstone.checkpoint import manifests
from clearstone.checkpoint.joining import joined, looked_at
from clearstone.checkpoint.segments import SIZE, Segmenter
from clearstone.checkpoint.snapshots import Placed, Segment, Snapshot
from clearstone.codec import inert, show


def an_agent() -> Agent:
    agent = Agent(ms=[message(i) for i in range(3 * SIZE)], facts={f"k{i}": [i] for i in range(SIZE)}, n=7)
    agent.ms[-1]["u"] = agent.ms[0]["u"]
    agent.facts["k3"] = agent.ms[70]
    agent.itself = [agent, agent.ms]
    return agent


def taken(agent: Agent) -> Snapshot:
    return Segmenter().snapshot(agent, vars(agent))


def test_two_snapshots_come_back_and_share_what_they_shared() -> None:
    agent = an_agent()
    segmenter = Segmenter()
    first, expected = segmenter.snapshot(agent, vars(agent)), form(agent)
    agent.ms.append(message("new"))
    second = segmenter.snapshot(agent, vars(agent))
    alone, both = manifests.pack({"state": first}), manifests.pack({"state": first, "state_at_end": second})
    assert len(both["segments"]) - len(alone["segments"]) < 1000
    assert form(restored(manifests.unpack(both, "state"))) == expected
    assert form(restored(manifests.unpack(both, "state_at_end"))) == form(agent)


def test_large_buffers_lie_apart_at_multiples_of_64_and_can_be_written_to_when_loaded() -> None:
    agent = Agent(one=np.arange(1001.0), two=np.ones((3, 5), dtype="i2"), three=b"x")
    sections = manifests.pack({"state": taken(agent)})
    table = json.loads(sections["snapshots"])
    places = [place for row in table["segments"] for places in row[1:] for place in places]
    assert len(places) == 2
    assert all(begin % 64 == 0 for begin, _ in places)
    again = restored(manifests.unpack(sections, "state"))
    assert np.array_equal(again.one, agent.one)
    assert np.array_equal(again.two, agent.two)
    again.one[0] = -1.0


def test_looking_at_a_state_shows_what_loading_it_gives() -> None:
    agent = an_agent()
    node: Any = looked_at(taken(agent))
    assert show.render(node["n"]) == "7"
    assert len(node["ms"]) == 3 * SIZE
    assert node["ms"][-1]["u"] is node["ms"][0]["u"]
    assert node["facts"]["k3"] is node["ms"][70]
    assert show.render(node["itself"][0]) == "<the agent itself>"
    assert node["itself"][1] is node["ms"]
    assert show.to_json(node["facts"]["k5"]) == [5]


def tampered(change: Any) -> dict[str, bytes]:
    sections = manifests.pack({"state": taken(an_agent())})
    table = json.loads(sections["snapshots"])
    change(table)
    return {**sections, "snapshots": json.dumps(table).encode()}


def row(table: Any) -> Any:
    (_, told), *_ = table["rows"]
    return told


TAMPERED: dict[str, Any] = {
    "no such snapshot": lambda t: t.__setitem__("rows", []),
    "no segments": lambda t: t.pop("segments"),
    "a longer segment": lambda t: t["segments"][-1].__setitem__(0, 1 << 40),
    "a negative length": lambda t: t["segments"][0].__setitem__(0, -1),
    "a length that is a text": lambda t: t["segments"][0].__setitem__(0, "7"),
    "a length that is true": lambda t: t["segments"][0].__setitem__(0, True),
    "a buffer elsewhere": lambda t: t["segments"][0].append([[1 << 40, 1]]),
    "a segment that is not there": lambda t: row(t).__setitem__("rest", 10_000),
    "a segment before the first": lambda t: row(t).__setitem__("rest", -1),
    "a container of another kind": lambda t: row(t)["containers"][0].__setitem__(0, "set"),
    "a reference forwards": lambda t: row(t)["containers"][0][2].__setitem__(0, [0, [[1, 0, 5]]]),
    "a reference to itself": lambda t: row(t)["containers"][0][2].__setitem__(0, [0, [[0, 0, 5]]]),
    "a row that is a list": lambda t: t["rows"][0].__setitem__(1, []),
    "a row that needs one before": lambda t: row(t).__setitem__("whole", False),
    "more of the row before than there is": lambda t: row(t)["containers"][0].__setitem__(1, 1),
    "less than nothing of the row before": lambda t: row(t)["containers"][0].__setitem__(3, -1),
    "a first number that is a text": lambda t: t.__setitem__("first", "0"),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_table_that_does_not_fit_is_refused(change: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, IndexError)):
        manifests.unpack(tampered(change), "state")


def one(data: bytes) -> Snapshot:
    return Snapshot((), Placed(Segment(data)))


@pytest.mark.parametrize(
    "snapshot",
    [
        one(b""),
        one(b"\x80\x05garbage"),
        Snapshot((("list", (Placed(Segment(b"\x80\x05K\x01.")),)),), Placed(Segment(b"\x80\x05h\x01."))),
        Snapshot((("dict", (Placed(Segment(b"\x80\x05](K\x01K\x02e.")),)),), Placed(Segment(b"\x80\x05h\x01."))),
        Snapshot(
            (("list", (Placed(Segment(b"\x80\x05].")), Placed(Segment(b"\x80\x05]h\x02a."), (((0, 0), 99),)))),),
            Placed(Segment(b"\x80\x05h\x01.")),
        ),
    ],
    ids=["empty", "garbage", "no list", "no pairs", "an entry that is not in the memo"],
)
def test_what_is_no_state_can_be_looked_at(snapshot: Snapshot) -> None:
    assert show.render(looked_at(snapshot))


def test_a_segment_that_runs_code_runs_none_when_it_is_looked_at(tmp_path: Any) -> None:
    mark = tmp_path / "it ran"
    code = b"\x80\x05cos\nmkdir\n\x8c" + bytes((len(str(mark)),)) + str(mark).encode() + b"\x85R."
    node = looked_at(Snapshot((("list", (Placed(Segment(code)),)),), Placed(Segment(code))))
    assert "mkdir" in show.render(node)
    assert not mark.exists()
    assert isinstance(node, inert.Object)
    joined(one(code), None)
    assert mark.exists()
