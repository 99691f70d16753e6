"""The commit of a program's source is what git says, without git being run."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from clearstone.checkpoint import git
from clearstone.checkpoint.git import Commit, commit_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git, whose repositories are read")


def run(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "package").mkdir(parents=True)
    run(folder, "init", "-q", "-b", "main")
    for name in ("agent.py", "package/part.py", "package/ünïcode name.py", f"{'n' * 200}.py"):
        (folder / name).write_text(f"# {name}\n")
    run(folder, "add", ".")
    run(folder, "commit", "-q", "-m", "first")
    return folder


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if ".git" not in path.parts]


def test_the_commit_and_no_change(repository: Path) -> None:
    found = commit_of(repository / "package", files(repository))
    assert found == Commit(run(repository, "rev-parse", "HEAD"), ())


def test_files_that_differ_are_named(repository: Path) -> None:
    (repository / "agent.py").write_text("# another\n")
    (repository / "package/ünïcode name.py").write_text("# another length\n")
    (repository / "untracked.py").write_text("")
    found = commit_of(repository, [*files(repository), repository / "gone.py", repository.parent / "outside.py"])
    assert found is not None
    assert found.changed == ("agent.py", "package/ünïcode name.py")


def test_a_file_that_was_touched_and_is_the_same_does_not_differ(repository: Path) -> None:
    os.utime(repository / "agent.py", (1, 1))
    assert commit_of(repository, files(repository)) == Commit(run(repository, "rev-parse", "HEAD"), ())


def test_a_detached_head_packed_references_and_a_linked_work_tree(repository: Path) -> None:
    first = run(repository, "rev-parse", "HEAD")
    run(repository, "pack-refs", "--all")
    assert commit_of(repository, []) == Commit(first, ())
    linked = repository.parent / "linked"
    run(repository, "worktree", "add", "-q", "-b", "side", str(linked))
    (linked / "agent.py").write_text("# on the side\n")
    run(linked, "commit", "-q", "-a", "-m", "second")
    assert commit_of(linked, files(linked)) == Commit(run(linked, "rev-parse", "HEAD"), ())
    run(repository, "checkout", "-q", "--detach")
    assert commit_of(repository, []) == Commit(first, ())


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    run(tmp_path, "init", "-q", "-b", "main")
    assert commit_of(tmp_path, []) == Commit("", ())


def test_where_there_is_no_repository_there_is_nothing(tmp_path: Path) -> None:
    assert commit_of(tmp_path, []) is None or (tmp_path.parents[-1] / ".git").exists()


@pytest.mark.parametrize("damage", ["index", "HEAD"])
def test_a_repository_that_cannot_be_read_is_no_error(repository: Path, damage: str) -> None:
    (repository / ".git" / damage).write_bytes(b"\xff\xfe no such thing")
    found = commit_of(repository, files(repository))
    assert found is not None
    assert found.changed is None


def test_an_index_that_is_too_large_is_not_read(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "LARGEST_INDEX", 10)
    assert commit_of(repository, []) == Commit(run(repository, "rev-parse", "HEAD"), None)
