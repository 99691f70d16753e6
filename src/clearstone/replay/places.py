"""Places in a value, written as code writes them: ``self.config["model"]``, ``choices[0].text``.

Idea: what-if questions change one place of a state or of a response. The place is parsed as Python, and only names,
attributes and constant subscripts are taken; nothing of it is evaluated.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from clearstone.codec.payload import safe_repr
from clearstone.codec.redact import MARKER, active
from clearstone.errors import ConfigurationError
from clearstone.nearest import nearest
from clearstone.replay.changes import shaped

NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a value.

    Args:
        text: as it was written.
        root: the name it begins with.
        steps: attribute names (``is_item`` False) and keys, from the outside in.
    """

    text: str
    root: str
    steps: tuple[tuple[bool, Any], ...]

    @property
    def attribute(self) -> str:
        """The attribute of the first holder that is changed, or changed in."""
        return str(self.steps[0][1])

    def put(self, holder: Any, value: Any) -> str:
        """Put a value there.

        Args:
            holder: what the place begins at.
            value: what is put there (see `clearstone.replay.changes.shaped`).

        Returns:
            What was there and what is now, in one line.

        Raises:
            ConfigurationError: there is no such place.
        """
        for number, (is_item, name) in enumerate(self.steps[:-1]):
            holder = self._read(holder, number, is_item, name)
        is_item, name = self.steps[-1]
        before = self._before(holder, is_item, name)
        value = shaped(None if before is NOTHING else before, value)
        try:
            if is_item:
                holder[name] = value
            else:
                setattr(holder, name, value)
        except Exception as error:  # a frozen object, a property, a tuple
            raise ConfigurationError(
                f"{self.text} cannot be set: {type(error).__name__}: {error}. In Python, a function may stand in the "
                f"place of a value, and change it in any way"
            ) from None
        return f"{self.text}: {'not there' if before is NOTHING else self._shown(before)} -> {self._shown(value)}"

    def _shown(self, value: Any) -> str:
        """Return a value as it may be told and recorded: not where a name in the place is a secret's."""
        names = (name for _, name in self.steps if isinstance(name, str))
        return MARKER if any(map(active().is_secret_key, names)) else safe_repr(value)

    def _read(self, holder: Any, number: int, is_item: bool, name: Any) -> Any:
        try:
            return holder[name] if is_item else getattr(holder, name)
        except Exception as error:
            raise self._missing(holder, self._up_to(number), is_item, name, error) from None

    def _before(self, holder: Any, is_item: bool, name: Any) -> Any:
        """Return what is there. A dict may get a new key; an attribute that nothing has is a slip of the pen."""
        try:
            return holder[name] if is_item else getattr(holder, name)
        except Exception as error:
            if is_item and isinstance(holder, dict):
                return NOTHING
            raise self._missing(holder, self._up_to(len(self.steps) - 1), is_item, name, error) from None

    def _missing(self, holder: Any, where: str, is_item: bool, name: Any, error: Exception) -> ConfigurationError:
        if is_item:
            keys = f"; {nearest(str(name), map(str, holder))}" if isinstance(holder, dict) else ""
            return ConfigurationError(f"{where} has no item {name!r} ({type(error).__name__}: {error}){keys}")
        names = [each for each in dir(holder) if not each.startswith("__")]
        return ConfigurationError(f"{where} has no attribute {name!r}; {nearest(name, names)}")

    def _up_to(self, number: int) -> str:
        steps = (f"[{name!r}]" if is_item else f".{name}" for is_item, name in self.steps[:number])
        return self.root + "".join(steps)


def parse(text: str) -> Place:
    """Return a written place.

    Args:
        text: a name, followed by attributes and constant subscripts.

    Raises:
        ConfigurationError: it is something else.
    """
    try:
        node: Any = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise ConfigurationError(f"{text!r} is no place in a value: {error.msg}. {_HOW}") from None
    steps: list[tuple[bool, Any]] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            steps.append((False, node.attr))
        elif isinstance(node, ast.Subscript):
            steps.append((True, _constant(text, node.slice)))
        else:
            raise ConfigurationError(f"{text!r} is no place in a value. {_HOW}")
        node = node.value
    return Place(text.strip(), node.id, tuple(reversed(steps)))


def _constant(text: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ConfigurationError(f"{text!r}: {ast.unparse(node)} is no constant; quote a key that is text") from None


_HOW = """Write it as code does: self.limit, self.config["model"], self.steps[0].prompt"""
