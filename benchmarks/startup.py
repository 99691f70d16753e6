"""How fast the command line starts and the package imports, against a bare interpreter.

python benchmarks/startup.py [--repeats 15]

The commands are run in turn, so that a slow phase of the machine hits all of them; figures are medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import wrapt'": [sys.executable, "-c", "import wrapt"],
    "python -c 'import clearstone'": [sys.executable, "-c", "import clearstone"],
    "clearstone --help": [sys.executable, "-m", "clearstone", "--help"],
}


def milliseconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1000


def modules(statement: str) -> int:
    code = f"import sys; before = len(sys.modules); {statement}; print(len(sys.modules) - before)"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


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
    bare = statistics.median(found["python -c pass"])
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {repeats} repeats")
    print(f"{'':34}{'ms':>7}{'lowest':>9}{'highest':>9}{'over bare':>11}")
    for name, values in found.items():
        median = statistics.median(values)
        print(f"{name:34}{median:7.0f}{min(values):9.0f}{max(values):9.0f}{median - bare:11.0f}")
    print(f"modules: wrapt {modules('import wrapt')}, clearstone {modules('import clearstone')}")


if __name__ == "__main__":
    main()
