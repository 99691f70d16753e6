"""The words of a span: what a search for text looks at, and whether a span holds what is looked for.

Idea: a word is a run of letters and digits, whatever its case and width (`unicodedata` NFKC, casefolded); each
ideograph, kana and hangul syllable is a word of its own, for nobody puts spaces between them. A search is a list of
terms, one per word or quoted phrase, each a sequence of words; ``user_id`` is two words that follow one another. A span
meets it where each term is in one of its strings.

Invariant: the index (`clearstone.store.search`) and a scan give the same answers: both take the words from here. A
change of what a word or a text is needs a schema version that empties the index. No text is a syntax error.

Refused: substrings (an index of trigrams takes more room than the texts themselves).
"""

from __future__ import annotations

import contextlib
import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from clearstone.run import DRAWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from clearstone.span import Chunk, Outcome, Payload, Span

SHORTEST_TEXT = 3
"""Characters below which a string is not searched: flags, separators, single letters."""

LONGEST_TEXT = 1 << 17
"""Characters of a string that are searched; the rest of a longer one is not."""

LONGEST_WORD = 64
"""Characters of a word that count: longer ones are mostly no words (base64)."""

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+")

Term = tuple[str, ...]


def words(text: str) -> list[str]:
    """Return the words of a string in order, each of at most `LONGEST_WORD` characters and none with a space."""
    cut = text[:LONGEST_TEXT]
    folded = cut.lower() if cut.isascii() else unicodedata.normalize("NFKC", cut).casefold()
    return [word[:LONGEST_WORD] for word in _WORD.findall(folded)]


def terms(wanted: str) -> list[Term]:
    """Return what a search text asks for; empty where it holds no word.

    Args:
        wanted: words and, in double quotes, phrases. A quote that is not closed reaches to the end.
    """
    found: dict[Term, None] = {}
    for number, part in enumerate(wanted.split('"')):
        for piece in [part] if number % 2 else part.split():
            term = tuple(words(piece))
            if term:
                found[term] = None
    return list(found)


def matches(span: Span, wanted: Sequence[Term]) -> bool:
    """Whether a span, read with its payloads, meets every term."""
    left = set(wanted)
    for text in texts(span):
        have = words(text)
        left = {term for term in left if not _holds(have, term)}
        if not left:
            break
    return not left


def _holds(have: list[str], term: Term) -> bool:
    size = len(term)
    starts = (at for at, word in enumerate(have) if word == term[0])
    return any(tuple(have[at : at + size]) == term for at in starts)


def texts(span: Span) -> Iterator[str]:
    """Yield the strings of a span that are searched, some perhaps twice: payloads, attributes, events and errors.

    The strings a stream gave one after the other are one string. Nothing is executed: payloads go through
    `clearstone.codec.inert`.
    """
    for text in _all_texts(span):
        if len(text) >= SHORTEST_TEXT:
            yield text


def _all_texts(span: Span) -> Iterator[str]:
    yield span.status.description
    yield from _strings({name: value for name, value in span.attributes.items() if name != DRAWN})
    for event in span.events:
        yield event.name
        yield from _strings(event.attributes)
    yield from _payload_texts(span.input)
    if span.outcome is not None:
        yield from _outcome_texts(span.outcome)


def _outcome_texts(outcome: Outcome) -> Iterator[str]:
    yield from _payload_texts(outcome.value)
    yield from _payload_texts(outcome.effects)
    yield from _stream_texts(outcome.chunks)
    if outcome.failure is not None:
        yield outcome.failure.type_name
        yield outcome.failure.message
        yield from _payload_texts(outcome.failure.value)


def _stream_texts(chunks: Iterable[Chunk]) -> Iterator[str]:
    run: list[str] = []
    for chunk in chunks:
        node = _node(chunk.value)
        if type(node) is str:
            run.append(node)
        else:
            yield from _strings(node)
    yield "".join(run)


def _payload_texts(payload: Payload | None) -> Iterator[str]:
    if payload is not None:
        yield from _strings(_node(payload))


def _node(payload: Payload) -> Any:
    if payload.codec == "stand-in":
        with contextlib.suppress(ValueError):  # damaged: then it is none of ours
            return json.loads(payload.data)
        return None
    from clearstone.codec import inert  # for searches alone

    return inert.read(payload.data, buffers=payload.buffers)


def _strings(node: Any) -> Iterator[str]:
    from clearstone.codec import inert

    if type(node) is str:
        yield node
    for each in inert.walk(node):
        for child in inert.children(each):
            if type(child) is str:
                yield child
