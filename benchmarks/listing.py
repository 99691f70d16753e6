"""How long it takes to list checkpoints: their headers are read, and nothing behind them.

python benchmarks/listing.py [--checkpoints 10000]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clearstone.checkpoint import container, serial
from clearstone.checkpoint.manager import CheckpointManager, list_folder
from clearstone.checkpoint.model import Checkpoint
from clearstone.checkpoint.packs import Pack
from clearstone.codec.keys import machine_key
from clearstone.span import Span, Trace

LARGE = 1 << 30
ROUNDS = 5


class Agent:
    """Holds little."""


def one() -> Checkpoint:
    """Return a checkpoint of a small state."""
    span = Span(trace_id="a" * 32, span_id="b" * 16, parent_id=None, name="Agent.run", start_ns=1, end_ns=2)
    return CheckpointManager().create_checkpoint(Agent(), Trace("a" * 32, (span,)), span.span_id)


def numbered(checkpoint: Checkpoint, number: int) -> Checkpoint:
    return replace(checkpoint, checkpoint_id=f"ckpt_{number:012x}", created_ns=number)


def files(folder: Path, count: int) -> None:
    """Write so many checkpoints, each a file; without waiting for the disk as saving one does."""
    folder.mkdir()
    made, key = one(), machine_key()
    for number in range(count):
        _, parts = container.step(container.MAGIC, *serial.pack(numbered(made, number)), key)
        (folder / f"{number}.ckpt").write_bytes(b"".join(parts))


def pack(folder: Path, count: int) -> None:
    """Write as many steps into one pack."""
    folder.mkdir()
    made, written = one(), Pack(folder / "a.pack")
    for number in range(count):
        written.append(numbered(made, number), trace=None)


def large(folder: Path) -> Path:
    """Write a checkpoint of a gigabyte."""
    header, sections = serial.pack(one())
    path = folder / "large.ckpt"
    container.write(path, header, {**sections, "buffers": os.urandom(1 << 20) * (LARGE >> 20)}, machine_key())
    return path


def milliseconds(do: Callable[[], object]) -> str:
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        do()
        taken.append(1000 * (time.perf_counter() - begun))
    return f"{statistics.median(taken):10.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=10_000)
    count = parser.parse_args().checkpoints
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ["XDG_CONFIG_HOME"] = made
        files(folder / "files", count)
        pack(folder / "pack", count)
        path = large(folder)
        shown = [sys.executable, "-m", "clearstone", "checkpoints", "--home", str(folder / "home")]
        (folder / "home").mkdir()
        (folder / "files").rename(folder / "home" / "checkpoints")
        home = folder / "home" / "checkpoints"
        print(f"{count:,} files, listed              {milliseconds(lambda: list_folder(home))}")
        print(f"{count:,} steps of a pack, listed    {milliseconds(lambda: list_folder(folder / 'pack'))}")
        told = milliseconds(lambda: subprocess.run(shown, check=True, stdout=subprocess.DEVNULL))
        print(f"{count:,} files, 'clearstone checkpoints', its start included {told}")
        print(f"the header of a file of 1 GB     {milliseconds(lambda: container.read_header(path))}")


if __name__ == "__main__":
    main()
