"""What the recorder keeps of each site it records calls of, and of each place that makes them.

Idea: what the starts of a site's spans have in common is worked out once. Of a served site that is so once for each
place that calls it: the place is part of what stands under the site's number, so a start that says where it was made is
as long as any other.

Invariant: what is kept is bounded, whatever code is made at run time. The code of a place is kept with it: another one
never passes for it.

Refused: a text in each start (it would take a third of the room of a small call).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clearstone.callers import NOWHERE, is_passed, line_of, place_here
from clearstone.codec import redact
from clearstone.record import layout
from clearstone.record.packed import start_head
from clearstone.store.batch import SiteRow

if TYPE_CHECKING:
    from types import CodeType

    from clearstone.callers import Place
    from clearstone.record.tracer import Tracer
    from clearstone.span import Site

MOST_PLACES = 100
"""So many places that call one site are remembered; past it they are forgotten at once."""

INNOCENT_GIVEN, INNOCENT_GAVE = 25, 20
"""A pickle of at most so many bytes names nothing of `__main__` and holds no secret: the arguments of ``f(pwd=1)`` take
26, the result ``"://:p@"`` takes 21."""


class SitesInUse:
    """The sites of one tracer.

    Args:
        tracer: whose spans they have.

    `known` has them by their keys.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self.known: dict[str, SiteInUse] = tracer.journal.sites.cache()

    def begun(self, site: Site) -> SiteInUse:
        """Return a site in use, from now on also for `known`."""
        use = self.known[site.key] = self._made(site, NOWHERE)
        if site.replay == "serve":
            use.places, use.every_place = {}, {}
        return use

    def at(self, use: SiteInUse, place: Place) -> SiteInUse:
        """Return a served site as it is used in one place, from now on also for its `places`.

        Of library code nothing is remembered: it makes its calls for the user's, here and there.
        """
        passed = is_passed(place)
        code, at = place = place_here() if passed else place
        found = use.every_place.get((id(code), at)) or self._added(use, place)
        if not passed and use.places is not None:
            use.places[at] = found
        return found

    def _added(self, use: SiteInUse, place: Place) -> SiteInUse:
        code, at = place
        if use.places is not None and len(use.every_place) >= MOST_PLACES:
            use.every_place.clear()
            use.places.clear()
        made = use.every_place[id(code), at] = self._made(use.site, place)
        return made

    def _made(self, site: Site, place: Place) -> SiteInUse:
        tracer, line = self._tracer, line_of(place)
        row = SiteRow(site.key, site.name, site.span_type, site.replay, "INTERNAL", tracer.name, tracer.version, line)
        number = tracer.journal.sites.number(row)
        return SiteInUse(site, number, row, place[0], marks="random" in tracer.provider.kept)


class SiteInUse:
    """A site in one journal, a served one in one place.

    Args:
        site: the site.
        number: what stands for it in the journal.
        row: what each start says instead, where there are too many sites for a number.
        code: the code that makes the calls.
        marks: whether a call notes where the global generators stand.

    `places` has a served site by the instruction that calls it, the last of them where several codes do; of any other
    site it is None. `every_place` has it by the code's id too.
    """

    places: dict[int, SiteInUse] | None = None
    every_place: dict[tuple[int, int], SiteInUse]

    def __init__(self, site: Site, number: int, row: SiteRow, code: CodeType | None, *, marks: bool) -> None:
        self.site, self.code, self.called_at = site, code, row.called_at
        self.part = b"" if number else layout.named_site_part(row)
        self.top, self.below = start_head(number, layout.TOP), start_head(number)
        redactor = self.redactor = redact._active
        self.hidden = redactor.secret_positions(site.parameters)
        self.marks = marks
        self.prepares = bool(site.boundary or site.attributes or site.record_effects or marks)
        every = redactor.reads_every_text
        self.innocent_given, self.innocent_gave = (0, 0) if every else (INNOCENT_GIVEN, INNOCENT_GAVE)
        self.given, self.gave, self.did, self.item = (f"{site.key} {what}" for what in ("given", "gave", "did", "item"))
