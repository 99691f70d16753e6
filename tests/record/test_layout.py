"""The bytes of a journal: what is written is read, and what is no record is an error of that record alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clearstone.record import layout
from clearstone.store.batch import RawPayload, SiteRow

NUMBERS = st.integers(0, 2**63 - 1)
PAYLOADS = st.none() | st.builds(RawPayload, st.integers(0, 0x7F), st.binary(max_size=50))
PARTS = st.dictionaries(
    st.integers(1, 9), st.builds(RawPayload, st.integers(0, 0x7F), st.binary(max_size=20)), max_size=4
)


def written(parts: dict[int, RawPayload]) -> bytes:
    return b"".join(layout.part(role, raw.data, raw.form) for role, raw in parts.items())


@given(NUMBERS, NUMBERS, st.binary(min_size=16, max_size=16), st.integers(0, 2**32 - 1), NUMBERS, PAYLOADS, PARTS)
def test_a_start_comes_back(
    span: int,
    parent: int,
    trace: bytes,
    site: int,
    start_ns: int,
    given_: RawPayload | None,
    parts: dict[int, RawPayload],
) -> None:
    form, data = given_ or (layout.NOTHING, b"")
    head = layout.START.pack(layout.START_KIND, form, layout.TOP, site, span, parent, trace, start_ns, len(data))
    read = layout.read(head + data + written(parts))
    assert read == layout.Start(span, parent, trace, site, layout.TOP, start_ns, span & 0xFFFFFFFF, given_, parts)


@given(
    NUMBERS, NUMBERS, st.sampled_from(layout.OUTCOMES), st.booleans(), st.sampled_from(layout.STATUSES), PAYLOADS, PARTS
)
def test_an_end_comes_back(
    span: int, end_ns: int, kind: str | None, complete: bool, status: str, gave: RawPayload | None,
    parts: dict[int, RawPayload],
) -> None:  # fmt: skip
    form, data = gave or (layout.NOTHING, b"")
    outcome = layout.OUTCOMES.index(kind) | (0 if complete else layout.INCOMPLETE)
    number = layout.STATUSES.index(status)
    head = layout.END.pack(layout.END_KIND, form, outcome, number, span, end_ns, len(data))
    assert layout.read(head + data + written(parts)) == layout.End(span, end_ns, kind, complete, status, gave, parts)


@given(st.tuples(*[st.text()] * len(SiteRow._fields)), st.integers(1, 2**31))
def test_a_site_comes_back_with_half_surrogates_written_out(texts: tuple[str, ...], number: int) -> None:
    row = SiteRow(*texts)
    read = layout.read(layout.site_record(number, row))
    assert isinstance(read, layout.SiteDefinition)
    assert read.number == number
    assert list(read.row) == [text.encode("utf-8", "backslashreplace").decode() for text in texts]


def test_a_site_that_an_earlier_version_wrote_says_no_line() -> None:
    record = layout.SITE.pack(layout.SITE_KIND, 0, 0, 3) + b'["m:f", "f", "llm", "serve", "INTERNAL", "", ""]'
    assert layout.read(record) == layout.SiteDefinition(3, SiteRow("m:f", "f", "llm", "serve", "INTERNAL", "", "", ""))


@given(st.binary(min_size=1, max_size=200))
def test_bytes_that_are_no_record_are_a_value_error_and_nothing_else(record: bytes) -> None:
    try:
        layout.read(record)
    except ValueError:
        return


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(0, 400))
def test_records_are_read_up_to_where_the_bytes_end(records: list[bytes], end: int) -> None:
    data = b"".join(map(layout.framed, records))
    assert len(data) == sum(layout.space(len(each)) for each in records)
    assert layout.cut(data + bytes(8)) == (records, len(data))
    read, _ = layout.cut(data[:end])
    assert read == records[: len(read)]
    found, size = layout.cut(data + bytes(8), 3)
    assert found == records[:3]
    assert layout.cut(data[size:])[0] == records[3:]


def in_state(record: bytes, state: int) -> bytes:
    framed = bytearray(layout.framed(record))
    framed[4 + len(record)] = state
    return bytes(framed)


def test_a_record_that_is_being_copied_ends_the_reading() -> None:
    whole = layout.framed(b"abcd")
    assert layout.cut(whole + in_state(b"efgh", 0) + whole) == ([b"abcd"], len(whole))
    assert layout.cut(whole + bytes(12) + whole) == ([b"abcd"], len(whole)), "the place is kept, its length not written"


def test_a_record_that_was_given_up_is_passed_over() -> None:
    data = in_state(b"given up", layout.GIVEN_UP) + layout.framed(b"abcd")
    assert layout.cut(data) == ([b"abcd"], len(data))
    assert layout.cut(data, 1) == ([b"abcd"], len(data))
