"""A value in a file of its own is as good as one in memory, and a large trace's are in one, wherever it is read."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearstone import checkpointable, configure, traced
from clearstone.checkpoint import container, loading, sections
from clearstone.codec import payload, spilled
from clearstone.codec.keys import Key
from clearstone.codec.spilled import HELD, SMALLEST, Pile, Spill, SpilledPayload, placed
from clearstone.debugging import CheckpointManager, ReplayEngine
from clearstone.errors import CheckpointDamagedError
from clearstone.span import Outcome, Payload, Span
from clearstone.store.rows import batch_of
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Callable

T = "7" * 32


def in_a_file(held: Payload) -> Payload:
    form, data = payload.to_raw(held)
    spill = Spill()
    spill.append(b"before")
    return placed(form, held.name, spill, spill.append(data), len(data))


@given(
    st.binary(max_size=2000),
    st.lists(st.binary(max_size=300), max_size=3),
    st.sampled_from(["pickle", "cloudpickle", "stand-in"]),
    st.booleans(),
)
def test_it_is_equal_to_one_that_is_held(data: bytes, buffers: list[bytes], codec: Any, redacted: bool) -> None:
    held = Payload(codec, data, tuple(buffers), redacted, b"a name")
    found = in_a_file(held)
    assert isinstance(found, SpilledPayload) == (len(payload.to_raw(held)[1]) >= SMALLEST)
    assert found == held
    assert held == found
    assert hash(found) == hash(held)
    assert (found.data, found.buffers, found.codec, found.redacted, found.name) == (
        data, tuple(buffers), codec, redacted, b"a name",
    )  # fmt: skip
    assert found != Payload(codec, data + b"x", tuple(buffers), redacted)
    assert found != data
    again = pickle.loads(pickle.dumps(found))
    assert type(again) is Payload
    assert again == held


def test_bytes_that_are_not_of_their_form_are_refused_when_they_are_placed() -> None:
    spill = Spill()
    form, at = payload.to_raw(Payload("pickle", b"", (b"x",)))[0], spill.append(b"\xff" * 500)
    with pytest.raises(ValueError, match=r"buffers|bytes"):
        placed(form, b"", spill, at, 500)


@pytest.mark.parametrize(("at", "length"), [(-5, 300), (0, 1 << 62), (0, 1 << 70), (400, 101), (0, -1)])
def test_a_place_outside_of_the_file_is_refused(at: int, length: int) -> None:
    spill = Spill()
    spill.append(bytes(500))
    with pytest.raises(ValueError, match="of 500 bytes"):
        placed(0, b"", spill, at, length)


def test_threads_read_from_one_file_at_once() -> None:
    spill = Spill()
    places = [(spill.append(bytes([number]) * 1000), number) for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda place: spill.read(place[0], 1000) == bytes([place[1]]) * 1000, places * 5))
    assert all(read)


def _tell(found: Payload, queue: Any) -> None:
    queue.put(found.data)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_forked_child_reads_it_too() -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_tell, args=(in_a_file(Payload("pickle", b"data" * 1000)), queue))
    child.start()
    assert queue.get(timeout=60) == b"data" * 1000
    child.join()


def test_of_a_trace_a_few_megabytes_are_held_and_equal_values_once() -> None:
    pile, block = Pile(), HELD // 4
    found = [pile.payload(0, bytes([number]) * block, bytes([number])) for number in (1, 2, 3, 4, 5, 6, 5, 1)]
    assert [type(each) for each in found] == [Payload] * 4 + [SpilledPayload] * 3 + [Payload]
    assert found[4] is found[6]
    assert [each.data for each in found] == [bytes([number]) * block for number in (1, 2, 3, 4, 5, 6, 5, 1)]
    assert type(pile.payload(0, b"small", b"small")) is Payload


def no_room(*_: Any, **__: Any) -> NoReturn:
    raise OSError(28, "No space left on device")


@pytest.fixture(params=["a file", "no room for one"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Payload]:
    """What large payloads become."""
    if request.param == "a file":
        return SpilledPayload
    monkeypatch.setattr(spilled, "TemporaryFile", no_room)
    return Payload


TEXTS = [f"{number:06d} " * 300 for number in range(4000)]
"""Eight megabytes."""


@pytest.mark.parametrize("compressible", [True, False])
def test_a_section_is_checked_and_unpacked_in_a_file(
    tmp_path: Path, room: type[Payload], *, compressible: bool
) -> None:
    data = bytes(HELD + 10) + b"end" if compressible else os.urandom(HELD + 13)
    path = tmp_path / "a.ckpt"
    container.write(path, {}, {"first": b"1", "payloads": data, "last": b"2"}, Key(b"k" * 32))
    _, found = container.read(path, apart="payloads")
    assert (found["first"], found["last"]) == (b"1", b"2")
    assert isinstance(found["payloads"], Spill) == (room is SpilledPayload)
    assert len(found["payloads"]) == len(data)
    path.write_bytes(b"")  # what was read stands
    whole = found["payloads"]
    assert (whole.read(0, len(data)) if isinstance(whole, Spill) else whole) == data


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: file.replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\xfe"), "does not match its digest"),
        (lambda file: file[:-4096], "is torn or altered"),
    ],
)
def test_a_large_section_that_was_altered_is_noticed(
    tmp_path: Path, change: Callable[[bytes], bytes], told: str
) -> None:
    path = tmp_path / "a.ckpt"
    text = b"".join(f"{number:07d}".encode() for number in range(HELD // 6))
    container.write(path, {}, {"payloads": text}, Key(b"k" * 32))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointDamagedError, match=told):
        container.read(path, apart="payloads")


def test_a_large_section_that_unpacks_to_another_length_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, laid_out = tmp_path / "a.ckpt", sections.laid_out

    def lying(given: Any) -> Any:
        listed, parts = laid_out(given)
        listed[0][3] -= 5  # the raw length
        return listed, parts

    monkeypatch.setattr(container, "laid_out", lying)
    container.write(path, {}, {"payloads": bytes(HELD + 100)}, Key(b"k" * 32))
    with pytest.raises(CheckpointDamagedError, match="another length"):
        container.read(path, apart="payloads")


@pytest.mark.once
def test_a_large_trace_comes_out_of_its_database_as_it_went_in(tmp_path: Path, room: type[Payload]) -> None:
    spans = [
        Span(
            T, f"{number + 1:016x}", None, "work", number, end_ns=number + 1, input=payload.dump(text),
            outcome=Outcome("returned", payload.dump([number, text])),
        )
        for number, text in enumerate(TEXTS)
    ]  # fmt: skip
    with closing(SQLiteTraceStore(tmp_path / "traces.db")) as store:
        store.apply(batch_of(spans))
        found = store.get_trace(T)
    assert [each.input for each in found] == [each.input for each in spans]
    assert [payload.load(each.outcome.value) for each in found if each.outcome and each.outcome.value] == [
        [number, text] for number, text in enumerate(TEXTS)
    ]
    assert type(found.spans[0].input) is Payload
    assert type(found.spans[-1].input) is room


@traced(span_type="tool")
def echo(text: str) -> str:
    return text.upper()


@checkpointable(budget=None)
def long_run(texts: list[str]) -> None:
    raise RuntimeError([echo(each) for each in texts])


@pytest.mark.once
def test_a_long_run_is_replayed_from_a_pack_and_from_a_file_of_its_own(tmp_path: Path, room: type[Payload]) -> None:
    texts = [os.urandom(1500).hex() for _ in range(2500)]
    with pytest.raises(RuntimeError) as recorded:
        long_run(texts)
    configure().flush()
    manager = CheckpointManager(tmp_path)
    made = manager.load_checkpoint("latest")
    alone = loading.load(manager.save_checkpoint(made, "alone.ckpt"))
    assert alone.trace == made.trace
    for checkpoint in (made, alone):
        assert {type(span.outcome.value) for span in checkpoint.trace if span.name == "echo" and span.outcome} == {room}
        engine = ReplayEngine(checkpoint, configure().trace_store)
        with pytest.raises(RuntimeError) as again:
            engine.replay_from_checkpoint()
        assert again.value.args == recorded.value.args
        assert engine.ledger.count("reused") == len(texts)


def test_nobody_else_finds_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spill = Spill()
    spill.append(b"a secret")
    if sys.platform != "win32":
        assert list(tmp_path.iterdir()) == []
