"""Where code is today that had another name when it was recorded: modules, classes, functions, methods, attributes.

Idea: a rule says that what was called ``app.agents`` (a module) or ``app.agents:Old`` (something in one) is called
otherwise now, and everything below it with it. `Renames` are the rules, `Finder` finds by them. What loads recorded
values asks the finder of its context.

Invariant: the most particular rule holds, once: what it gives is not looked up again. Without rules nothing differs.

Refused: guessing (a class of the same name elsewhere is another class until the user says so); aliases in
``sys.modules`` (the whole process would see them, and a class by two names is pickled by the wrong one).
"""

from __future__ import annotations

import functools
import pickle
import sys
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from clearstone.errors import CheckpointDamagedError, ConfigurationError
from clearstone.nearest import nearest
from clearstone.span import module_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import ModuleType

HOW = "OLD.MODULE=NEW.MODULE, or OLD.MODULE:NAME=NEW.MODULE:NAME"


class Rule(NamedTuple):
    """What something was called, and what it is called today: ``module`` or ``module:qualname``, both alike."""

    old: str
    new: str

    @property
    def written(self) -> str:
        """As it stands on a command line."""
        return f"{self.old}={self.new}"


@dataclass(frozen=True, slots=True)
class Renames:
    """Rules.

    Args:
        rules: the more particular first.
    """

    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, renamed: Mapping[str, str]) -> Renames:
        """Return the rules of what a user gives, old name to new name.

        Raises:
            ConfigurationError: one cannot be meant.
        """
        if not hasattr(renamed, "items"):
            raise ConfigurationError(f"renamed={renamed!r} is no dict; write it as {{'old.module': 'new.module'}}")
        rules = [Rule(str(old).strip(), str(new).strip()) for old, new in renamed.items()]
        for rule in rules:
            _require_names(rule)
        return cls(tuple(sorted(rules, key=lambda rule: (":" not in rule.old, -len(rule.old)))))

    def rule_of(self, key: str) -> Rule | None:
        """Return the rule for ``module:qualname``, or for a module."""
        return next((rule for rule in self.rules if _is_below(key, rule.old)), None)

    def key(self, key: str) -> str:
        """Return what ``module:qualname``, or a module, is called today."""
        rule = self.rule_of(key)
        return rule.new + key[len(rule.old) :] if rule is not None else key

    def dotted(self, path: str) -> str:
        """Return what a dotted path names today."""
        for rule in self.rules:
            old, new = (each.replace(":", ".", 1) for each in rule)
            if path == old or path.startswith(f"{old}."):
                return new + path[len(old) :]
        return path


def _require_names(rule: Rule) -> None:
    if not all(all(part.isidentifier() for part in _parts(each)) for each in rule):
        raise ConfigurationError(f"{rule.written!r} says of nothing where it is now; write it as {HOW}")
    if (":" in rule.old) != (":" in rule.new):
        raise ConfigurationError(
            f"{rule.written!r} names a module on one side and something in one on the other; write it as {HOW}"
        )


def _parts(name: str) -> list[str]:
    module, colon, qualname = name.partition(":")
    return [*module.split("."), *(qualname.split(".") if colon else ())]


def _is_below(key: str, old: str) -> bool:
    return key == old or (key.startswith(old) and key[len(old)] in ".:" and (":" not in old or key[len(old)] == "."))


class Finder:
    """Finds recorded names in today's modules.

    Args:
        renames: the rules.
        module: imports a module by name.
    """

    def __init__(self, renames: Renames, module: Callable[[str], ModuleType]) -> None:
        self.renames = renames
        self._module = module
        self._used: set[Rule] = set()

    def name(self, module: str, qualname: str) -> tuple[str, str]:
        """Return the module and the qualified name of something today."""
        key = f"{module_name(module)}:{qualname}"
        rule = self.renames.rule_of(key)
        if rule is None:
            return module, qualname
        self._used.add(rule)
        module, _, qualname = (rule.new + key[len(rule.old) :]).partition(":")
        return module, qualname

    def find(self, module: str, qualname: str) -> Any:
        """Return something that was renamed; `NotImplemented` for what was not.

        Raises:
            ImportError, AttributeError: it is not there either.
        """
        if (module, qualname) == ("cloudpickle.cloudpickle", "subimport"):
            return self._subimport
        found = self.name(module, qualname)
        return _member(self._module(found[0]), found[1]) if found != (module, qualname) else NotImplemented

    def _subimport(self, module: str) -> ModuleType:
        return self._module(self.renames.key(module))

    def attribute(self, obj: Any, name: str) -> str:
        """Return what an object's attribute is called in its class of today."""
        owners = {f"{module_name(cls.__module__)}:{cls.__qualname__}" for cls in type(obj).__mro__}
        for rule in self.renames.rules:
            if rule.old.rpartition(".")[2] == name and rule.new.rpartition(".")[0] in owners:
                self._used.add(rule)
                return rule.new.rpartition(".")[2]
        return name

    def used(self, *keys: str) -> None:
        """Take note that a record has these names."""
        self._used.update(rule for key in keys if (rule := self.renames.rule_of(key)) is not None)

    def notes(self) -> list[str]:
        """Return a sentence for each rule that nothing was found by."""
        unused = (rule for rule in self.renames.rules if rule not in self._used)
        return [
            f"Nothing that was looked for is called {rule.old!r}: {rule.written} made no difference." for rule in unused
        ]


def names_of(owner: Any) -> list[str]:
    """Return the public names in a module or class."""
    return [each for each in dir(owner) if not each.startswith("_")]


def _member(owner: Any, qualname: str) -> Any:
    return functools.reduce(getattr, qualname.split("."), owner)


# --- loading ---------------------------------------------------------------------------------------------------------

current: ContextVar[Finder | None] = ContextVar("clearstone_finder", default=None)


class Unpickler(pickle.Unpickler):
    """Loads what is named in a pickle from where it is today."""

    def find_class(self, module: str, qualname: str, /) -> Any:
        """Return what is named."""
        finder = current.get()
        found = finder.find(module, qualname) if finder is not None else NotImplemented
        return super().find_class(module, qualname) if found is NotImplemented else found


def todays(module: str, qualname: str) -> tuple[str, str]:
    """Return the module and the qualified name of something today, by the finder of this context."""
    finder = current.get()
    return finder.name(module, qualname) if finder is not None else (module, qualname)


def todays_dotted(path: str) -> str:
    """Return what a dotted path names today."""
    finder = current.get()
    return finder.renames.dotted(path) if finder is not None else path


def todays_attribute(obj: Any, name: str) -> str:
    """Return what an object's attribute is called today."""
    finder = current.get()
    return finder.attribute(obj, name) if finder is not None else name


# --- what is not there -----------------------------------------------------------------------------------------------


def lost(error: BaseException, names: Callable[[], Iterable[str]]) -> str:
    """Say what is not there today that a recorded value needs, and what to do, where that is why it does not load.

    Args:
        error: what was raised.
        names: gives the names in the pickle, ``module:qualname``.

    Returns:
        A sentence; empty where the error is another one.
    """
    taker = _setstate_in(error)
    if taker:
        return f"{taker}.__setstate__() does not take what was recorded: let it do without what is new since."
    if not isinstance(error, ModuleNotFoundError | AttributeError):
        return ""
    try:
        listed = list(names())
    except CheckpointDamagedError:  # they cannot be listed
        return ""
    if isinstance(error, ModuleNotFoundError):
        return next(_lost_module(error.name, listed), "")
    told = next(filter(None, map(_lost_member, listed)), "")
    return told or "Give the class its attribute back, or a __setstate__() that does without it."


def _setstate_in(error: BaseException) -> str:
    """Return the name of the class whose ``__setstate__`` raised; empty where none did."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "__setstate__"]
    if not frames:
        return ""
    owner = type(frames[-1].f_locals.get(frames[-1].f_code.co_varnames[0]))
    return f"{owner.__module__}.{owner.__qualname__}"


def _lost_module(gone: str | None, names: Iterable[str]) -> Iterator[str]:
    for each in names:
        if f"{each.partition(':')[0]}.".startswith(f"{gone}."):
            yield f"It names {each}, and there is no module {gone!r} here. {how_to_say(str(gone))}"


def _lost_member(name: str) -> str:
    """Say that a name is not in its module, where that is loaded: the loader has been there."""
    module, _, qualname = name.partition(":")
    owner: Any = sys.modules.get(module)
    for part in qualname.split(".") if owner is not None else ():
        if not hasattr(owner, part):
            return (
                f"It names {name}, and there is no {part!r} today; {nearest(part, names_of(owner))}. {how_to_say(name)}"
            )
        owner = getattr(owner, part)
    return ""


def how_to_say(old: str, new: str = "") -> str:
    """Say how to name the place where something is today."""
    new = new or ("NEW.MODULE:NAME" if ":" in old else "NEW.MODULE")
    said = f"say where it is: --map {old}={new} (renamed={{{old!r}: {new!r}}})"
    return f"If it was moved or renamed, {said}; if it is gone, restore the class."
