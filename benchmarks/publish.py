"""Puts the figures of the last run into docs/performance.md, between its markers, and the plots beside it.

    python benchmarks/publish.py [--from benchmarks/.results]

A marker is a line ``<!-- NAME -->``; what stands between it and ``<!-- /NAME -->`` is replaced by NAME.md, or by
NAME.txt as a block of text. A result that is not there leaves its place alone. NAME_all is a section below NAME's: its
headings are one level deeper.
"""

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from environments import HERE

DOCS = HERE.parent / "docs"
PAGE, FOLDER = DOCS / "performance.md", DOCS / "benchmarks"
KEPT = ("overhead.svg", "growth.svg", "store.json", "store.svg", "checkpoints.json", "checkpoints.svg")


def filled(page: str, results: Path) -> str:
    """Return the page with every result that is in `results`."""

    def fill(marked: re.Match[str]) -> str:
        name = marked["name"]
        text = found(name, results)
        return marked[0] if text is None else f"<!-- {name} -->\n\n{text}\n\n<!-- /{name} -->"

    return re.sub(r"<!-- (?P<name>\w+) -->.*?<!-- /(?P=name) -->", fill, page, flags=re.DOTALL)


def found(name: str, results: Path) -> str | None:
    """Return the result of that name as Markdown."""
    table, block = results / f"{name}.md", results / f"{name}.txt"
    if table.exists():
        text = table.read_text().strip()
        return text.replace("\n### ", "\n#### ") if name.endswith("_all") else text
    if block.exists():
        return f"```text\n{block.read_text().strip()}\n```"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="results", type=Path, default=HERE / ".results", help="where the results are")
    results = parser.parse_args().results
    PAGE.write_text(filled(PAGE.read_text(), results))
    FOLDER.mkdir(exist_ok=True)
    for name in KEPT:
        if (results / name).exists():
            shutil.copy(results / name, FOLDER / name)
    if (raw := results / "overhead.json").exists():
        (FOLDER / raw.name).write_text(json.dumps(without_samples(json.loads(raw.read_text())), indent=1) + "\n")


def without_samples(raw: dict[str, Any]) -> dict[str, Any]:
    """Return raw results without the memory at each moment of W6, which is most of them and drawn in growth.svg."""
    for contender in raw["contenders"].values():
        for each in contender["growth"]:
            each.pop("samples", None)
    return raw


if __name__ == "__main__":
    main()
