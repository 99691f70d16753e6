"""What is said of a line where two runs part: the probable cause, and what to write instead."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from clearstone.debugger.advice import advice, changing, source
from clearstone.debugger.events import Code, Log, OpenLog
from clearstone.debugger.following import MAIN
from clearstone.debugger.parting import Kind, Parting

if TYPE_CHECKING:
    from pathlib import Path


def parted(
    folder: Path, text: str, line: int = 1, one: str = "x = 1", other: str = "x = 2", *, sequence: str = MAIN,
    kind: Kind = "value",
) -> Parting:  # fmt: skip
    file = folder / f"source{len(list(folder.iterdir()))}.py"
    file.write_text(text)
    return Parting(kind, Code(str(file), "run", 1), line, sequence, one, other, 0)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("for name in os.listdir(folder): pass", "folder"),
        ("names = [p.name for p in path.glob('*')]", "folder"),
        ("for each in as_completed(futures): pass", "futures"),
        ("key = id(thing)", "Addresses"),
        ("value = random.random()", "random.Random(a seed of yours)"),
        ("rng = np.random.default_rng()", "random.Random(a seed of yours)"),
        ("start = time.clock_gettime(0)", "clock"),
        ("home = os.environ['HOME']", "today's machine"),
        ("text = open(path).read()", "today's machine"),
        ("for word in words:\n    pass", "A set of strings"),
        ("first = next(iter(words))", "A set of strings"),
        ("x = 1", ""),
        ("this is no Python", ""),
    ],
)
def test_the_cause_is_told_by_what_the_line_calls(tmp_path: Path, text: str, word: str) -> None:
    told = advice(parted(tmp_path, text))
    assert word in told
    assert bool(told) == bool(word)


def test_the_hash_seed_is_the_cause_where_it_is_known_to_be(tmp_path: Path) -> None:
    place = parted(tmp_path, "prompt = render(tags)")
    assert advice(place) == advice(place, is_by_seed=False) == ""
    assert "A set of strings" in advice(place, is_by_seed=True)
    assert "hashlib" in advice(parted(tmp_path, "key = hash(text)"), is_by_seed=True)


def test_a_loop_whose_order_is_not_of_the_hash_seed_is_of_threads(tmp_path: Path) -> None:
    assert "What threads add" in advice(parted(tmp_path, "for each in self.results: pass"), is_by_seed=False)


def test_what_a_thread_reads_from_an_object_is_a_race(tmp_path: Path) -> None:
    place = parted(tmp_path, "before = self.count", sequence="main/thread 2")
    assert "hold a lock" in advice(place, is_by_seed=False)
    assert advice(parted(tmp_path, "before = self.count"), is_by_seed=False) == ""


def test_an_address_in_what_both_did_tells_the_cause(tmp_path: Path) -> None:
    place = parted(tmp_path, "text = str(thing)", one="text = '<T at 0x7f00aa11>'", other="text = '<T at 0x7f00bb22>'")
    assert "Addresses" in advice(place)


def test_of_a_compound_statement_the_head_alone_counts(tmp_path: Path) -> None:
    text = "if ready:\n    names = os.listdir('.')\n"
    assert advice(parted(tmp_path, text, 1)) == ""
    assert "folder" in advice(parted(tmp_path, text, 2))


def test_why_a_thread_was_started_by_one_alone_is_not_said_at_its_beginning(tmp_path: Path) -> None:
    assert advice(parted(tmp_path, "for word in words: pass", kind="alone"), is_by_seed=True) == ""


def test_a_line_is_shown_by_its_source_and_a_decorated_beginning_by_its_name(tmp_path: Path) -> None:
    assert source(parted(tmp_path, "  x = 1\n".lstrip())) == "x = 1"
    assert source(parted(tmp_path, "@traced\ndef run(): pass")) == "in run"
    assert source(parted(tmp_path, "x = 1", 7)) == "in run"


def test_lines_that_change_an_attribute_are_those_that_were_executed(tmp_path: Path) -> None:
    lines = ["self.done.append(1)", "self.done[0] = 2", "self.done = []", "x = self.done", "self.done.sort()"]
    file = tmp_path / "agent.py"
    file.write_text("\n".join(lines))
    data = io.BytesIO()
    log = OpenLog(data)
    log.codes["c"] = Code(str(file), "run", 1)
    sequence = log.sequence(MAIN)
    for line in (1, 2, 3, 4, 1):
        sequence.add("c", line, "")
    assert changing("done", Log(data, log.closed())) == [f"{file}:{at}: {lines[at - 1]}" for at in (1, 2, 3)]
