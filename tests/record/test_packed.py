"""What is packed in place is what is read."""

from hypothesis import given
from hypothesis import strategies as st

from clearstone.record import layout, packed
from clearstone.store.batch import RawPayload

NUMBERS = st.integers(0, 2**63 - 1)
SITES = st.integers(0, 2**32 - 1)
TRACES = st.binary(min_size=16, max_size=16)
PAYLOADS = st.binary(max_size=3000)
FORMS = st.integers(0, 0x7F)


def in_place(packings: packed.Packings, size: int, *fields: object) -> bytes:
    pack, length, room = packings[size]
    segment = bytearray(room + 8)
    pack(segment, 4, length, *fields, layout.PUBLISHED)
    (record,), taken = layout.cut(bytes(segment[4:]))
    assert taken == room == layout.space(length)
    return record


@given(NUMBERS, NUMBERS, TRACES, SITES, NUMBERS, FORMS, PAYLOADS, st.sampled_from([0, layout.TOP]))
def test_a_start_packed_in_place_is_read_as_one_that_was_put_together(
    span: int, above: int, trace: bytes, site: int, start_ns: int, form: int, data: bytes, flags: int
) -> None:
    head = packed.start_head(site, flags) | form << 8
    record = in_place(packed.STARTS, len(data), head, span, above, trace, start_ns, len(data), data)
    assert record == packed.pack_start(head, span, above, trace, start_ns, len(data)) + data
    assert layout.read(record) == layout.Start(
        span, above, trace, site, flags, start_ns, span & 0xFFFFFFFF, RawPayload(form, data), {}
    )


@given(NUMBERS, NUMBERS, FORMS, PAYLOADS)
def test_an_end_packed_in_place_is_read_as_one_that_was_put_together(
    span: int, end_ns: int, form: int, data: bytes
) -> None:
    head = packed.RETURNED | form << 8
    record = in_place(packed.ENDS, len(data), head, span, end_ns, len(data), data)
    assert record == packed.pack_end(head, span, end_ns, len(data)) + data
    assert layout.read(record) == layout.End(span, end_ns, "returned", True, "UNSET", RawPayload(form, data), {})


def test_sizes_that_were_met_are_remembered_up_to_a_bound() -> None:
    packings = packed.Packings(packed.END)
    for size in range(3 * packed.MOST):
        assert packings[size][1] == packed.END.size + size
    assert len(packings) <= packed.MOST
