"""docs/schema.md is what the schema's comments say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from clearstone.store import schema, schema_page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "schema.md"


def test_the_page_is_generated_from_the_schema() -> None:
    assert PAGE.read_text("utf-8") == schema_page.page(), "run 'make schema'"


def test_every_column_and_index_is_on_the_page() -> None:
    page = schema_page.page()
    for line in schema.TABLES.splitlines():
        if line.startswith("CREATE"):
            assert line.split()[2] in page
        elif line.startswith("    ") and not line.strip().startswith(("UNIQUE", "PRIMARY")):
            assert f"| `{line.split()[0].rstrip(',')}` |" in page


def test_the_module_prints_it() -> None:
    run = subprocess.run([sys.executable, "-m", schema_page.__name__], capture_output=True, text=True, check=True)
    assert run.stdout == schema_page.page()
