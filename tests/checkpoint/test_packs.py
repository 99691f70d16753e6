"""A pack holds many checkpoints of one run, each as it was taken, at the cost of what changed; and whatever is done to
the file, what it gives is one of them or an error."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoint.agents import Agent, look
from tests.checkpoint.oracle import form
from tests.checkpoint.test_manager import a_trace
from tests.checkpoint.test_segments import message

from clearstone import checkpointable, home, snapshot, traced
from clearstone.checkpoint import container, keeping, loading, manifests, packfile, packs, policy, state, trust
from clearstone.checkpoint.making import new_checkpoint
from clearstone.checkpoint.manager import CheckpointManager, infos
from clearstone.checkpoint.model import Checkpoint
from clearstone.checkpoint.packs import Pack
from clearstone.checkpoint.sections import read_sections
from clearstone.codec import keys
from clearstone.codec.keys import Key
from clearstone.errors import CheckpointDamagedError, CheckpointError, UntrustedCheckpointError
from clearstone.observability import TracerProvider, configure
from clearstone.record.default import default_provider
from clearstone.store.memory import MemoryTraceStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


TRACE = a_trace("a" * 32)


def taken(agent: Agent, **more: Any) -> Checkpoint:
    return new_checkpoint(
        agent, state.take(agent, at_entry=True), trace=TRACE, span=TRACE.spans[0], taken_ns=1,
        random_state=random.getstate(), **more,
    )  # fmt: skip


def restored(checkpoint: Checkpoint) -> Any:
    return state.restore(Agent, checkpoint.state)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    return Pack(tmp_path / "a.pack")


def an_agent(length: int = 200) -> Agent:
    return Agent(ms=[message(i) for i in range(length)], n=0)


def a_pack(pack: Pack, steps: int = 4) -> list[Checkpoint]:
    """Fill a pack with steps of one agent, a message more in each."""
    agent, made = an_agent(), []
    for step in range(steps):
        agent.ms.append(message(f"new {step}"))
        agent.n = step
        made.append(taken(agent))
        pack.append(made[-1], trace=TRACE if step % 2 else None)
    return made


# --- what comes back -------------------------------------------------------------------------------------------------


def test_each_step_comes_back_as_it_was_taken(pack: Pack) -> None:
    made = a_pack(pack, 6)
    assert [loading.load(pack.path, number) for number in range(1, 6, 2)] == made[1::2]
    for number, checkpoint in enumerate(made):
        assert form(restored(loading.load(pack.path, number))) == form(restored(checkpoint))
    assert loading.load(pack.path) == made[-1]
    assert [info.checkpoint_id for info in infos(pack.path)] == [each.checkpoint_id for each in made]


EDITS = st.sampled_from(["append", "edit old", "insert", "delete", "alias", "clear", "new list", "nothing"])


def edit(agent: Agent, what: str, number: int) -> None:
    if what == "append":
        agent.ms += [message((number, i)) for i in range(number % 90)]
    elif what == "edit old" and agent.ms:
        agent.ms[number % len(agent.ms)]["u"] = [number]
    elif what == "insert":
        agent.ms.insert(number % (len(agent.ms) + 1), message(number))
    elif what == "delete" and agent.ms:
        del agent.ms[number % len(agent.ms)]
    elif what == "alias" and agent.ms:
        agent.alias = [agent.ms[number % len(agent.ms)], agent, agent.ms]
    elif what == "clear":
        del agent.ms[number % (len(agent.ms) + 1) :]
    elif what == "new list":
        agent.other = [0] * 64 * (number % 4)  # segments of the same bytes


ANY_EDITS = st.lists(st.tuples(EDITS, st.integers(0, 10**6)), min_size=1, max_size=90)


@pytest.mark.once
@settings(max_examples=25, deadline=None)
@given(ANY_EDITS)
def test_every_step_is_the_state_whatever_happened_since_the_last(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int]]
) -> None:
    all_steps_are_right(tmp_path_factory, edits)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@settings(max_examples=1000, deadline=None)
@given(ANY_EDITS)
def test_every_step_of_a_thousand_packs_is_the_state(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int]]
) -> None:
    all_steps_are_right(tmp_path_factory, edits)


def all_steps_are_right(tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, int]]) -> None:
    pack = Pack(tmp_path_factory.mktemp("packs") / "a.pack")
    agent, expected = an_agent(), []
    for what, number in edits:
        edit(agent, what, number)
        expected.append(form(agent))
        pack.append(taken(agent), trace=None)
    for number, wanted in enumerate(expected):
        assert form(restored(loading.load(pack.path, number))) == wanted


@pytest.mark.once
def test_a_step_costs_what_changed_and_a_kilobyte(pack: Pack) -> None:
    agent, sizes = an_agent(2000), []
    for step in range(100):
        agent.ms.append(message(f"new {step}"))
        agent.n = step
        pack.append(taken(agent), trace=None)
        sizes.append(pack.path.stat().st_size)
    changed = len(json.dumps(message("new 1")))
    assert (sizes[-1] - sizes[1]) / 98 <= 3 * changed + 1024  # the first state is in one piece, the second is cut
    assert sizes[2] - sizes[1] < sizes[0] / 10


def test_two_agents_in_turn_cost_no_more_than_their_changes(pack: Pack) -> None:
    one, two = an_agent(2000), an_agent(2000)
    for agent in (one, two, one, two):
        pack.append(taken(agent), trace=None)
    before = pack.path.stat().st_size
    for agent in (one, two, one, two):
        agent.ms.append(message("new"))
        pack.append(taken(agent), trace=None)
    assert (pack.path.stat().st_size - before) / 4 < 3000
    assert form(restored(loading.load(pack.path, 6))) == form(one)
    assert form(restored(loading.load(pack.path, 7))) == form(two)


@pytest.mark.once
def test_a_reader_goes_back_no_further_than_to_the_last_row_that_says_all(pack: Pack) -> None:
    agent = Agent(n=0)
    for _ in range(2 * manifests.WHOLE_EVERY + 3):
        pack.append(taken(agent), trace=None)
    bases = [header.content["base"] for header in loading.headers_of(pack.path)]
    assert sorted(set(bases)) == [0, manifests.WHOLE_EVERY, 2 * manifests.WHOLE_EVERY]
    assert all(number - base < manifests.WHOLE_EVERY for number, base in enumerate(bases))


def test_a_pack_that_holds_no_state_any_more_goes_on_without_writing_a_segment_again(pack: Pack) -> None:
    agent = an_agent(2000)
    for _ in range(3):
        pack.append(taken(agent), trace=None)
    before = pack.path.stat().st_size
    pack.lighten()
    agent.ms.append(message("new"))
    pack.append(taken(agent), trace=None)
    assert pack.path.stat().st_size - before < 3000
    assert form(restored(loading.load(pack.path, 3))) == form(agent)


# --- altered ---------------------------------------------------------------------------------------------------------

REFUSED = (CheckpointDamagedError, CheckpointError, UntrustedCheckpointError)


def given_by(path: Path) -> dict[str, Any]:
    """What a file gives as trusted, by id."""
    found = {}
    for info in infos(path):
        try:
            checkpoint = loading.load(path, info.step)
        except REFUSED:
            continue
        if not checkpoint.untrusted:
            found[checkpoint.checkpoint_id] = form(restored(checkpoint))
    return found


def test_a_file_that_was_cut_anywhere_gives_the_steps_that_are_whole(pack: Pack) -> None:
    agent = Agent(n=0)
    ends, expected = [0], []
    for step in range(3):
        agent.n = step
        made = taken(agent)
        pack.append(made, trace=None)
        expected.append((made.checkpoint_id, form(restored(made))))
        ends.append(pack.path.stat().st_size)
    data, other = pack.path.read_bytes(), pack.path.with_name("cut.pack")
    for length in sorted({*range(ends[1], len(data), 7), *ends[1:], *(end - 1 for end in ends[2:])}):
        other.write_bytes(data[:length])
        assert given_by(other) == dict(expected[: sum(end <= length for end in ends[1:])])


def test_of_a_file_with_a_flipped_byte_nothing_wrong_is_given(pack: Pack) -> None:
    made = {each.checkpoint_id: form(restored(each)) for each in a_pack(pack, 3)}
    data, other = pack.path.read_bytes(), pack.path.with_name("flipped.pack")
    for at in random.Random(1).sample(range(len(data)), 400):
        other.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        found = given_by(other)
        assert found.items() <= made.items()


def steps_in(path: Path) -> list[bytes]:
    data, at, found = path.read_bytes(), 0, []
    for header in loading.headers_of(path):
        found.append(data[at : header.after])
        at = header.after
    return found


def test_steps_in_another_order_of_another_file_or_without_one_between_are_not_given(
    pack: Pack, tmp_path: Path
) -> None:
    made = a_pack(pack, 4)
    second = Pack(tmp_path / "b.pack")
    a_pack(second, 4)
    one, two = steps_in(pack.path), steps_in(second.path)
    known = {each.checkpoint_id for each in made}
    other = tmp_path / "other.pack"
    for parts, whole in [
        ([one[0], one[2], one[1], one[3]], 1), ([one[0], one[2], one[3]], 1), ([*one[:2], two[2], two[3]], 2),
        ([one[0], one[1], one[1]], 2), ([two[0], one[1]], 0), ([one[1]], 0),
    ]:  # fmt: skip
        other.write_bytes(b"".join(parts))
        assert len(given_by(other).keys() & known) == whole


def test_what_a_stranger_adds_to_a_file_of_ours_is_not_trusted_and_says_nothing_of_ours(pack: Pack) -> None:
    made = a_pack(pack, 2)
    headers = loading.headers_of(pack.path)
    forged = taken(Agent(n="forged"))
    stranger = Pack(pack.path.with_name("x.pack"), Key(b"s" * 32))
    stranger._digest, stranger._steps = headers[-1].digest, 2
    stranger.append(forged, trace=a_trace("a" * 32))
    pack.path.write_bytes(pack.path.read_bytes() + stranger.path.read_bytes())
    assert [info.checkpoint_id for info in infos(pack.path)] == [each.checkpoint_id for each in (*made, forged)]
    assert loading.load(pack.path, 2).untrusted
    assert loading.load(pack.path, 1) == made[1]


def test_once_a_step_is_not_signed_no_later_one_of_its_file_is(tmp_path: Path) -> None:
    pack = Pack(tmp_path / "a.pack", keys.nobodys())
    a_pack(pack, 2)
    assert not any(header.is_signed for header in loading.headers_of(pack.path))


def test_who_trusts_a_step_trusts_those_before(pack: Pack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    a_pack(pack, 2)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another machine"))
    assert loading.load(pack.path, 0).untrusted
    header, examined = loading.examined(pack.path, 1)
    trust.trust(header)
    assert [each.checkpoint_id for each in examined] == [info.checkpoint_id for info in infos(pack.path)]
    assert not loading.load(pack.path, 0).untrusted
    assert not loading.load(pack.path, 1).untrusted


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(base=-1), lambda header: header.update(base=5),
        lambda header: header.update(base="0"), lambda header: header.update(base=None),
        lambda header: header.update(held={"about": 1}), lambda header: header.update(held={"about": -1}),
        lambda header: header.update(held={"nothing": 0}), lambda header: header.update(held=3),
        lambda header: header.pop("span_id"), lambda header: header.update(form_at_end="attributes"),
    ],
)  # fmt: skip
def test_a_header_that_says_what_no_version_writes_is_an_error_of_ours(pack: Pack, change: Any) -> None:
    a_pack(pack, 1)
    made = taken(an_agent())
    original = container.step

    def forged(magic: bytes, header: Any, *more: Any) -> Any:
        told = dict(header)
        change(told)
        return original(magic, told, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "step", forged)
        pack.append(made, trace=None)
    with pytest.raises(CheckpointDamagedError):
        loading.load(pack.path, 1)
    assert loading.load(pack.path, 0).checkpoint_id


def odd(pack: Pack, **summary: Any) -> None:
    """Add a step whose summary says so."""
    original = container.step

    def forged(magic: bytes, header: Any, *more: Any) -> Any:
        return original(magic, {**header, "summary": {**header["summary"], **summary}}, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "step", forged)
        pack.append(taken(Agent(n=1)), trace=None)


@pytest.mark.parametrize("summary", [{"created_ns": 10**30}, {"created_ns": -1}, {"occurrences": 10**400}])
def test_a_moment_that_is_none_costs_the_listing_that_step_alone(pack: Pack, summary: Any) -> None:
    a_pack(pack, 1)
    odd(pack, **summary)
    assert [info.step for info in infos(pack.path)] == [0]


def bomb(pack: Pack, **sections: bytes) -> None:
    header = {"summary": {"checkpoint_id": "c"}}
    pack._write(*container.step(container.PACK_MAGIC, header, sections, keys.nobodys(), pack._digest))


def test_what_no_checkpoint_wants_of_a_file_is_not_unpacked(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = taken(Agent(n=1))
    pack.append(wanted, trace=None)
    for number in range(1, 30):
        bomb(pack, segments=bytes(8 << 20), snapshots=b'{"first":%d,"segments":[[8]],"rows":[]}' % number)
    pack.append(taken(Agent(n=2)), trace=None)
    read = list[str]()
    original = read_sections

    def counting(file: Any, header: Any, known: Any, names: Any, **options: Any) -> Any:
        found = original(file, header, known, names, **options)
        read.extend(name for name, data in found.items() if len(data) > 1 << 20)
        return found

    monkeypatch.setattr(packfile, "read_sections", counting)
    assert loading.load(pack.path, 0).checkpoint_id == wanted.checkpoint_id
    assert loading.load(pack.path, 30).agent_state == {"n": 2}
    assert read == []


def test_a_checkpoint_that_unpacks_to_far_more_than_its_file_is_refused(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packfile, "FREELY", 20 << 20)
    for number in range(12):
        bomb(pack, segments=bytes(8 << 20), snapshots=b'{"first":%d,"segments":[[8]],"rows":[]}' % number)
    row = {"whole": True, "containers": [["list", 0, list(range(11)), 0]], "rest": 11, "step": 1}
    bomb(pack, snapshots=json.dumps({"first": 12, "segments": [], "rows": [["state", row]]}).encode())
    with container.opened(pack.path) as file:
        found = packfile.PackFile(pack.path, file)
        with pytest.raises(CheckpointDamagedError, match="unpacks to more than"):
            found._snapshots(12)


def test_more_rows_than_a_step_has_states_and_empty_segments_are_refused() -> None:
    row = {"whole": True, "containers": [], "rest": 0, "step": 1}
    rows = json.dumps({"first": 0, "segments": [[1]], "rows": [["state", row], ["state", row], ["other", row]]})
    with pytest.raises(ValueError, match="two states at most"):
        manifests.table_of(rows.encode())
    table = manifests.table_of(json.dumps({"first": 0, "segments": [[0]] * 3, "rows": []}).encode())
    with pytest.raises(ValueError, match="ends after its section"):
        manifests.segments_of(table, {"segments": b"", "buffers": b""}, range(3))
    with pytest.raises(ValueError, match="a table of"):
        manifests.table_of(bytes(manifests.LARGEST_TABLE + 1))


def test_a_step_whose_database_is_gone_can_be_looked_at() -> None:
    @checkpointable(on="entry", nested=True)
    class Nested(Agent):
        def outer(self) -> str:
            return look("a")

    Nested(n=1).outer()
    provider = default_provider()
    assert provider is not None
    provider.shutdown()
    for path in home.home().glob("traces.db*"):
        path.unlink() if path.is_file() else None
    (path,) = home.checkpoint_folder().iterdir()
    checkpoint = loading.load(path)
    assert checkpoint.span.name.endswith("outer")
    assert checkpoint.agent_state["n"] == 1


# --- let go ----------------------------------------------------------------------------------------------------------


def test_dropped_steps_are_not_listed_and_the_others_are_whole(pack: Pack) -> None:
    made = a_pack(pack, 4)
    pack.drop([made[0].checkpoint_id, made[2].checkpoint_id])
    assert [info.step for info in infos(pack.path)] == [1, 3]
    assert loading.load(pack.path).checkpoint_id == made[3].checkpoint_id
    assert form(restored(loading.load(pack.path, 1))) == form(restored(made[1]))
    pack.append(made[0], trace=None, drops=[made[3].checkpoint_id])
    assert [info.checkpoint_id for info in infos(pack.path)] == [made[1].checkpoint_id, made[0].checkpoint_id]


def test_a_file_whose_last_step_is_dropped_is_gone(pack: Pack) -> None:
    made = a_pack(pack, 2)
    pack.drop(each.checkpoint_id for each in made)
    assert not pack.path.exists()


def test_a_file_of_mostly_dropped_steps_is_written_anew() -> None:
    @checkpointable(on="exit", keep=3, nested=True, budget=None)
    class Counting:
        def __init__(self) -> None:
            self.ms = [message(i) for i in range(300)]

        def run(self) -> None:
            for number in range(120):
                self.step(number)

        def step(self, number: int) -> str:
            self.ms.append(message(number))
            return look("b")

    Counting().run()
    (path,) = home.checkpoint_folder().iterdir()
    found = [CheckpointManager().load_checkpoint(info.checkpoint_id) for info in infos(path)]
    assert [each.span.name.rpartition(".")[2] for each in found] == ["step", "step", "step", "run"]
    assert [len(each.agent_state["ms"]) for each in found] == [417, 418, 419, 300]
    assert len(loading.headers_of(path)) < 3 * packs.ROOM
    assert not any(each.untrusted for each in found)


# --- whose file ------------------------------------------------------------------------------------------------------


def test_another_process_with_the_same_trace_makes_a_file_of_its_own(tmp_path: Path) -> None:
    ours = packs.pack_of(tmp_path, "t" * 32)
    made = f"packs.pack_of(Path({str(tmp_path)!r}), {'t' * 32!r}).path.name"
    code = f"from pathlib import Path; from clearstone.checkpoint import packs; print({made})"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert (ours.path.name, theirs) == (f"{'t' * 32}.pack", f"{'t' * 32}.1.pack")
    assert packs.pack_of(tmp_path, "t" * 32) is ours


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_makes_a_file_of_its_own(tmp_path: Path) -> None:
    ours = packs.pack_of(tmp_path, "t" * 32)
    ours.append(taken(Agent(n=1)), trace=None)
    child = os.fork()
    if not child:
        theirs = packs.pack_of(tmp_path, "t" * 32)
        theirs.append(taken(Agent(n=2)), trace=None)
        os._exit(0 if theirs.path != ours.path else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ours.append(taken(Agent(n=3)), trace=None)
    assert [loading.load(ours.path, number).agent_state["n"] for number in (0, 1)] == [1, 3]
    assert loading.load(tmp_path / f"{'t' * 32}.1.pack").agent_state["n"] == 2


def saved_of(trace_of: Callable[[Agent], object]) -> list[list[int]]:
    """The steps of a run, by file: what `n` was in each. In its middle something is done to its file."""

    @checkpointable(on="entry", nested=True, keep=10, budget=None)
    class Counting(Agent):
        def run(self) -> None:
            for self.n in range(60):
                if self.n == 30:
                    trace_of(self)
                self.step()

        def step(self) -> None: ...

    Counting(n=-1).run()
    files = sorted(home.checkpoint_folder().iterdir())
    return [[each.agent_state["n"] for each in loading.all_of(path) if isinstance(each, Checkpoint)] for path in files]


def removed(_: Agent) -> None:
    (path,) = home.checkpoint_folder().iterdir()
    path.unlink()


def cut(_: Agent) -> None:
    (path,) = home.checkpoint_folder().iterdir()
    path.write_bytes(path.read_bytes()[:-1])


def turned(_: Agent) -> None:
    """Change a byte, and leave the length as it is."""
    (path,) = home.checkpoint_folder().iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("done", "files"), [(removed, 1), (cut, 2), (turned, 2)], ids=["removed", "cut", "with another byte"]
)
def test_a_file_that_somebody_took_or_altered_meanwhile_gets_no_further_step_and_another_is_begun(
    done: Any, files: int
) -> None:
    found = saved_of(done)
    assert len(found) == files
    assert list(range(50, 60)) in found


def test_what_somebody_put_in_the_place_of_a_file_is_not_signed_when_that_is_written_anew(pack: Pack) -> None:
    made = a_pack(pack, 3)
    stranger = Pack(pack.path.with_name("x.pack"), Key(b"s" * 32))
    for each in made:
        stranger.append(replace(each, metadata={"forged": True}), trace=TRACE)
    data = stranger.path.read_bytes()
    pack.path.write_bytes(data)  # the very file, with other content
    with pytest.raises(packs.PackGone, match="was altered by somebody"):
        pack.written_anew()
    assert pack.path.read_bytes() == data
    assert given_by(pack.path) == {}


def test_many_calls_at_once_that_are_on_the_disk_while_they_run_leave_nothing() -> None:
    @checkpointable(entry="durable", budget=None)
    class Waiting(Agent):
        async def go(self, all_began: asyncio.Event, number: int) -> None:
            if number == 59:
                all_began.set()
            await all_began.wait()

    async def all_of_them() -> None:
        event = asyncio.Event()
        await asyncio.gather(*(Waiting(n=0).go(event, number) for number in range(60)))

    asyncio.run(all_of_them())
    assert list(home.checkpoint_folder().iterdir()) == []


def test_after_a_full_disk_what_is_there_while_a_call_runs_goes_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @checkpointable(entry="durable", budget=None)
    class Full(Agent):
        def go(self) -> None:
            snapshot("before")
            with monkeypatch.context() as patch:
                patch.setattr(packs, "os", _With(os, write=full))
                with pytest.raises(CheckpointError, match="No space"):
                    snapshot("never")
            snapshot("after")

    def full(*_: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    Full(n=1).go()
    found = [info for path in home.checkpoint_folder().iterdir() for info in infos(path)]
    assert sorted((info.moment, info.metadata["label"]) for info in found) == [("made", "after"), ("made", "before")]


def test_a_run_that_failed_in_two_ways_goes_when_both_are_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "KEPT_PER_FAILURE", 3)
    monkeypatch.setattr(policy, "KEPT_PER_FAILURE", 3)

    @checkpointable
    class Failing(Agent):
        def one(self) -> None:
            raise ValueError("one")

        def two(self) -> None:
            raise ValueError("two")

    @traced
    def run() -> None:
        for fail in (Failing(n=1).one, Failing(n=1).two):
            with pytest.raises(ValueError, match=r"one|two"):
                fail()

    for _ in range(8):
        run()
    assert len(list(home.checkpoint_folder().iterdir())) == 3


@pytest.mark.parametrize("how", ["snapshot", "by hand"])
def test_a_checkpoint_made_on_purpose_says_what_the_code_was_too(how: str, tmp_path: Path) -> None:
    @checkpointable
    class Saved(Agent):
        def go(self) -> str | None:
            return snapshot("here") if how == "snapshot" else None

    made = Saved(n=1).go()
    manager = CheckpointManager(tmp_path)
    if made is None:
        path = manager.save_checkpoint(manager.create_checkpoint(Saved(n=1), TRACE, TRACE.spans[0].span_id))
    found = manager.load_checkpoint(made or path)
    assert any(each.name.endswith("Saved") for each in found.code)


@pytest.mark.once
def test_many_traces_at_once_in_many_threads_each_have_one_file() -> None:
    @checkpointable(on="always", budget=None)
    class Short(Agent):
        def go(self, number: int) -> str:
            self.n = number
            return look("a")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: Short(n=0).go(number), range(200)))
    files = list(home.checkpoint_folder().iterdir())
    assert len(files) == 200
    assert all([info.moment for info in infos(path)] == ["entry", "exit"] for path in files)


def test_a_disk_that_is_full_in_the_middle_of_a_step_costs_that_step_alone(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = a_pack(pack, 2)
    before, write = pack.path.stat().st_size, os.write

    def full(descriptor: int, data: Any) -> int:
        if len(data) < 1000:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:1000])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            pack.append(made[0], trace=TRACE)
    assert pack.path.stat().st_size == before
    assert not pack.is_usable
    assert len(given_by(pack.path)) == 2


def test_a_signal_handler_that_interrupts_a_step_is_told_and_the_step_is_whole(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, write = taken(Agent(n=1)), os.write

    def interrupted(descriptor: int, data: Any) -> int:
        with pytest.raises(CheckpointError, match="just being written"):
            pack.append(taken(Agent(n=2)), trace=None)
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        pack.append(made, trace=None)
    assert loading.load(pack.path).agent_state["n"] == 1


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="signals of POSIX")
def test_a_signal_in_the_middle_of_a_step_is_saved_in_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @checkpointable(on="entry")
    class Interrupted(Agent):
        def go(self) -> str:
            return look("a")

    write, came = os.write, list[bool]()

    def interrupting(descriptor: int, data: Any) -> int:
        if not came:
            came.append(True)
            signal.raise_signal(signal.SIGUSR2)
        return write(descriptor, data)

    configure(signals=["SIGUSR2"])
    try:
        with monkeypatch.context() as patch:
            patch.setattr(packs, "os", _With(os, write=interrupting))
            assert Interrupted(n=1).go() == "a is there"
    finally:
        configure(signals=())
    files = sorted(home.checkpoint_folder().iterdir())
    assert [[info.moment for info in infos(path)] for path in files] == [["signal"], ["entry"]]
    assert "SIGUSR2: 1 checkpoint(s) saved" in capsys.readouterr().err


class _With:
    """A module with something of it replaced."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self.__dict__.update(vars(module), **replaced)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_failure_in_a_child_that_was_forked_inside_a_boundary_is_saved_in_the_child() -> None:
    @checkpointable
    class Forking(Agent):
        def go(self) -> int:
            look("a")
            self.child = os.fork()
            if not self.child:
                raise ValueError("in the child")
            return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])

    agent = Forking(child=-1)
    try:
        assert agent.go() == 0
    except ValueError:
        os._exit(0)
    finally:
        if agent.child == 0:
            os._exit(1)
    (path,) = home.checkpoint_folder().iterdir()
    checkpoint = loading.load(path)
    assert checkpoint.failure is not None
    assert checkpoint.failure.message == "in the child"
    assert checkpoint.span.name.endswith("go")


# --- the trace -------------------------------------------------------------------------------------------------------


def test_spans_that_have_ended_are_written_once(pack: Pack) -> None:
    for _ in range(5):
        pack.append(taken(Agent(n=1)), trace=TRACE)
    told = [json.loads(part) for part in _trace_parts(pack.path)]
    assert [len(each["spans"]) for each in told] == [len(TRACE), 0, 0, 0, 0]
    assert loading.load(pack.path, 4).trace == TRACE


def _trace_parts(path: Path) -> list[bytes]:
    with container.opened(path) as file:
        return [read_sections(file, header, None, {"trace"})["trace"] for header in container.headers(path, file)]


def test_where_the_store_does_not_outlive_the_process_each_step_holds_the_trace() -> None:
    provider = TracerProvider(store=MemoryTraceStore())
    configure(provider=provider)

    @checkpointable(on="entry", nested=True)
    class Nested:
        def outer(self) -> str:
            return look("a") + self.inner()

        def inner(self) -> str:
            return look("b")

    Nested().outer()
    (path,) = home.checkpoint_folder().iterdir()
    with container.opened(path) as file:
        held = [{each[0] for each in header.content["sections"]} for header in container.headers(path, file)]
    assert all("trace" in each for each in held)
    assert [span.name for span in loading.load(path, 1).trace][-1].endswith("inner")


def test_a_step_inside_a_run_takes_its_trace_from_the_database_as_it_was_then() -> None:
    @checkpointable(on="exit", nested=True)
    class Nested:
        @traced
        def outer(self) -> str:
            return self.inner() + look("after")

        def inner(self) -> str:
            return look("b")

    Nested().outer()
    provider = default_provider()
    assert provider is not None
    assert provider.flush()
    (path,) = home.checkpoint_folder().iterdir()
    inner, outer = (loading.load(path, number).trace for number in (0, 1))
    assert [(span.name.rpartition(".")[2], span.is_open) for span in inner] == [
        ("outer", True), ("inner", False), ("look", False),
    ]  # fmt: skip
    assert len(outer) == 4
    assert not any(span.is_open for span in outer)


def test_importing_the_package_loads_nothing_of_packs() -> None:
    code = "import sys, clearstone; print('clearstone.checkpoint.packs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
