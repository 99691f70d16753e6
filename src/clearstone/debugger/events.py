"""A file of what a replay executed, line by line: written while it runs, read in parts afterwards.

Idea: every thread's job and every task has a *sequence* of its own, named by who started it. Its lines are gathered and
written in blocks, so that memory stays flat; what threads did meanwhile is in other blocks. A block is numbers (when
each line ran, counted over all sequences) and a text (what ran). Two runs that did the same have equal texts, so most
of a comparison compares bytes.

Invariant: blocks of one sequence end at the same lines in every run that did the same so far.

Refused: one list in memory (a replay of some minutes executes millions of lines); a file a sequence (some agents have
ten thousand tasks).
"""

from __future__ import annotations

import itertools
import threading
from array import array
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_EVENTS = 5_000_000
"""Lines of one replay that are kept."""

BLOCK = 128


class Code(NamedTuple):
    """A function: its file, its name, and the line it begins in."""

    file: str
    function: str
    line: int


class Event(NamedTuple):
    """A line that was executed.

    Args:
        code: the key of its function (see `Log.codes`).
        line: its number.
        told: what it gave names to, what was passed or returned; empty for nothing.
        number: when, counted over all sequences.
    """

    code: str
    line: int
    told: str
    number: int = 0


class Sequence:
    """What one thread or task executes, while it does. Used by one thread at a time.

    Args:
        log: where it is written.
        name: tells it from others, the same in each run.
    """

    __slots__ = ("__weakref__", "_children", "_log", "_numbers", "_texts", "name")

    def __init__(self, log: OpenLog, name: str) -> None:
        self._log = log
        self.name = name
        self._numbers = array("Q")
        self._texts: list[str] = []
        self._children: dict[str, int] = {}

    def add(self, code: str, line: int, told: str) -> None:
        """Add a line; nothing, where the log is full."""
        number = next(self._log.numbers)
        if number >= self._log.most:
            self._log.complete = False
            return
        self._numbers.append(number)
        self._texts.append(f"{code} {line} {told}\n")
        if len(self._texts) == BLOCK:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        if not self._texts:
            return
        self._log.write(self.name, self._numbers.tobytes(), "".join(self._texts).encode("utf-8", "backslashreplace"))
        self._numbers = array("Q")
        self._texts = []

    def child_name(self, kind: str) -> str:
        """Return the name of the next of its kind that is started in this one."""
        self._children[kind] = number = self._children.get(kind, 0) + 1
        return f"{kind} {number}"


class OpenLog:
    """A log while it is written, by any thread.

    Args:
        file: where to.
        most: so many lines are kept.

    `complete` says whether all were.
    """

    def __init__(self, file: BinaryIO, most: int = MOST_EVENTS) -> None:
        self._file = file
        self._lock = threading.RLock()  # reentrant: a signal handler may be followed too
        self._offset = 0
        self._blocks: list[tuple[str, int, int, int]] = []
        self._sequences: list[Sequence] = []
        self.most = most
        self.numbers = itertools.count()
        self.complete = True
        self.codes: dict[str, Code] = {}

    def sequence(self, name: str) -> Sequence:
        """Begin a sequence."""
        made = Sequence(self, name)
        self._sequences.append(made)
        return made

    def write(self, name: str, numbers: bytes, text: bytes) -> None:
        """Write a block of a sequence."""
        with self._lock:
            self._file.write(numbers)
            self._file.write(text)
            self._blocks.append((name, self._offset, len(numbers), len(text)))
            self._offset += len(numbers) + len(text)

    def closed(self) -> dict[str, Any]:
        """Write the rest; return what `Log` needs besides the file, as JSON-ready values."""
        for each in self._sequences:
            each.flush()
        self._file.flush()
        return {"complete": self.complete, "codes": self.codes, "blocks": self._blocks}


class Log:
    """A log that is read.

    Args:
        file: the file.
        about: what `OpenLog.closed` said of it.
    """

    def __init__(self, file: BinaryIO, about: Mapping[str, Any]) -> None:
        self._file = file
        self._blocks: dict[str, list[tuple[int, int, int]]] = {}
        for name, *place in about["blocks"]:
            self._blocks.setdefault(name, []).append(tuple(place))
        self.complete: bool = about["complete"]
        self.codes = {key: Code(*each) for key, each in about["codes"].items()}

    @property
    def sequences(self) -> list[str]:
        """The names of its sequences, in the order in which something of them was written."""
        return list(self._blocks)

    @property
    def lines(self) -> int:
        """How many lines it holds."""
        return sum(size for blocks in self._blocks.values() for _, size, _ in blocks) // array("Q").itemsize

    def executed(self) -> list[tuple[Code, int]]:
        """Return each line that was executed once, with its function."""
        blocks = (block for name in self._blocks for block in self.blocks(name))
        found = dict.fromkeys(each[:2] for block in blocks for each in block.events())
        return [(self.codes[code], line) for code, line in found]

    def blocks(self, name: str) -> Iterator[Block]:
        """Give the blocks of a sequence; none where it has none."""
        for place in self._blocks.get(name, ()):
            yield Block(self._file, *place)


class Block:
    """A block of a log.

    Args:
        file: the log's.
        offset: where it begins.
        numbers: the bytes of its numbers.
        text: the bytes of its text.
    """

    def __init__(self, file: BinaryIO, offset: int, numbers: int, text: int) -> None:
        file.seek(offset)
        self._numbers = file.read(numbers)
        self.text = file.read(text)

    def events(self) -> Iterator[Event]:
        """Give its lines."""
        numbers = array("Q", self._numbers)
        for number, line in zip(numbers, self.text.decode().split("\n"), strict=False):
            code, at, told = line.split(" ", 2)
            yield Event(code, int(at), told, number)
