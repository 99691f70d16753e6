"""What a secret looks like: by the name of what holds it, and by its own text.

Idea: two tables. A name is secret if its letters hold one of `WORDS` (``api_key``, ``apiKey``, ``X-API-Key`` are one
name), after the phrases in which that word means something else (``max_tokens``, ``tokenizer``) are cut out. A text is
searched for `PATTERNS`: each has an exact expression, and a *clue*, a cheap expression around one rare character that
matches wherever the exact one does.

Invariant: whether a match begins at some place depends on at most `FARTHEST` bytes after it and one before it, and a
clue is decided within `NEAREST` bytes. A text that grew is thus judged anew by its end alone.

Refused: entropy (it hits hashes, ids and images, and misses pass phrases); one big alternation for all patterns (17 to
30 us for 6 KB of prose against 2 us for an expression that begins with one literal character, and 0.1 us to learn that
the character does not occur).
"""

from __future__ import annotations

import re
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MARKER = "[redacted]"
"""Stands for a whole value."""

# --- by name ---------------------------------------------------------------------------------------------------------

LONGEST_NAME = 127
"""Bytes of UTF-8. What is longer is a text, not the name of something."""

WORDS = (
    "password", "passwd", "passphrase", "passcode", "pwd",
    "apikey", "accesskey", "privatekey", "signingkey", "encryptionkey", "sessionkey",
    "accesstoken", "refreshtoken", "authtoken", "apitoken", "bearertoken",
    "authorization", "authheader", "credential", "sessionid", "clientsecret",
)  # fmt: skip
"""Secret wherever they stand in a name, its separators and capitals aside."""

AMBIGUOUS_WORDS = ("token", "secret", "cookie")
"""Secret, unless they stand in one of the `INNOCENT` phrases."""

WHOLE_NAMES = frozenset({"auth", "jwt", "otp"})
"""Too short to be looked for inside names (``author``)."""

_COUNTED = (
    "max", "min", "num", "n", "prompt", "completion", "total", "input", "output", "cached", "cache", "reasoning",
    "logit", "eos", "bos", "pad", "unk", "sep", "cls", "mask", "special", "added", "stop", "start", "first", "last",
    "per", "image", "audio", "video", "text", "page", "next", "continuation", "sync", "cursor", "accepted", "rejected",
)  # fmt: skip
_DESCRIBED = (
    "counts?", "counter", "ids?", "type", "usage", "limit", "budget", "length", "lens?", "index", "indices",
    "positions?", "probs?", "logprobs?", "probabilit(?:y|ies)", "rate", "stream", "offsets?", "spans?", "embeddings?",
    "classification", "details?", "cost", "price",
)  # fmt: skip

INNOCENT = (
    rf"(?<![a-z0-9])(?:{'|'.join(_COUNTED)})_?tokens?(?![a-z])"  # max_tokens, eos_token, next_page_token
    rf"|(?<![a-z0-9])token_?(?:{'|'.join(_DESCRIBED)})(?![a-z])"  # token_count, token_ids
    r"|(?<![a-z0-9])tokens(?![a-z])|tokeni[sz]|secretar|cookie_?(?:cutter|policy|consent|banner)"
)
"""Phrases cut out of a name (in small letters, its words joined by ``_``) before the ambiguous words are looked for."""

TOKENS_ARE_TEXT = frozenset({"usage", "tokenusage", "usagemetadata", "logprobs", "toplogprobs"})
"""Below these names ``token`` is a piece of text or a count of them: ``logprobs.content.token``."""

OF_CLASSES = frozenset({"__annotations__", "__dataclass_fields__"})
"""Below these names of a class's attributes, keys are the names of fields, and what is under them describes those."""

_SEPARATORS = re.compile(r"[-_. :/]+|(?<=[a-z0-9])(?=[A-Z])")


class Names:
    """Tells the names of secrets.

    Args:
        words: further words; secret wherever they stand in a name.
    """

    def __init__(self, words: Iterable[str] = ()) -> None:
        self._words = (*WORDS, *filter(None, map(letters, words)))

    def is_secret(self, name: str, above: Sequence[str] = ()) -> bool:
        """Tell whether what is called `name` is a secret, when it lies below the names `above`."""
        if len(name.encode(errors="surrogatepass")) > LONGEST_NAME:
            return False
        words = _SEPARATORS.sub("_", name).lower()
        bare = words.replace("_", "")
        if not OF_CLASSES.isdisjoint(above):
            return False
        if bare in WHOLE_NAMES or any(word in bare for word in self._words):
            return True
        if not any(word in bare for word in AMBIGUOUS_WORDS):
            return False
        left = _innocent().sub("|", words).replace("_", "")
        return any(word in left for word in AMBIGUOUS_WORDS) and not _is_text(left, above)


@cache
def _innocent() -> re.Pattern[str]:
    """Compiled when the first ambiguous name is met."""
    return re.compile(INNOCENT)


def _is_text(name: str, above: Sequence[str]) -> bool:
    return "secret" not in name and "cookie" not in name and any(letters(each) in TOKENS_ARE_TEXT for each in above)


def letters(name: str) -> str:
    """Return a name in small letters without separators."""
    return _SEPARATORS.sub("", name).lower()


ON_THE_WAY = TOKENS_ARE_TEXT | set(map(letters, OF_CLASSES))
"""Names, in letters, that change what the ones below them mean."""

# --- by text ---------------------------------------------------------------------------------------------------------

FARTHEST = 4096
NEAREST = 400

RUN = 15
"""Letters, digits and ``_-./+=~`` on end: a token is no shorter, and a word of prose is seldom so long."""

_RUN = b"x" * RUN
_SHAPE = bytes(ord("x" if re.match(r"[A-Za-z0-9_./+=~-]", chr(byte)) else " ") for byte in range(256))
_BEFORE_RUN = 24  # "Bearer", and eight spaces
_MOST_RUNS = 8  # then to join them costs more than to search everything


class Pattern(NamedTuple):
    """One kind of secret text.

    Attributes:
        name: what stands in its place, as ``[redacted: name]``.
        anchor: a character that occurs in each match.
        clue: what stands around the anchor, as an expression that follows it (and may look behind).
        exact: the whole; its group 1 is kept.
        gate: what is rarer than the anchor and in each match too, where there is such.
        run: whether each match holds a run, which is what is looked for first, and the anchor is in it or a few
            characters before.
    """

    name: str
    anchor: str
    clue: str
    exact: str
    gate: str = ""
    run: bool = True


_FREE = r"(?<![A-Za-z0-9_-])()"  # not in the middle of a word, nor of base64 for URLs
_FREE_OF_BASE64 = r"(?<![A-Za-z0-9_+/-])()"
_END = r"(?![A-Za-z0-9_+/-])"
_CREDENTIAL = r"(?=[A-Za-z._~+/-]{0,64}[0-9]|[A-Za-z0-9._~+/-]{32})[A-Za-z0-9._~+/-]{16,}=*"
_USER, _PASSWORD = r"[!$-&(-.0-9;=A-\[\]-~]", r"[!$-&(-.0-;=@-\[\]-~]"  # no quotes, spaces, <>, and / ? # end it
_AWS_VALUE = r"""(?:["']|\\")?[\s:=]{1,8}(?:["']|\\")?"""


def _prefixed(name: str, anchor: str, prefix: str, tail: str = r"[A-Za-z0-9]", shortest: int = 16) -> Pattern:
    return Pattern(name, anchor, f"(?<={prefix})", rf"{_FREE}{prefix}{tail}{{{shortest},}}")


PATTERNS = (
    Pattern(
        "private key", "-", r"----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY",
        r"()-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?s:.)*?"
        r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)", gate="-----BEGIN", run=False,
    ),
    Pattern(
        "url password", ":", rf"(?=//{_USER}{{0,64}}:{_PASSWORD}{{1,256}}@)",
        rf"(://{_USER}{{0,64}}:){_PASSWORD}{{1,256}}(?=@)", gate="@", run=False,
    ),
    Pattern(
        "jwt", "J", r"(?<=eyJ)[A-Za-z0-9_-]{8}",
        rf"{_FREE}eyJ[A-Za-z0-9_-]{{8,2000}}\.(?:eyJ|[A-Za-z0-9_-]{{0,1000}}\.[A-Za-z0-9_-]{{8}})"
        r"[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*",
    ),
    Pattern(
        "api key", "-", r"(?<=sk-)[A-Za-z0-9_-]{16}",  # OpenAI, Anthropic, OpenRouter, DeepSeek: a long run of letters
        rf"{_FREE}sk-(?=[A-Za-z0-9_-]{{0,64}}?(?:(?=[A-Za-z]{{0,15}}[0-9])[A-Za-z0-9]{{16}}|[A-Za-z0-9]{{20}}))"
        r"[A-Za-z0-9_-]{16,}",
    ),
    _prefixed("slack token", "-", "xox[abceprs]-", "[A-Za-z0-9-]", 10),
    _prefixed("slack token", "-", "xapp-", "[A-Za-z0-9-]", 10),
    _prefixed("gitlab token", "-", "glpat-", "[A-Za-z0-9_-]", 20),
    _prefixed("api key", "-", "xai-", shortest=32),
    _prefixed("api key", "-", "pplx-", shortest=32),
    _prefixed("github token", "_", "gh[pousr]_", shortest=20),
    _prefixed("github token", "_", "github_pat_", "[A-Za-z0-9_]", 20),
    _prefixed("stripe key", "_", "[rs]k_live_"),
    _prefixed("stripe key", "_", "[rs]k_test_"),
    _prefixed("api key", "_", "gsk_", shortest=32),  # Groq
    _prefixed("hugging face token", "_", "hf_", shortest=30),
    Pattern(
        "aws secret key", "_", r"(?i:access_key)",
        rf"((?i:secret_access_key){_AWS_VALUE})[A-Za-z0-9/+]{{40}}(?![A-Za-z0-9/+=])",
    ),
    Pattern(
        "aws secret key", "K", r"(?<=AccessK)ey",
        rf"([Ss]ecretAccessKey{_AWS_VALUE})[A-Za-z0-9/+]{{40}}(?![A-Za-z0-9/+=])",
    ),
    Pattern("aws access key id", "I", r"(?<=A[KS]I)A[A-Z0-9]{16}", rf"{_FREE_OF_BASE64}A[KS]IA[A-Z0-9]{{16}}{_END}"),
    Pattern("google key", "I", r"(?<=AI)za[A-Za-z0-9_-]{10}", rf"{_FREE_OF_BASE64}AIza[A-Za-z0-9_-]{{30,}}"),
    Pattern("google token", "9", r"(?<=ya29)\.[A-Za-z0-9_-]{10}", rf"{_FREE_OF_BASE64}ya29\.[A-Za-z0-9_-]{{10,}}"),
    Pattern("bearer token", "B", r"(?:earer|EARER)\s", rf"\b(B(?:earer|EARER)\s{{1,8}}){_CREDENTIAL}"),
    Pattern("bearer token", "b", r"earer\s", rf"\b(bearer\s{{1,8}}){_CREDENTIAL}"),
    Pattern(
        "basic credentials", "B", r"asic\s{1,8}[A-Za-z0-9+/]{8}",
        r"\b(Basic\s{1,8})(?=[A-Za-z+/]{0,64}[0-9=])(?=[A-Za-z0-9+/=]{16})[A-Za-z0-9+/]{14,}={0,2}(?![A-Za-z0-9+/_-])",
    ),
)  # fmt: skip
"""In the order in which they are applied."""

Clue = tuple[bytes, "Callable[[bytes], re.Match[bytes] | None]"]


def _clues(patterns: Sequence[Pattern], after: str = "") -> Iterator[Clue]:
    """One gate and one expression an anchor: they begin with one literal character, which `re` finds fast."""

    def anchor(pattern: Pattern) -> tuple[str, str]:
        return pattern.gate or pattern.anchor, pattern.anchor

    for (gate, char), group in groupby(sorted(patterns, key=anchor), anchor):
        either = "|".join(pattern.clue for pattern in group)
        yield gate.encode(), re.compile(f"{char}{after if char in '-_' else ''}(?:{either})".encode()).search


_TEN_MORE = "(?=[A-Za-z0-9_-]{10})"  # so many follow the ``-`` or ``_`` of each: most others are refuted fast


@cache
def clues() -> tuple[tuple[Clue, ...], tuple[Clue, ...]]:
    """What is looked for in all of a payload, and what in its runs. Compiled when it is first needed."""
    anywhere = _clues([each for each in PATTERNS if not each.run])
    return tuple(anywhere), tuple(_clues([each for each in PATTERNS if each.run], _TEN_MORE))


def has_clue(data: bytes) -> bool:
    """Tell whether `data` may hold a secret text; False is certain."""
    anywhere, in_runs = clues()
    for gate, search in anywhere:
        if gate in data and search(data):
            return True
    runs = _runs(data)
    return any(gate in runs and search(runs) for gate, search in in_runs) if runs else False


def _runs(data: bytes) -> bytes:
    """Return the runs in `data`, each with what is before it; all of `data` where there are many."""
    shape = data.translate(_SHAPE)
    at = shape.find(_RUN)
    found: list[bytes] = []
    while at >= 0:
        end = shape.find(b" ", at + RUN)
        end = len(data) if end < 0 else end
        if len(found) == _MOST_RUNS:
            return data
        found.append(data[max(0, at - _BEFORE_RUN) : end])
        at = shape.find(_RUN, end)
    return b"\n".join(found)


@cache
def _exact() -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """Compiled when the first clue is found: most programs never need them."""
    return tuple(
        (each.gate or each.anchor, re.compile(each.exact, re.ASCII), rf"\g<1>[redacted: {each.name}]")
        for each in PATTERNS
    )


def redacted(text: str) -> str:
    """Return `text` with each secret in it replaced by ``[redacted: <its kind>]``."""
    for gate, pattern, marker in _exact():
        if gate in text:
            text = pattern.sub(marker, text)
    return text


def redacted_bytes(data: bytes) -> bytes:
    """Return `data` with each secret in it replaced, read as a text of one byte a character."""
    return redacted(data.decode("latin-1")).encode("latin-1")
