"""``clearstone demo``: the whole loop on a small agent, in a folder of the user's choice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import click

from clearstone.errors import ConfigurationError

MOST_RUNS = 50


def run_demo(folder: Path) -> None:
    """Write the agent, run it until it fails, replay the failure, and say what to type next.

    Args:
        folder: where to write; created if it is not there.

    Raises:
        ConfigurationError: `folder` is a file, or holds another ``agent.py``.
    """
    agent = _write_agent(folder)
    click.echo(f"1. An agent with a bug: {agent} ({len(agent.read_text('utf-8').splitlines())} lines).")
    click.echo("2. Running it until it fails:")
    _run_until_it_fails(folder)
    click.echo("3. What was saved:")
    _clearstone(folder, "checkpoints")
    click.echo("4. The failure again, from the record (the model is not asked):")
    _clearstone(folder, "replay", "latest")
    click.echo(_next_steps(folder))


def _write_agent(folder: Path) -> Path:
    agent, source = folder / "agent.py", resources.files("clearstone.cli").joinpath("demo_agent.py").read_text("utf-8")
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file; give a folder to write the demo into")
    if agent.exists() and (not agent.is_file() or agent.read_bytes() != source.encode()):
        raise ConfigurationError(f"{agent} is there already and is not the demo's; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    agent.write_text(source, encoding="utf-8")
    return agent


def _run_until_it_fails(folder: Path) -> None:
    for number in range(1, MOST_RUNS + 1):
        run = subprocess.run(
            [sys.executable, "agent.py"],
            cwd=folder,
            env=_environment(folder),
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            click.echo(f"   run {number} failed:\n")
            click.echo("\n".join(f"     {line}" for line in run.stderr.splitlines()) + "\n")
            return
        click.echo(f"   run {number} went well: {run.stdout.strip()}")
    click.echo(f"   it went well {MOST_RUNS} times, against all odds; run the demo again.")


def _clearstone(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "clearstone", *arguments]
    run = subprocess.run(  # noqa: S603 - this program itself
        command, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False
    )
    click.echo(f"   $ clearstone {' '.join(arguments)}\n")
    click.echo("\n".join(f"     {line}" for line in (run.stdout + run.stderr).splitlines()) + "\n")


def _environment(folder: Path) -> dict[str, str]:
    """The records belong into the demo's folder, wherever the user keeps theirs."""
    home = str((folder / ".clearstone").absolute())
    kept = {name: value for name, value in os.environ.items() if name != "CLEARSTONE_DISABLED"}
    return {**kept, "CLEARSTONE_HOME": home, "PYTHONIOENCODING": "utf-8"}


def _next_steps(folder: Path) -> str:
    found = shutil.which("clearstone")
    note = "" if found else f"   (here the command is {Path(sys.executable).with_name('clearstone')})\n"
    return f"""Next:
{note}   cd {folder}
   clearstone debug latest      # pdb in handle(), state as it was: n steps, p self.refunds shows, c runs to the error
   clearstone show latest       # every call, with what went in and what came out
   Then mend share_in() in agent.py, say with:  if ":" not in answer: return 0.0
   clearstone replay latest     # the same answers, now with your fix"""
