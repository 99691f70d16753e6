"""Two runs are compared line by line, and each place where they part is named."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from clearstone.debugger import parting
from clearstone.debugger.events import Code, Log, OpenLog
from clearstone.debugger.parting import partings

CODE = Code("agent.py", "run", 1)
Lines = list[tuple[int, str]]


def ran(**sequences: Lines) -> Log:
    return ran_at_most(100_000, sequences)


def ran_at_most(most: int, sequences: dict[str, Lines]) -> Log:
    file = io.BytesIO()
    log = OpenLog(file, most)
    log.codes["c"] = CODE
    for name, lines in sequences.items():
        sequence = log.sequence(name)
        for line, told in lines:
            sequence.add("c", line, told)
    return Log(file, log.closed())


def told(one: Log, other: Log) -> list[tuple[str, int, str, str, int]]:
    return [(each.kind, each.line, each.one, each.other, each.times) for each in partings(one, other)]


def plain(*lines: int) -> Lines:
    return [(line, "") for line in lines]


def test_a_line_that_gave_something_else_is_told_once_with_how_often() -> None:
    one, other = [(1, ""), (2, "t = 'a'"), (2, "t = 'b'"), (3, "")], [(1, ""), (2, "t = 'b'"), (2, "t = 'a'"), (3, "")]
    (found,) = partings(ran(main=one), ran(main=other))
    assert (found.kind, found.line, found.one, found.other, found.times) == ("value", 2, "t = 'a'", "t = 'b'", 2)
    assert found.is_another_order
    (found,) = partings(ran(main=[(2, "x = 1"), (2, "x = 1")]), ran(main=[(2, "x = 1"), (2, "x = 2")]))
    assert not found.is_another_order


def test_where_the_ways_part_the_line_before_is_told_and_where_they_meet_again_is_found() -> None:
    one, other = [1, 2, 3, 4, 8, 9, 10, 11], [1, 2, 6, 8, 9, 10, 12, 11]
    found = told(ran(main=plain(*one)), ran(main=plain(*other)))
    assert found == [
        ("way", 2, "line 3 of run", "line 6 of run", 1),
        ("way", 10, "line 11 of run", "line 12 of run", 1),
    ]


def test_what_one_of_them_does_after_the_end_of_the_other_is_told() -> None:
    assert told(ran(main=plain(1, 2)), ran(main=plain(1, 2, 3))) == [("way", 2, "nothing more", "line 3 of run", 1)]


def test_a_thread_that_one_of_them_starts_alone_is_told() -> None:
    found = partings(ran(main=plain(1)), ran(main=plain(1), other=plain(7, 8)))
    assert [(each.kind, each.line, each.sequence) for each in found] == [("alone", 7, "other")]


def test_ways_that_do_not_meet_within_the_window_are_left() -> None:
    far = parting.WINDOW + 10
    one, other = plain(1, *range(2, far)), plain(1, *range(far + 1, 2 * far))
    assert told(ran(main=one), ran(main=other)) == [("way", 1, "line 2 of run", f"line {far + 1} of run", 1)]


def test_the_order_of_threads_is_no_difference_and_what_parted_first_comes_first() -> None:
    one = ran(a=[(1, "x"), (2, "")], b=[(5, "y"), (6, "")])
    assert told(one, ran(b=[(5, "y"), (6, "")], a=[(1, "x"), (2, "")])) == []
    found = told(one, ran(b=[(5, "z"), (6, "")], a=[(1, "z"), (2, "")]))
    assert [line for _, line, *_ in found] == [1, 5]


def test_the_end_of_a_log_that_is_full_is_no_parting() -> None:
    whole, cut = ran(main=plain(*range(50))), ran_at_most(20, {"main": plain(*range(50))})
    assert (whole.complete, cut.complete, cut.lines) == (True, False, 20)
    assert told(whole, cut) == told(cut, whole) == []
    assert told(cut, ran(main=plain(*range(10), 99, *range(10, 50))))[0][:2] == ("way", 9)


some_lines = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["", "x = 1", "x = 2"])), max_size=400)


@given(some_lines, some_lines)
def test_only_equal_runs_do_not_part_and_both_sides_are_told_alike(one: Lines, other: Lines) -> None:
    assert told(ran(main=one), ran(main=one)) == []
    found = partings(ran(main=one), ran(main=other))
    assert bool(found) == (one != other)
    mirrored = partings(ran(main=other), ran(main=one))
    assert [each.kind for each in found[:1]] == [each.kind for each in mirrored[:1]]
    assert [each.number for each in found[:1]] == [each.number for each in mirrored[:1]]


@given(some_lines, st.integers(0, 399), st.integers(7, 9))
def test_one_line_more_is_one_parting(lines: Lines, at: int, line: int) -> None:
    at = min(at, len(lines))
    more = [*lines[:at], (line, "new"), *lines[at:]]
    found = partings(ran(main=lines), ran(main=more))
    assert sum(each.times for each in found) == 1


@given(st.dictionaries(st.sampled_from("abc"), some_lines))
def test_a_log_gives_what_was_written(sequences: dict[str, Lines]) -> None:
    log = ran(**sequences)
    for name, lines in sequences.items():
        events = [event for block in log.blocks(name) for event in block.events()]
        assert [(each.line, each.told) for each in events] == lines
    assert log.lines == sum(map(len, sequences.values()))
