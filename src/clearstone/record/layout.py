"""The bytes of the journal: what one segment file holds, and how its records are read back.

Idea: a segment is a header (who writes it) and then records, each a 32-bit length, that many bytes and one byte of
state, at multiples of four. The length is written first: it keeps the place for the record, so that another thread may
go on behind it. The state is written last: while it is 0 the record is not there, and a process that died in between
leaves a place that is passed over. A length of 0 is the end. A span's start and its end are one record each; an item of
a stream is one, and so is what the spans of one site share, which is repeated at the head of each segment.

Invariant: a record holds no reference into another segment but the number of a site, and those are repeated; numbers
are little endian but for the lengths; what a reader does not understand is an error of that record alone.

Refused: JSON or pickle for whole records (five times the cost of `struct`, and a pickle would have to be trusted before
it is read); a checksum per record (one microsecond for 7 KB; written-after is enough when a process dies, and the
journal promises nothing about power loss).
"""

from __future__ import annotations

import itertools
import json
import sys
from struct import Struct, error
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone.store.batch import ProcessRow, RawPayload, SiteRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAGIC = b"CLSJRNL2"
LENGTH = Struct("=I")  # as the machine has it: a journal never leaves it
PROOF_SIZE = 16
NO_PROOF = bytes(PROOF_SIZE)
ALIGNMENT = 4
PUBLISHED, GIVEN_UP = 1, 2
"""States of a record; 0: it is being copied."""

START_KIND, END_KIND, CHUNK_KIND, SITE_KIND = 1, 2, 3, 4
NOTHING = 0xFF
"""The form of a payload that is not there."""

TOP = 1
"""Flag of a start: no span of this process is above it."""

OUTCOMES = (None, "returned", "raised", "streamed")
STATUSES = ("UNSET", "OK", "ERROR")
INCOMPLETE = 0x80
"""Flag beside the outcome: a stream its consumer closed before the end."""

START = Struct("<BBHIQQ16sqI")  # kind, form, flags, site, span, parent, trace, start_ns, size of the input
END = Struct("<BBBBQqI")  # kind, form, outcome, status, span, end_ns, size of the output
CHUNK = Struct("<BBHIQqI")  # kind, form, 0, number, span, at_ns, size
SITE = Struct("<BBHI")  # kind, 0, 0, number; the row follows as JSON
PART = Struct("<BBI")  # role, form, size

INSTANCE, ATTRIBUTES, EVENTS, FAILURE, ERROR, EFFECTS, NAMED_SITE, STATUS_TEXT, INPUT = range(1, 10)
"""Roles of the parts that may follow the first payload of a start or an end."""

JSON = (ATTRIBUTES, EVENTS, FAILURE, NAMED_SITE)
TEXTS = (*JSON, INSTANCE, STATUS_TEXT)


class Start(NamedTuple):
    """A start as it was read. `site` is 0 where the record names its site itself, in a part.

    `order` is the low half of the span's number, which counts within one process.
    """

    span: int
    parent: int
    trace: bytes
    site: int
    top: int
    start_ns: int
    order: int
    input: RawPayload | None
    parts: dict[int, RawPayload]


class End(NamedTuple):
    """An end as it was read."""

    span: int
    end_ns: int
    outcome: str | None
    complete: bool
    status: str
    output: RawPayload | None
    parts: dict[int, RawPayload]


class Chunk(NamedTuple):
    """An item of a stream as it was read."""

    span: int
    number: int
    at_ns: int
    value: RawPayload


class SiteDefinition(NamedTuple):
    """What the spans with this site number share."""

    number: int
    row: SiteRow


Record = Start | End | Chunk | SiteDefinition

NO_PARTS: dict[int, RawPayload] = {}


def part(role: int, data: bytes, form: int = 0) -> bytes:
    """Return one part, to be appended to a start or an end."""
    return PART.pack(role, form, len(data)) + data


def text_part(role: int, text: str) -> bytes:
    """Return a part that holds text; half a surrogate pair is written out, as it is no valid UTF-8."""
    return part(role, text.encode("utf-8", "backslashreplace"))


def json_part(role: int, value: Any) -> bytes:
    """Return a part that holds JSON."""
    return part(role, json.dumps(value).encode())


def named_site_part(row: SiteRow) -> bytes:
    """Return a part that says what a site number would."""
    return json_part(NAMED_SITE, _valid(row))


def text_of(raw: RawPayload) -> str:
    """Return the text of a part."""
    return raw.data.decode()


def site_record(number: int, row: SiteRow) -> bytes:
    """Return the record that defines site `number`."""
    return SITE.pack(SITE_KIND, 0, 0, number) + json.dumps(_valid(row)).encode()


def failure_part(texts: Iterable[str]) -> bytes:
    """Return a part that says what exception ended a span: type, message, traceback, place."""
    return json_part(FAILURE, _valid(texts))


def _valid(texts: Iterable[str]) -> list[str]:
    return [text.encode("utf-8", "backslashreplace").decode() for text in texts]


class Header(NamedTuple):
    """The beginning of a segment as it was read.

    Args:
        process: who wrote the segment.
        serial: which in a row it is.
        begin: where its records begin.
        about: the bytes that say so.
        proof: what should prove that this machine wrote them (see `clearstone.record.ownership.proof`).
    """

    process: ProcessRow
    serial: int
    begin: int
    about: bytes
    proof: bytes


def about(process: ProcessRow, serial: int) -> bytes:
    """Return what a header says: who writes the segment, and which in a row it is."""
    return json.dumps({"process": process, "serial": serial}).encode()


def header(about: bytes, proof: bytes, sites: Iterable[bytes]) -> bytes:
    """Return the beginning of a segment.

    Args:
        about: see above.
        proof: 16 bytes.
        sites: records that define the sites known so far.
    """
    parts = [MAGIC, proof, LENGTH.pack(len(about)), about, bytes(-len(about) % ALIGNMENT)]
    return b"".join(itertools.chain(parts, map(framed, sites)))


def framed(record: bytes) -> bytes:
    """Return a record as it stands in a segment."""
    size = len(record)
    return LENGTH.pack(size) + record + bytes((PUBLISHED,)) + bytes(space(size) - LENGTH.size - size - 1)


def space(size: int) -> int:
    """Return how many bytes a record of `size` bytes takes up in a segment."""
    return size + LENGTH.size + ALIGNMENT & -ALIGNMENT


def read_header(data: bytes) -> Header | None:
    """Return what the beginning of a segment says; None where it was never begun, or cannot be read.

    Args:
        data: the segment's bytes, from the first.
    """
    start = len(MAGIC) + PROOF_SIZE + LENGTH.size
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        return None
    (size,) = LENGTH.unpack_from(data, start - LENGTH.size)
    about, proof = data[start : start + size], data[len(MAGIC) : start - LENGTH.size]
    try:
        found = json.loads(about)
        token, pid, host, boot_id, started_ns = found["process"]
        process = ProcessRow(str(token), int(pid), str(host), str(boot_id), int(started_ns))
        return Header(process, int(found["serial"]), start + size + -size % ALIGNMENT, about, proof)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def cut(data: bytes, most: int = sys.maxsize) -> tuple[list[bytes], int]:
    """Return the first records in `data`, up to one that is being copied, and how many bytes they take.

    Args:
        data: bytes of a segment, from where a record begins.
        most: at most so many records.
    """
    found: list[bytes] = []
    at, size, unpack = 0, len(data), LENGTH.unpack_from
    while len(found) < most and at + LENGTH.size < size:
        (length,) = unpack(data, at)
        end = at + 4 + length
        if not length or end >= size or not data[end]:
            break
        if data[end] == PUBLISHED:
            found.append(data[at + 4 : end])
        at = end + ALIGNMENT & -ALIGNMENT
    return found, at


def read(record: bytes) -> Record:
    """Return what one record says.

    Raises:
        ValueError: it is of no known kind, or does not hold what its kind must.
    """
    try:
        return _READERS[record[0]](record)
    except (KeyError, IndexError, error, TypeError, UnicodeDecodeError) as problem:
        raise ValueError(f"a journal record that cannot be read: {type(problem).__name__}: {problem}") from problem


_new = tuple.__new__  # half the cost of calling a NamedTuple's class


def _start(record: bytes) -> Start:
    _, form, flags, site, span, parent, trace, start_ns, size = START.unpack_from(record)
    at = START.size + size
    given = _new(RawPayload, (form, record[START.size : at])) if form != NOTHING else None
    parts = NO_PARTS if at == len(record) else _parts(record, at)
    return _new(Start, (span, parent, trace, site, flags & TOP, start_ns, span & 0xFFFFFFFF, given, parts))


def _end(record: bytes) -> End:
    _, form, outcome, status, span, end_ns, size = END.unpack_from(record)
    at = END.size + size
    gave = _new(RawPayload, (form, record[END.size : at])) if form != NOTHING else None
    parts = NO_PARTS if at == len(record) else _parts(record, at)
    kind, complete = OUTCOMES[outcome & ~INCOMPLETE], not outcome & INCOMPLETE
    return _new(End, (span, end_ns, kind, complete, STATUSES[status], gave, parts))


def _chunk(record: bytes) -> Chunk:
    _, form, _, number, span, at_ns, size = CHUNK.unpack_from(record)
    if CHUNK.size + size != len(record):
        raise ValueError("a journal record that cannot be read: its chunk has another size")
    return Chunk(span, number, at_ns, RawPayload(form, record[CHUNK.size :]))


def _site(record: bytes) -> SiteDefinition:
    number = SITE.unpack_from(record)[3]
    return SiteDefinition(number, SiteRow(*json.loads(record[SITE.size :])))


def _parts(record: bytes, at: int) -> dict[int, RawPayload]:
    found: dict[int, RawPayload] = {}
    while at < len(record):
        role, form, size = PART.unpack_from(record, at)
        at += PART.size
        found[role] = RawPayload(form, record[at : at + size])
        at += size
    if at != len(record):
        raise ValueError("a journal record that cannot be read: a part ends beyond it")
    return found


_READERS: dict[int, Callable[[bytes], Record]] = {
    START_KIND: _start,
    END_KIND: _end,
    CHUNK_KIND: _chunk,
    SITE_KIND: _site,
}
KINDS = frozenset(_READERS)
