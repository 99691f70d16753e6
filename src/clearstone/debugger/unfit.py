"""Where a restored agent and its class of today do not fit: what the class lacks, and what the state lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clearstone.checkpoint.attributes import in_dict, in_slots, slots_of
from clearstone.codec.renames import how_to_say
from clearstone.nearest import nearest
from clearstone.span import module_name

if TYPE_CHECKING:
    from clearstone.checkpoint.model import Checkpoint


def no_such_method(agent: Any, name: str, checkpoint: Checkpoint) -> str:
    """Say that a method is not there today, and which one may be meant.

    Args:
        agent: the restored agent.
        name: what was asked for.
        checkpoint: what is replayed; where the method is that of its call, it was renamed or is gone.
    """
    cls = type(agent)
    names = [each for each in dir(cls) if not each.startswith("_") and callable(getattr(cls, each, None))]
    told = f"{name_of(cls)} has no method {name!r}; {nearest(name, names)}"
    recorded = checkpoint.call is not None and checkpoint.call.method == name
    return f"{told}. {_renamed(cls, name)}" if recorded else told


def no_place(agent: Any, name: str) -> str:
    """Say that an attribute of the state was not restored, as the class has no slot for it today."""
    cls = type(agent)
    return (
        f"{name_of(cls)} has no place for the recorded attribute {name!r} today (its __slots__ have "
        f"{', '.join(slots_of(cls)) or 'nothing'}): the agent is restored without it. {_renamed(cls, name)}"
    )


def lacking(error: BaseException, agent: Any, checkpoint: Checkpoint) -> list[str]:
    """Say so where code of today asked the agent for an attribute that the recorded state does not have.

    Args:
        error: what ended the replay.
        agent: the restored agent; None for a function.
        checkpoint: what is replayed; one that failed so is left as it is.
    """
    if not isinstance(error, AttributeError) or agent is None or error.obj is not agent or not error.name:
        return []
    then, cls = checkpoint.failure, type(agent)
    if then is not None and (then.type_name, then.message) == ("AttributeError", str(error)):
        return []
    held = [*(in_dict(agent) or {}), *in_slots(agent)]
    told = (
        f"{name_of(cls)} has no attribute {error.name!r} in the restored state; {nearest(error.name, held)}. If the "
        f"class sets it since, give it a default in the class's body; if it had another name, say so: "
        f"--map {_named(cls)}.OLD={_named(cls)}.{error.name}."
    )
    return [told]


def name_of(cls: type) -> str:
    """Return the dotted name of a class; a script's is ``__main__`` whatever it was imported as."""
    return _named(cls).replace(":", ".", 1)


def _named(cls: type) -> str:
    return f"{module_name(cls.__module__)}:{cls.__qualname__}"


def _renamed(cls: type, name: str) -> str:
    return how_to_say(f"{_named(cls)}.{name}", f"{_named(cls)}.NEW")
