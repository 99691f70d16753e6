"""A look into a pickle without loading it.

Idea: a pickle is a program for a small stack machine. `clearstone.codec.machine` is a second machine for the same
opcodes (protocols 0 to 5, cloudpickle's included) in which no opcode does anything: where a loader imports, it notes a
`Name`; where a loader calls, it notes an `Object` with what was to be called and with what. Plain builtin values come
out as themselves.

Invariant: nothing is imported, called, looked up or compared because a pickle names it. Whatever the bytes, `read`
returns, in time and memory bounded by `Limits` and their size, with an `Unreadable` where it had to stop. What a loader
would make and throw away (``os.system(...)``, then POP) is shown beside the value, never dropped.

Refused: an `Unpickler` whose ``find_class`` has an allow list. It still hands out callables, and what may safely be
called with an attacker's arguments is a list nobody has got right (BUILD alone sets attributes on every class let in).
`pickletools.genops` too: it reads a text before one can know how long it is, and warns about escapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearstone.codec.machine import DEFAULT, Limits, Machine
from clearstone.codec.nodes import Aside, Key, Name, Node, Object, Unreadable, children, walk
from clearstone.codec.opcodes import HANDLERS
from clearstone.errors import CheckpointDamagedError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "DEFAULT",
    "Aside",
    "Key",
    "Limits",
    "Name",
    "Node",
    "Object",
    "Unreadable",
    "children",
    "followed",
    "names",
    "read",
    "read_after",
    "walk",
]


def read(data: bytes, *, buffers: Sequence[bytes] = (), limits: Limits = DEFAULT) -> Node:
    """Return what `data` would load as, loading nothing.

    Never raises for the data's sake. Bytes after the pickle's STOP are ignored, as a loader ignores them.

    Args:
        data: a pickle of any protocol, from anyone.
        buffers: its out-of-band buffers (protocol 5), in order.
        limits: where to stop.

    Returns:
        The value as a tree of nodes; an `Unreadable` if the bytes are no whole pickle or more than `limits` allow; an
        `Aside` if a loader would do more than make the value.
    """
    return _ran(data, (), buffers, limits)[0]


def read_after(
    data: bytes, seeds: Sequence[Node], *, buffers: Sequence[bytes] = (), limits: Limits = DEFAULT
) -> tuple[Node, dict[int, Node]]:
    """Return what `data` would load as where a loader's memo held `seeds` before it, and what the memo held afterwards.

    Args:
        data: a pickle, as `read` takes it.
        seeds: the first entries of the memo.
        buffers: its out-of-band buffers, in order.
        limits: where to stop.
    """
    node, machine = _ran(data, seeds, buffers, limits)
    return node, machine.memo


def followed(
    data: bytes, seeds: Sequence[Node], *, buffers: Sequence[bytes] = (), limits: Limits = DEFAULT
) -> tuple[Node, dict[int, Node], list[str]]:
    """Return what `read_after` does, and the names that `names` does.

    Raises:
        CheckpointDamagedError: `data` cannot be followed to its end.
    """
    node, machine = _ran(data, seeds, buffers, limits)
    if machine.halted:
        raise CheckpointDamagedError(
            f"the names in a pickle cannot be listed: {machine.halted} (at byte {machine.at} of {len(data)}). "
            f"See what can be read of it with 'clearstone inspect'."
        )
    return node, machine.memo, list(machine.names)


def names(data: bytes, *, limits: Limits = DEFAULT) -> list[str]:
    """Return every global that loading `data` would import, as ``module:qualname``, in order, without duplicates.

    A part that only loading would compute is given as ``?``, a copyreg extension as ``copyreg:extension_<code>``.

    Args:
        data: a pickle of any protocol, from anyone.
        limits: where to give up.

    Raises:
        CheckpointDamagedError: `data` cannot be followed to its end, so the list would not be whole.
    """
    return followed(data, (), limits=limits)[2]


def _ran(data: bytes, seeds: Sequence[Node], buffers: Sequence[bytes], limits: Limits) -> tuple[Node, Machine]:
    machine = Machine(data, buffers, limits)
    machine.memo.update(enumerate(seeds))
    return machine.run(HANDLERS), machine
