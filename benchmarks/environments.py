"""Virtual environments of the benchmarks: one a contender, pinned, made when first asked for.

Idea: a recorder is measured with what it brings and nothing else, so no two of them share an environment. An
environment is made again when its line in `REQUIREMENTS` has changed. They lie in `.venvs` beside this file, which git
ignores.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / ".venvs"
WRAPT = "wrapt==2.5.2"

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "plain": (WRAPT,),
    "clearstone": (WRAPT, "cloudpickle==3.1.3", "zstandard==0.25.0", "-e", str(HERE.parent)),
    "clearstone-sdk": (WRAPT, "clearstone-sdk==0.1.2"),
    "opentelemetry": (WRAPT, "opentelemetry-sdk==1.45.2"),
    "agentcassette": (WRAPT, "agentcassette==0.2.0"),
    "agent-rewind": (WRAPT, "agent-rewind==0.8.0"),
    "langfuse": (WRAPT, "langfuse==5.0.4"),
    "logfire": (WRAPT, "logfire==5.4.0"),
    "mlflow": (WRAPT, "mlflow==3.17.2"),
    "langgraph": ("cloudpickle==3.1.3", "langgraph-checkpoint-sqlite==3.1.0"),
    "plots": ("matplotlib==3.11.2",),
}
"""What is installed where. Recorders of calls have wrapt, whose pass-through is the unit of the figures."""


def interpreter(name: str) -> Path:
    """Return the interpreter of an environment, which is made first where it is missing or its pins have changed.

    Raises:
        subprocess.CalledProcessError: pip could not install it; its message is on standard error.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    made, wanted = folder / "made", "\n".join((sys.version, *REQUIREMENTS[name]))
    if "-e" in REQUIREMENTS[name]:
        wanted += (HERE.parent / "pyproject.toml").read_text()  # its dependencies are ours
    if made.exists() and made.read_text() == wanted:
        return python
    print(f"making the environment {name!r}: {' '.join(REQUIREMENTS[name])}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-qq", *REQUIREMENTS[name]], check=True, stdout=sys.stderr)
    made.write_text(wanted)
    return python


if __name__ == "__main__":
    for name in sys.argv[1:] or REQUIREMENTS:
        interpreter(name)
