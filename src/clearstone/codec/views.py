"""How any unloaded object reads: its type, its name, its arguments and attributes.

Idea: most objects say it themselves (a class, arguments, attributes), and that is a `View`. What the class, function or
module behind a node is called also stands in the pickle, for cloudpickle's among the arguments.

Invariant: everything that would happen to the object is in its general view, familiar or not.

Refused: importing a class to ask it for its field names or its ``repr``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from clearstone.codec.nodes import Name, Node, Object

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True)
class View:
    """How an object reads: ``title(positional, name=named)``.

    Args:
        type_name: ``module:qualname`` of what it would be an instance of, as far as that can be told.
        title: the name to show. Empty: what `maker` reads as.
        maker: what would be called.
        positional: sequences of arguments, one after the other.
        named: dicts of attributes and keyword arguments, one after the other.
        whole: `title` says it all, there is nothing in brackets.
        call: whether `type_name` is what would be called, which need not be a type.
    """

    type_name: str
    title: str
    maker: Node = None
    positional: tuple[Sequence[Node], ...] = ()
    named: tuple[dict[Node, Node], ...] = ()
    whole: bool = False
    call: bool = False


def defined_name(node: Node) -> str:
    """Return ``module:qualname`` of the class, function or module that `node` stands for; empty if it is none."""
    if isinstance(node, Name):
        return node.key
    if isinstance(node, Object) and isinstance(node.maker, Name) and isinstance(node.args, tuple):
        namer = NAMERS.get(family(node.maker.key))
        return namer(node, node.args)[:LONG] if namer else ""
    return ""


def dotted(name: str) -> str:
    """Return ``module:qualname`` as a person writes it. Control characters are escaped."""
    module, _, qualname = name.partition(":")
    text = qualname if module in _BARE else f"{module}.{qualname}"
    return text if text.isprintable() else repr(text)[1:-1]


LONG = 1_000
"""Characters: a longer name is cut, a longer text is no familiar one."""
MANY = 20
"""States and later calls of one object that are shown. More than one is rare, and many are an attack."""
_BARE = frozenset({"__clearstone_main__", "__main__", "builtins", "collections", "decimal", "fractions", "uuid"})
_FAMILIES = ("cloudpickle", "numpy", "pathlib")


def family(name: str) -> str:
    """Return `name`, with a package in place of the module where modules were moved or are vendored."""
    module, _, qualname = name.partition(":")
    return next((f"{family}:{qualname}" for family in _FAMILIES if family in module.split(".")), name)


def extras(node: Object) -> frozenset[str]:
    """Name what happens to `node` beyond being made. Setters known to only fill it in do not count."""
    setters = [setter for setter in node.setters[:MANY] if family(defined_name(setter.maker)) not in _FILLING]
    setters += node.setters[MANY:]
    held = {"kwargs": node.kwargs, "items": node.items, "pairs": node.pairs, "states": node.states, "setters": setters}
    return frozenset(name for name, value in held.items() if value)


_FILLING = frozenset(
    {
        "cloudpickle:_function_setstate",
        "cloudpickle:_class_setstate",
        "clearstone.codec.payload:finish_definition",
        "clearstone.decorators:_fill_wrapper",
    }
)

# --- any object ------------------------------------------------------------------------------------------------------


def general(node: Object) -> View:
    """Return the view of an object of which only its parts are known."""
    name = defined_name(node.maker)
    title = dotted(name) if name and node.origin == "called" else dotted(f"builtins:{name.partition(':')[2]}")
    shown: tuple[Node, ...] = (node.maker,) if node.origin == "altered" else ()
    states = [_state(state, node) for state in node.states[:MANY]]
    named = [*_keywords(node.kwargs), *chain.from_iterable(attributes for _, attributes in states), *_later(node)]
    return View(
        type_name=name or "?",
        title="<altered>" if shown else title,
        maker=node.maker,
        positional=(shown, sequence(node.args), *(part for part, _ in states), *_contents(node)),
        named=tuple(named),
        call=node.origin == "called",
    )


def sequence(args: Node) -> Sequence[Node]:
    """Return arguments as a sequence; of a malformed call what stands in their place."""
    return args if isinstance(args, tuple) else (args,)


def _keywords(kwargs: Node) -> tuple[dict[Node, Node], ...]:
    if isinstance(kwargs, dict):
        return (kwargs,)
    return () if kwargs is None else ({"**": kwargs},)


def _later(node: Object) -> list[dict[Node, Node]]:
    """Return the later calls, and how much is not shown."""
    hidden = max(0, len(node.states) - MANY) + max(0, len(node.setters) - MANY)
    told: list[Node] = [f"{hidden} more states and calls"] if hidden else []
    return [{"then": call} for call in (*node.setters[:MANY], *told)]


def _contents(node: Object) -> list[Sequence[Node]]:
    return [(held,) for held in (node.items, node.pairs) if held]


def _state(state: Node, node: Object) -> tuple[Sequence[Node], list[dict[Node, Node]]]:
    """Return a state as arguments and as attributes."""
    match state:
        case {"__dict__": dict(fields), "__pydantic_fields_set__": set(), **parts} if _are_parts(parts):
            return (), [part for part in (fields, *parts.values()) if isinstance(part, dict)]
        case dict():
            return (), [state]
        case (dict() | None, dict() | None):
            return (), [part for part in state if part]
        case list() if node.origin == "created":  # a frozen dataclass with slots: its fields in order
            return state, []
    return (), [{"state": state}]


def _are_parts(parts: dict[Node, Node]) -> bool:
    """Say whether these are what pydantic keeps beside a model's fields."""
    return len(parts) <= len(("extra", "private")) and all(isinstance(part, dict | None) for part in parts.values())


# --- functions, classes and modules ----------------------------------------------------------------------------------


def _function_name(node: Object, args: tuple[Node, ...]) -> str:
    for setter in node.setters:
        match setter.args:
            case (_, (_, {"__qualname__": str(qualname), "__module__": str(module)})):
                return f"{module}:{qualname}"
    return f"?:{code_name(args[0])}" if args else ""


def code_name(code: Node) -> str:
    """Return the qualname in the arguments of a code object (Python 3.11 and later)."""
    match code:
        case Object(args=(*_, str(qualname), int(), bytes(), bytes(), tuple(), tuple())):
            return qualname
    return "?"


def _class_name(_: Object, args: tuple[Node, ...]) -> str:
    match args:
        case (_, str(name), _, {"__module__": str(module)}, *_):
            return f"{module}:{name}"
        case (_, str(name), *_):
            return f"?:{name}"
    return ""


def _enum_name(_: Object, args: tuple[Node, ...]) -> str:
    match args:
        case (_, _, str(qualname), _, str(module), *_):
            return f"{module}:{qualname}"
    return ""


def _definition_name(_: Object, args: tuple[Node, ...]) -> str:
    match args:
        case (_, str(qualname), *_):
            return f"__main__:{qualname}"
    return ""


def _looked_up_name(_: Object, args: tuple[Node, ...]) -> str:
    match args:
        case (str(module), str(qualname)):
            return f"{module}:{qualname}"
    return ""


def _decorated_name(_: Object, args: tuple[Node, ...]) -> str:
    match args:
        case (Object(Name("clearstone.span", "Site"), states=[[str(key), *_]]), *_):
            return key
    return ""


def _builtin_type_name(_: Object, args: tuple[Node, ...]) -> str:
    match args:
        case (str(name),):
            return f"types:{name}"
        case (None,):
            return "types:NoneType"
    return ""


def _module_name(_: Object, args: tuple[Node, ...]) -> str:
    match args:
        case (str(name), *_):
            return f"{name}:"
    return ""


def _attribute_name(_: Object, args: tuple[Node, ...]) -> str:
    match args:
        case (Name() as owner, str(attribute)):
            return f"{owner.key}.{attribute}"
    return ""


NAMERS: dict[str, Callable[[Object, tuple[Node, ...]], str]] = {
    "cloudpickle:_make_function": _function_name,
    "cloudpickle:_make_skeleton_class": _class_name,
    "cloudpickle:_make_skeleton_enum": _enum_name,
    "cloudpickle:_builtin_type": _builtin_type_name,
    "cloudpickle:subimport": _module_name,
    "cloudpickle:dynamic_subimport": _module_name,
    "clearstone.codec.payload:begin_definition": _definition_name,
    "clearstone.codec.payload:named": _looked_up_name,
    "clearstone.decorators:_empty_wrapper": _decorated_name,
    "builtins:type": _builtin_type_name,
    "builtins:getattr": _attribute_name,
}
