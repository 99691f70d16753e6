"""Draws the raw results as SVG. Runs in the environment ``plots``; the same results give the same bytes.

python plots.py RAW.json FOLDER
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "clearstone"
mpl.rcParams["svg.fonttype"] = "none"

import figures  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402 - the backend first
from workloads import WORKLOADS  # noqa: E402

Raw = dict[str, Any]
COLOURS = plt.get_cmap("tab20").colors


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def bars(raw: Raw, path: Path) -> None:
    """Draw what each contender adds to a call, by workload, on a logarithmic scale."""
    called = [name for name, each in WORKLOADS.items() if each.how in {"calls", "awaited"}]
    names = [name for name, of in raw["contenders"].items() if of["rounds"]]
    plot, axes = plt.subplots(figsize=(11, 5))
    width = 0.85 / max(1, len(names))
    for place, name in enumerate(names):
        found = [figures.over(figures.blocks(raw, name, workload), figures.ratio) for workload in called]
        at = [group + (place - (len(names) - 1) / 2) * width for group in range(len(called))]
        drawn = [(x, each) for x, each in zip(at, found, strict=True) if each is not None and each.median > 0]
        errors = [[each.median - each.low for _, each in drawn], [each.high - each.median for _, each in drawn]]
        axes.bar([x for x, _ in drawn], [each.median for _, each in drawn], width, yerr=errors, label=name,
                 color=COLOURS[place % len(COLOURS)], error_kw={"linewidth": 0.6})  # fmt: skip
    axes.set_yscale("log")
    axes.set_xticks(range(len(called)), called)
    axes.axhline(1, color="black", linewidth=0.6)
    axes.set_ylabel("added to a call, multiples of a wrapt pass-through")
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.07))
    save(plot, path)


def growth(raw: Raw, path: Path) -> None:
    """Draw the anonymous memory of each contender while it makes spans without a pause."""
    plot, axes = plt.subplots(figsize=(9, 4.5))
    for place, (name, of) in enumerate(raw["contenders"].items()):
        if of["growth"]:
            samples = of["growth"][-1]["samples"]
            memory = [taken / 2**20 for _, taken, _ in samples]
            axes.plot([at for at, _, _ in samples], memory, label=name, color=COLOURS[place % len(COLOURS)])
    axes.set_xscale("log")
    axes.set_xlabel("seconds since the first of 200,000 spans")
    axes.set_ylabel("anonymous memory over the start, MB")
    axes.legend(fontsize=8)
    save(plot, path)


def store(raw: Raw, path: Path) -> None:
    """Draw the rows a second in and out of the store as it grows."""
    plot, axes = plt.subplots(figsize=(9, 4.5))
    for place, (name, points) in enumerate(raw["curves"].items()):
        axes.plot([each["spans"] for each in points], [each["per_second"] for each in points], marker="o", label=name,
                  color=COLOURS[place % len(COLOURS)])  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("spans in the store")
    axes.set_ylabel("a second")
    axes.legend(fontsize=8)
    save(plot, path)


def checkpoints(raw: Raw, path: Path) -> None:
    """Draw what a saved step costs as the state grows: time, and bytes on disk."""
    plot, (time, room) = plt.subplots(1, 2, figsize=(11, 4.5))
    for place, (name, sizes) in enumerate(raw["steps"].items()):
        if len(sizes) < 2:
            continue
        at = [int(size) for size in sizes]
        steps = [1000 * statistics.median(each["seconds"] for each in of) for of in sizes.values()]
        time.plot(at, steps, marker="o", label=name, color=COLOURS[place % len(COLOURS)])
        if all("bytes" in of[0] for of in sizes.values()):
            kilobytes = [statistics.median(each["bytes"] for each in of) / 1000 for of in sizes.values()]
            room.plot(at, kilobytes, marker="o", label=name, color=COLOURS[place % len(COLOURS)])
    for axes, title in ((time, "milliseconds a step"), (room, "kilobytes on disk a step")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("messages in the state")
        axes.set_ylabel(title)
    time.legend(fontsize=8)
    save(plot, path)


def main() -> None:
    raw, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    if "steps" in raw:
        checkpoints(raw, folder / "checkpoints.svg")
        return
    if "curves" in raw:
        store(raw, folder / "store.svg")
        return
    bars(raw, folder / "overhead.svg")
    growth(raw, folder / "growth.svg")


if __name__ == "__main__":
    main()
