"""What a call did to the object it is bound to, and which object that is.

Idea: a served call is not made again in a replay, so what it changed on `self` must be recorded beside what it
returned. At its start each attribute's identity, and its length where it is a container, are noted; at its end rebound
attributes, grown and shrunk containers are found by comparing them, and only what changed is serialised. The agent's
10,000 messages are looked at once (their list's length), never copied.

Invariant: `self` is never serialised. Where another call on the same object, neither above nor below this one, ran at
the same time, who changed what cannot be told: the effect says that it is ambiguous. What has changed since such a call
last ended is then taken for the doing of the one that ends, so that all of them together did what was done, once.

Refused: comparing values (the cost would follow the state's size); what changes deep inside an object of the same
identity and length, or in the middle of a large container, is therefore not seen, and `replay="run"` is the way for
such a call.
"""

from __future__ import annotations

import itertools
import os
import pickle
import threading
import weakref
from copy import copy
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING, Any

from clearstone.codec.arguments import encode_arguments, without_hidden
from clearstone.codec.exceptions import or_described
from clearstone.codec.payload import encode
from clearstone.record import layout
from clearstone.record.looks import CONTAINERS, compare, look
from clearstone.span import CODEC_MASK, STAND_IN
from clearstone.threads import task_of_now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.record.looks import Look
    from clearstone.record.recording import RecordedCall

MOST_OTHERS = 20

_numbers = itertools.count(1)
_lock = threading.RLock()
_objects: dict[int, _Object] = {}


class _Object:
    """An object that decorated methods are called on.

    One that takes no weak reference is known only while a call on it is active: its place in memory may be another's
    next, so it has no number.
    """

    def __init__(self, instance: Any) -> None:
        cls = type(instance)
        self.text = f"{cls.__module__}:{cls.__qualname__}"
        self.key = id(instance)
        self.active: dict[int, Watch] = {}
        self.streams: weakref.WeakSet[Watch] | None = None  # an object may keep its own unfinished streams
        try:
            self._weak: weakref.ref[Any] | None = weakref.ref(instance, self._forget)
            self._held = None
            self.text += f"#{next(_numbers)}"
        except TypeError:
            self._weak, self._held = None, instance
        self.part = layout.text_part(layout.INSTANCE, self.text)

    def _forget(self, _: object, known: dict[int, Any] = _objects) -> None:  # at shutdown the module's names are gone
        if known.get(self.key) is self:
            known.pop(self.key, None)

    def is_of(self, instance: Any) -> bool:
        return instance is (self._held if self._weak is None else self._weak())

    def enter(self, watch: Watch) -> None:
        if watch.call.chunks is None:
            self.active[id(watch)] = watch
        else:
            if self.streams is None:
                self.streams = weakref.WeakSet()
            self.streams.add(watch)

    def at_work(self) -> list[Watch]:
        return [*self.active.values(), *(self.streams or ())]

    def leave(self, watch: Watch) -> None:
        self.active.pop(id(watch), None)
        if self.streams is not None:
            self.streams.discard(watch)
        if self._weak is None and not self.at_work():
            _objects.pop(self.key, None)


class Watch:
    """What is compared at the end of one call."""

    before: dict[str, Look] | None = None
    given: tuple[int, bytes] | None = None
    arguments: tuple[Any, Any] | None = None
    instance = ""
    part = b""
    ambiguous = False
    was_taken_from = False
    """Whether a call beside it has ended, and was given what had changed by then."""

    bound: Any = None
    object: _Object | None = None
    steps: dict[int, dict[str, Any]] | None = None
    """Of a generator that has given an item: what it did before each item, and after the last."""

    copies: dict[int, tuple[Any, Any]] | None = None
    """Of its steps: containers by id, and what stands for each, so that two names of one are two names of one."""

    marks: dict[int, bytes] | None = None
    """Of its steps: what each was when it was taken, as a digest."""

    def __init__(self, call: RecordedCall) -> None:
        self.call = call

    @property
    def is_below_served(self) -> bool:
        """Whether a call above it is answered in a replay, which does not come to this one then."""
        span: Any = self.call.parent
        while span is not None:
            if getattr(getattr(span, "site", None), "replay", None) == "serve":
                return True
            span = getattr(span, "parent", None)
        return False


def begin(call: RecordedCall, instance: Any, args: Any, kwargs: Any) -> Watch:
    """Note what `call` may change.

    Args:
        call: it has its parent.
        instance: the object it is bound to; a class for a classmethod, None for a function.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    watch = Watch(call)
    if instance is not None:
        _note_instance(watch, call, instance)
    if call.site.record_effects:
        watch.arguments = without_hidden(args, call.use.hidden), kwargs
        watch.given = encode_arguments(*watch.arguments)
    return watch


def _note_instance(watch: Watch, call: RecordedCall, instance: Any) -> None:
    if isinstance(instance, type):
        watch.instance = f"{instance.__module__}:{instance.__qualname__}"
        watch.part = layout.text_part(layout.INSTANCE, watch.instance)
        return
    known = _objects.get(id(instance))
    if known is None or not known.is_of(instance):
        known = _new(instance)
    watch.object, watch.instance, watch.part = known, known.text, known.part
    if call.site.replay == "serve":
        watch.bound = instance
    _enter(watch, known)


def _enter(watch: Watch, known: _Object) -> None:
    known.enter(watch)  # first: of two calls that begin at one time the later one sees the other
    if known.streams or len(known.active) > 1:
        _meet(watch, watch.call, known)
    if watch.bound is not None:
        with _lock:
            watch.before = _share(watch, known) if watch.ambiguous else look(watch.bound)


def pause(watch: Watch, number: int) -> None:
    """A generator is about to give an item: what its consumer does then is none of its doing.

    Args:
        watch: the call's.
        number: how many items it has given before.
    """
    if watch.object is not None:
        _take_step(watch, watch.object, number)


def resume(watch: Watch) -> None:
    """It goes on."""
    if watch.object is not None:
        _enter(watch, watch.object)


def _take_step(watch: Watch, known: _Object, number: int) -> dict[int, dict[str, Any]]:
    """Find what a generator did since it went on. Containers are copied: what comes to them later is another's."""
    step: dict[str, Any] = {}
    _find(watch, known, step)
    watch.before = None
    if watch.steps is None or watch.copies is None or watch.marks is None:
        watch.steps, watch.copies, watch.marks = {}, {}, {}
    for kind in ("set", "contents"):
        for name, value in step.get(kind, {}).items():
            step[kind][name] = _copied(value, watch.copies, anew=kind == "contents")
    if step:
        watch.steps[number], watch.marks[number] = step, _mark(step)
    return watch.steps


def _copied(value: Any, copies: dict[int, tuple[Any, Any]], *, anew: bool) -> Any:
    if type(value) not in CONTAINERS:
        return value
    if anew or id(value) not in copies:
        copies[id(value)] = value, copy(value)  # the value too, so that its id stays its own
    return copies[id(value)][1]


def _mark(step: dict[str, Any]) -> bytes:
    """Return a digest of what a step holds, however deep; empty where nothing in it changes, or it does not pickle."""
    held = chain.from_iterable(_held(kind, values) for kind, values in step.items())
    if all(type(each) in _ATOMS for each in held):
        return b""
    try:
        return sha256(pickle.dumps(step, 5)).digest()
    except Exception:  # the user's code; what is recorded of it says so itself
        return b""


def _held(kind: str, values: Any) -> Iterator[Any]:
    """Give what a part of a step holds, one level deep (see `end`): what is copied cannot change, what is in it can."""
    for value in values.values() if kind in _PARTS else ():
        if type(value) in CONTAINERS:
            yield from value.values() if isinstance(value, dict) else value
        else:
            yield value


_PARTS = frozenset({"set", "extended", "added", "contents"})
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})


def _new(instance: Any) -> _Object:
    made = _Object(instance)
    with _lock:
        known = _objects.get(made.key)
        if known is None or not known.is_of(instance):
            known = _objects[made.key] = made
    return known


def _meet(watch: Watch, call: RecordedCall, known: _Object) -> None:
    """Find who else is at work on the object: calls above this one wait for it, any other may change what it does."""
    above = _above(call.parent)
    for other in known.at_work():
        if other is not watch and id(other.call) not in above:
            other.ambiguous = watch.ambiguous = True


def _share(watch: Watch, known: _Object) -> dict[str, Look]:
    """Return what a call that overlaps others is compared with: what they are, so that none of them is left out.

    Calls below a served one are told apart from this: a replay does not come to them.
    """
    if not watch.is_below_served:
        for other in known.at_work():
            if other is not watch and other.before is not None and not other.is_below_served:
                return other.before
    return look(watch.bound)


def _above(span: Any) -> set[int]:
    """Return the ids of `span` and the spans above it."""
    found = set()
    while span is not None:
        found.add(id(span))
        span = getattr(span, "parent", None)
    return found


def others_on(instance: Any, span: Any) -> tuple[str, ...]:
    """Return the names of the calls at work on an object that are neither `span` nor above it, a few at most."""
    known = _objects.get(id(instance))
    if known is None or not known.is_of(instance):
        return ()
    above = _above(span)
    found = (watch.call.name for watch in list(known.active.values()) if id(watch.call) not in above)
    return tuple(dict.fromkeys(itertools.islice(found, MOST_OTHERS)))


def end(watch: Watch) -> tuple[int, bytes] | None:
    """Return what the call changed, serialised; None where it changed nothing that is looked at.

    The value is a dict: ``set`` (rebound attributes), ``deleted`` (their names), ``extended`` (the new tail of a list
    or deque), ``added`` (the new items of a dict), ``contents`` (all of a container that shrank, or of a set),
    ``order``, a number that is higher the later the object was looked at, ``task`` (the thread, and 0 or the task),
    ``arguments`` (``(args, kwargs)`` after a call whose site has ``record_effects=True``), ``ambiguous``. Of a
    generator that has given items it has ``steps`` instead of the first: such dicts by how many were given before, and
    ``deeper``, the numbers of those in which something was changed afterwards.
    """
    found: dict[str, Any] = {}
    if watch.steps is not None and watch.object is not None:
        found = _of_steps(watch, _take_step(watch, watch.object, watch.call.chunk_count))
    elif watch.object is not None:
        _find(watch, watch.object, found)
    if watch.arguments is not None:
        now = encode_arguments(*watch.arguments)
        if now != watch.given:
            found["arguments"] = watch.arguments
    if not found and not watch.was_taken_from:
        return None
    return _encoded(watch, found)


def so_far(watch: Watch | None) -> tuple[int, bytes] | None:
    """Return what a generator that has not ended has done before its items (see `end`); None of any other call."""
    return _encoded(watch, _of_steps(watch, dict(watch.steps))) if watch is not None and watch.steps else None


def _of_steps(watch: Watch, steps: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Return what is kept of steps. What is deep in them is as it is now, whoever has changed it: that is said."""
    marks = watch.marks or {}
    deeper = [number for number, step in steps.items() if marks.get(number) and _mark(step) != marks[number]]
    return {**({"steps": steps} if steps else {}), **({"deeper": deeper} if deeper else {})}


def _encoded(watch: Watch, found: dict[str, Any]) -> tuple[int, bytes]:
    found["ambiguous"] = watch.ambiguous
    kin = watch.call.use.did
    whole = encode(found, kin)
    return whole if whole[0] & CODEC_MASK != STAND_IN else encode(or_described(found), kin)


def _find(watch: Watch, known: _Object, found: dict[str, Any]) -> None:
    """Compare the object with what it was, and leave it: of calls that overlap one after the other does."""
    if watch.before is None:
        known.leave(watch)
        return
    with _lock:
        after = look(watch.bound)
        compare(watch.before, after, found)
        known.leave(watch)
        if found:
            found["order"], found["task"] = next(_numbers), task_of_now()
            if watch.ambiguous and not watch.is_below_served:
                _pass_on(known, after)


def _pass_on(known: _Object, after: dict[str, Look]) -> None:
    """Let the calls that go on beside this one begin from here: what was found is this one's, and told once."""
    for other in known.at_work():
        if other.before is not None and not other.is_below_served:
            other.before, other.was_taken_from = after, True


def _new_lock_in_child() -> None:
    global _lock  # noqa: PLW0603 - one process, one lock: the parent's may be another thread's
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock_in_child)
