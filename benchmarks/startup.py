"""How fast the command line starts and the package imports, against a bare interpreter and against importing wrapt.

    python benchmarks/startup.py [--repeats 15]

The commands are run in turn, so that a slow phase of the machine hits all of them; figures are medians, and what is
over another command is the median of the rounds' differences.
"""

import argparse
import atexit
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BARE, WRAPT, CLEARSTONE = "python -c pass", "python -c 'import wrapt'", "python -c 'import clearstone'"
DECORATED = "import clearstone; f = clearstone.traced(lambda x: x)"
COMMANDS = {
    BARE: [sys.executable, "-c", "pass"],
    WRAPT: [sys.executable, "-c", "import wrapt"],
    CLEARSTONE: [sys.executable, "-c", "import clearstone"],
    "  and a decorated function": [sys.executable, "-c", DECORATED],
    "  and a call of it, stored at exit": [sys.executable, "-c", f"{DECORATED}; f(1)"],
    "clearstone --help": [sys.executable, "-m", "clearstone", "--help"],
}
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
COMPILED["CLEARSTONE_HOME"] = tempfile.mkdtemp()
atexit.register(shutil.rmtree, COMPILED["CLEARSTONE_HOME"])
MOST_MILLISECONDS, MOST_MODULES = 60, 120
"""What importing clearstone may take over importing wrapt."""


def milliseconds(command: list[str]) -> float:
    """Time a start as a user has it, who installed the package: compiled at the first start, not at each."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=COMPILED)
    return (time.perf_counter() - start) * 1000


def modules(statement: str) -> int:
    code = f"import sys; before = len(sys.modules); {statement}; print(len(sys.modules) - before)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


def parts() -> dict[str, float]:
    """Return the milliseconds of each module that importing clearstone loads beyond wrapt, itself alone."""
    command = [sys.executable, "-X", "importtime", "-c", "import wrapt; import clearstone"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, env=COMPILED).stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if "imported package" not in line]
    names = [row[2].strip() for row in rows]
    return {name: int(row[0]) / 1000 for name, row in list(zip(names, rows, strict=True))[names.index("wrapt") + 1 :]}


def print_parts(repeats: int) -> None:
    runs = [parts() for _ in range(repeats)]
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    ours = {name: took for name, took in middle.items() if name.partition(".")[0] == "clearstone"}
    slowest = sorted(ours, key=lambda name: -ours[name])[:5]
    print(
        f"modules, as -X importtime tells: {sum(ours.values()):.0f} ms for {len(ours)} of clearstone, "
        f"{sum(middle.values()) - sum(ours.values()):.0f} ms for {len(middle) - len(ours)} of the standard library"
    )
    print("the slowest: " + ", ".join(f"{name} {ours[name]:.1f}" for name in slowest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        milliseconds(command)  # the first start compiles
    for _ in range(repeats):
        for name, command in COMMANDS.items():
            found[name].append(milliseconds(command))
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {repeats} repeats")
    print(f"{'':34}{'ms':>7}{'lowest':>9}{'highest':>9}{'over bare':>11}")
    for name, values in found.items():
        over = over_other(values, found[BARE])
        print(f"{name:34}{statistics.median(values):7.0f}{min(values):9.0f}{max(values):9.0f}{over:11.0f}")
    over = over_other(found[CLEARSTONE], found[WRAPT])
    more = modules("import clearstone") - modules("import wrapt")
    print(
        f"import clearstone over import wrapt: {over:.0f} ms, {judged(over <= MOST_MILLISECONDS)} {MOST_MILLISECONDS}"
    )
    print(f"and {more} modules more, {judged(more < MOST_MODULES)} {MOST_MODULES}")
    print_parts(repeats)


def over_other(values: list[float], other: list[float]) -> float:
    return statistics.median(one - its for one, its in zip(values, other, strict=True))


def judged(holds: bool) -> str:
    return "within" if holds else "OVER"


if __name__ == "__main__":
    main()
