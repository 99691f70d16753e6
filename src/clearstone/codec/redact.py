"""Secrets leave a payload before it touches disk.

Idea: what is recorded is a pickle already, and redaction works on its bytes. A cheap scan says of almost every payload
that there is nothing suspicious in it; what was scanned before is remembered (`codec.scanned`). Where there is, the
pickle is written anew without its secrets (`codec.rewrite`), by exact rules (`codec.secrets`).

Invariant: the scan misses nothing that the exact rules find. Nothing of the user's is called, copied or loaded, but the
function he gave. The same bytes are always redacted to the same bytes, and what was redacted once stays as it is: a
replay redacts live arguments by the same rules before it compares them. No method raises for a payload's sake.

Refused: walking the value before it is pickled (a walk in Python costs more than the pickling, and runs user code).
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clearstone import notice
from clearstone.codec.labels import without_labelled
from clearstone.codec.scanned import Doubtful, Naming, Scanned
from clearstone.codec.secrets import LONGEST_NAME, MARKER, ON_THE_WAY, Names, has_clue, letters, redacted
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

__all__ = ["MARKER", "Redactor", "Rules", "active", "use"]

_SHORT_TEXT = 0x8C
"""The opcode of a text of up to 255 bytes, as every key has it that can name a secret."""

_NO_SECRET = 30
"""Bytes of the shortest pickle with bytes (it has no text) that end in a run; only a URL can be shorter."""

_LONG = 2048
"""Bytes from which to look for a like payload costs less than to scan."""

_MOST_REMEMBERED = 4096
_LONGEST_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Rules:
    """What is redacted beyond the built-in tables, and what is not.

    Attributes:
        keys: further words; a value under a key that holds one, whatever its capitals and separators, is a secret.
        keep: paths of keys whose values stay: ``"session_token"`` wherever it stands, ``"config.session_token"`` only
            right below ``config``.
        function: called with every text that is a value, after the patterns; returns what is recorded instead. It must
            give the same for the same text. If it raises, the text is replaced by the marker.

    Raises:
        ConfigurationError: one of `keys` or `keep` is no text with a letter in it, or `function` is not callable.
    """

    keys: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    function: Callable[[str], str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", _names("keys", self.keys))
        object.__setattr__(self, "keep", _names("keep", self.keep))
        if self.function is not None and not callable(self.function):
            raise ConfigurationError(
                f"the redaction function must be callable with a text, and {self.function!r} is not"
            )


def _names(field: str, given: Iterable[Any]) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if not isinstance(name, str) or not letters(name):
            raise ConfigurationError(f"{field} of redaction are names such as 'badge_number', and {name!r} is not one")
    return names


class Redactor:
    """Applies rules. One may be used by all threads.

    Args:
        rules: what to redact; None for nothing.
    """

    def __init__(self, rules: Rules | None) -> None:
        self.rules = rules
        self._function = rules.function if rules else None
        self.reads_every_text = self._function is not None
        self._names = Names(rules.keys if rules else ())
        self._keep = tuple("." + ".".join(map(letters, path.split("."))) for path in (rules.keep if rules else ()))
        self._scanned = Scanned()
        self._innocent: set[bytes] = set()
        self._matter: dict[str, bool] = {}
        self._results: dict[str, str] = {}
        self._told = False

    # --- payloads ----------------------------------------------------------------------------------------------------

    def payload(self, kin: Hashable, data: bytes) -> bytes | None:
        """Redact a pickle.

        Args:
            kin: what the payload is of, say a site's key and ``"arguments"``: it is compared with earlier ones of it.
            data: a pickle of protocol 4 or 5, as the C pickler writes it.

        Returns:
            The redacted pickle; of the marker alone if `data` is no such pickle and suspicious. None if there is
            nothing to redact.
        """
        if len(data) < _NO_SECRET and _SHORT_TEXT not in data and b"@" not in data:
            return None
        recent = self._scanned.clean.get(kin, ())
        if data in recent or not self.rules:
            return None
        return self._scan(kin, data, recent)

    def buffers(self, data: bytes, buffers: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the buffers that a pickle left out and `payload` still has a place for.

        Args:
            data: the pickle, of which `payload` returned a redacted one.
            buffers: in order.
        """
        from clearstone.codec.rewrite import secret_buffers

        try:
            secret = secret_buffers(data, self) if buffers else frozenset()
        except Exception:  # it was redacted whole, which was said then
            return ()
        return tuple(each for place, each in enumerate(buffers) if place not in secret)

    def knows(self, kin: Hashable, data: bytes) -> bool:
        """Tell whether `data` is remembered to have nothing to redact."""
        return data in self._scanned.clean.get(kin, ())

    def _scan(self, kin: Hashable, data: bytes, recent: tuple[bytes, ...]) -> bytes | None:
        if self.reads_every_text:
            return self._exactly(kin, data)
        like, start, grown = self._scanned.kindred(recent, data) if len(data) > _LONG else (None, 0, False)
        new = data[start:] if start else data
        if has_clue(new) or self._names_secret(new):
            return self._exactly(kin, data)
        seen = Doubtful(data) if type(like) is Doubtful else data
        self._scanned.keep_clean(kin, seen, like if grown else None)
        return None

    def _names_secret(self, data: bytes) -> bool:
        """Tell whether a short text in `data` names a secret. Places that only look like one do no harm."""
        innocent, find, last = self._innocent, data.find, len(data) - 1
        at = find(_SHORT_TEXT)
        while 0 <= at < last:
            at += 1
            size = data[at]
            if size <= LONGEST_NAME and (text := data[at : at + 1 + size]) not in innocent and self._is_secret(text):
                return True
            at = find(_SHORT_TEXT, at)
        return False

    def _is_secret(self, text: bytes) -> bool:
        try:
            name = text[1:].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # not where a text begins: an image has thousands of such places
            return False
        if self._names.is_secret(name):
            return True
        if len(self._innocent) >= _MOST_REMEMBERED:
            self._innocent = set()
        self._innocent.add(text)
        return False

    def _exactly(self, kin: Hashable, data: bytes) -> bytes | None:
        known = self._scanned.redacted.get(data)
        if known is not None:
            return known
        left = self._rewritten(data)
        if left is data:
            whole = Naming if self.reads_every_text or self._names_secret(data) else Doubtful
            self._scanned.keep_clean(kin, whole(data))
            return None
        self._scanned.keep_redacted(data, left)
        return left

    def _rewritten(self, data: bytes) -> bytes:
        from clearstone.codec.rewrite import rewrite

        try:
            return rewrite(data, self)
        except pickle.UnpicklingError:
            return pickle.dumps(MARKER, 5)
        except Exception as error:
            self._tell(f"a payload could not be searched for secrets and was redacted whole: {error!r}")
            return pickle.dumps(MARKER, 5)

    def described(self, data: bytes) -> bytes | None:
        """Redact the texts of a stand-in, as `shown` does.

        Args:
            data: a JSON object of texts.

        Returns:
            The redacted JSON; None if there is nothing to redact.
        """
        if not self.rules:
            return None
        told = json.loads(data)
        left = {name: self.shown(text) for name, text in told.items()}
        return None if left == told else json.dumps(left).encode()

    # --- single values -----------------------------------------------------------------------------------------------

    def text(self, text: str) -> str:
        """Redact a text by what looks like a secret in it: a message, a traceback, a status."""
        if not self.rules:
            return text
        if not self.reads_every_text and not has_clue(text.encode("utf-8", "surrogatepass")):
            return text
        return self.value(text)

    def shown(self, text: str) -> str:
        """Redact a repr: as `text` does, and what follows a secret's name in it (see `clearstone.codec.labels`)."""
        return without_labelled(self.text(text), self.is_secret_key) if self.rules else text

    def attribute(self, key: str, value: Any) -> Any:
        """Redact a span's attribute.

        Args:
            key: its name; the parts of a dotted name are a path.
            value: plain: None, a text, bytes, a number, or a list, tuple or dict of such. Others stay.

        Returns:
            The value without secrets; the same object where there are none in it.
        """
        return self._plain(value, key.split("."), secret=False) if self.rules else value

    def _plain(self, value: Any, path: list[str], *, secret: bool) -> Any:
        if self.is_kept(path):
            return value
        secret = secret or self.is_secret(path) or self.is_secret((".".join(path),))
        return self._plain_value(value, path, secret=secret)

    def _plain_value(self, value: Any, path: list[str], *, secret: bool) -> Any:
        if isinstance(value, dict):
            left: Any = {key: self._plain(each, [*path, str(key)], secret=secret) for key, each in value.items()}
            return left if left != value else value
        if isinstance(value, list | tuple):
            items = [self._plain_value(each, path, secret=secret) for each in value]
            left = tuple(items) if isinstance(value, tuple) else items
            return left if left != value else value
        if secret:
            is_leaf = isinstance(value, str | bytes | int | float) and not isinstance(value, bool)
            return MARKER if is_leaf and value not in {"", b""} else value
        return self.text(value) if isinstance(value, str) else value

    def is_secret_key(self, name: str) -> bool:
        """Tell whether what is called `name` is a secret, wherever it stands."""
        return bool(self.rules) and self._names.is_secret(name) and not self.is_kept((name,))

    def secret_positions(self, parameters: Sequence[str]) -> tuple[int, ...]:
        """Return which arguments are secrets by the names of their parameters, which no pickle holds.

        Args:
            parameters: the names of what is passed by position, in order; ``"user|password"`` where it may be either.
        """
        return tuple(place for place, name in enumerate(parameters) if any(map(self.is_secret_key, name.split("|"))))

    # --- what the rewriter asks --------------------------------------------------------------------------------------

    def matters(self, key: str) -> bool:
        """Tell whether `key` can make a value secret or exempt, or be on the way to one that does."""
        known = self._matter.get(key)
        if known is None:
            if len(self._matter) >= _MOST_REMEMBERED:
                self._matter = {}
            known = bool(self._keep) or self._names.is_secret(key) or letters(key) in ON_THE_WAY
            self._matter[key] = known
        return known

    def is_secret(self, path: Sequence[str]) -> bool:
        """Tell whether the value under the last key of `path` is a secret."""
        return self._names.is_secret(path[-1], path[:-1]) if path else False

    def is_kept(self, path: Sequence[str]) -> bool:
        """Tell whether the value under the last key of `path` is exempt."""
        return bool(self._keep) and ("." + ".".join(map(letters, path))).endswith(self._keep)

    def value(self, text: str) -> str:
        """Return a text without the secrets in it, and as the user's function wants it."""
        if self._function is None:
            return redacted(text)
        known = self._results.get(text)
        if known is None:
            known = self._applied(redacted(text))
            if len(self._results) >= _MOST_REMEMBERED:
                self._results = {}
            if len(text) <= _LONGEST_REMEMBERED:
                self._results[text] = known
        return known

    def _applied(self, text: str) -> str:
        try:
            left = self._function(text) if self._function else text
            if isinstance(left, str):
                return left
            self._tell(f"the redaction function returned {type(left).__qualname__}, not a text; {MARKER} is recorded")
        except Exception as error:
            self._tell(f"the redaction function raised {type(error).__qualname__}; {MARKER} is recorded instead")
        return MARKER

    def _tell(self, sentence: str) -> None:
        if not self._told:
            self._told = True
            notice.say(sentence)


_active = Redactor(Rules())


def active() -> Redactor:
    """Return the process's redactor."""
    return _active


def use(rules: Rules | None) -> None:
    """Make `rules` the process's; None to redact nothing."""
    global _active  # noqa: PLW0603 - one per process, replaced as a whole
    _active = Redactor(rules)
