"""The README's example is the program that runs, and what it shows is its real output."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> Iterator[tuple[str, str, str]]:
    """Yield language, file name and text of each fenced block."""
    for match in BLOCK.finditer(document.read_text("utf-8")):
        yield match[1], match[2] or "", match[3]


class Reader:
    """Does what a reader does: writes the named files, types the commands of console blocks, compares what comes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        scripts = folder / "bin"
        scripts.mkdir()
        for name, arguments in {"python": "", "clearstone": "-m clearstone "}.items():
            (scripts / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments}"$@"\n')
            (scripts / name).chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLEARSTONE_")}
        path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
        self.env = kept | {"PATH": path, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}

    def type(self, command: str, lines: list[str]) -> str:
        run = subprocess.run(  # noqa: S602 - the documents' own commands
            command,
            shell=True,
            cwd=self.folder,
            env=self.env,
            input="".join(f"{line}\n" for line in lines),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        return run.stdout

    def session(self, block: str) -> Iterator[tuple[str, str, str]]:
        """Yield each command of a console block, what the document shows, and what really came."""
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            typed = re.findall(r"^\(Pdb\) (.+)$", shown, re.MULTILINE)
            shown = re.sub(r"^\(Pdb\) .+\n", "(Pdb) ", shown, flags=re.MULTILINE)
            yield command, shown, self.type(command, typed)


def steady(text: str, folder: Path) -> str:
    """Take out what differs from run to run: ids, times, and where things are installed."""
    text = text.replace(f"{folder}/", "/home/you/")
    text = re.sub(r'File "[^"]*/clearstone/drivers\.py", line \d+', 'File ".../clearstone/drivers.py", line N', text)
    text = re.sub(r"(?<![0-9a-f])(?:[0-9a-f]{32}|[0-9a-f]{16}|[0-9a-f]{14}|[0-9a-f]{12})(?![0-9a-f])", "<id>", text)
    text = re.sub(r"\d+\.\d+ ms", "<time> ms", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+\+00:00)?", "<moment>", text)
    text = re.sub(r"^\s*[~^]+\s*\n", "", text, flags=re.MULTILINE)  # Python 3.11 to 3.13 mark other columns
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


@pytest.mark.skipif(sys.platform == "win32", reason="the documents show a POSIX shell")
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_shows_is_what_comes(document: Path, tmp_path: Path) -> None:
    folder = tmp_path / "you"
    folder.mkdir()
    reader = Reader(folder)
    for language, name, text in blocks(document):
        if name:
            (folder / name).write_text(text, encoding="utf-8")
        elif language == "console":
            for command, shown, came in reader.session(text):
                assert steady(came, folder) == steady(shown, folder), f"{document.name}: $ {command}"
        elif language == "python":
            run = reader.type(f"python -c {shlex.quote(text)}", [])
            assert "Traceback" not in run, run


def test_the_first_screen_of_the_readme_names_every_way_to_start() -> None:
    screen = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:40])
    for words in ("pip install clearstone", "clearstone demo", "make demo", "make test"):
        assert words in screen


def test_the_platforms_tested_are_stated() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "Linux" in readme
    assert "CPython 3.11" in readme
