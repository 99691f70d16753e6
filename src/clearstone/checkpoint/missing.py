"""What a checkpoint could not keep, and what stands in its place.

Idea: a lock, a client, a secret is replaced by a `Missing` that knows where it was, what it was and how to have it
back. Code that never touches it runs as before; code that does is told.

Invariant: looking at a `Missing` (`repr`, ``==``, `hash`, copying, pickling) never raises, using it always does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from clearstone.errors import MissingMemberError


@dataclass(frozen=True, slots=True)
class MissingMember:
    """A part of the state that was not saved. Named by pickles: keep its place.

    Args:
        path: where it was, from the agent: ``self.client`` or ``self.tools['search'].lock``.
        type_name: ``module.QualName`` of its class.
        text: a short repr, without secrets.
        reason: why it was not saved.
        variable: the environment variable that held the same secret when the state was taken; empty for none.
        own_methods: whether the state is `get_state`'s.
    """

    path: str
    type_name: str
    text: str
    reason: str
    variable: str = ""
    own_methods: bool = False

    @property
    def name(self) -> str:
        """Its path without ``self.``: what ``@checkpointable(rebuild={name: ...})`` calls it."""
        return self.path.removeprefix("self.")

    def __str__(self) -> str:
        return f"{self.path} ({self.type_name}) was not saved in the checkpoint: {self.reason}. {self._way_out()}"

    def _way_out(self) -> str:
        if self.own_methods:
            return "Leave it out in get_state() and rebuild it in load_state()."
        named = f"@checkpointable(rebuild={{{self.name!r}: ...}})" if _is_dotted(self.name) else ""
        by_variable = f"Set {self.variable} where it is restored, or bring" if self.variable else "Bring"
        return f"{by_variable} it back with {f'{named}, or in ' if named else ''}on_restore(self, missing)."


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


class Missing:
    """Stands where a part of the state could not be saved; any use of it raises `MissingMemberError`.

    Looking at it does not: `repr`, `str`, ``==``, `hash`, copying and pickling work. Named by pickles: keep its place.
    """

    __slots__ = ("__weakref__", "_member")

    def __init__(self, member: MissingMember) -> None:
        object.__setattr__(self, "_member", member)

    def __reduce__(self) -> tuple[type[Missing], tuple[MissingMember]]:
        return Missing, (object.__getattribute__(self, "_member"),)

    def __repr__(self) -> str:
        member: MissingMember = object.__getattribute__(self, "_member")
        return f"<missing {member.type_name} {member.path}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # what copy, pickle and inspect probe for
        self._touched()

    def _touched(self, *_: Any, **__: Any) -> NoReturn:
        raise MissingMemberError(str(object.__getattribute__(self, "_member")))

    __format__ = __call__ = __enter__ = __exit__ = __iter__ = __next__ = __len__ = __bool__ = __contains__ = _touched
    __getitem__ = __setitem__ = __delitem__ = __setattr__ = __delattr__ = __reversed__ = _touched
    __await__ = __aenter__ = __aexit__ = __aiter__ = __anext__ = _touched
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = __neg__ = __abs__ = _touched
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _touched
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __or__ = __ror__ = __and__ = __rand__ = _touched
