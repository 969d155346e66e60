"""How long does the command line take to say its help, beside a bare Python?"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.report import interleaved, table

ROUNDS = 15


def measure() -> tuple[dict[str, float], str]:
    """Return the figures and a table of them."""
    commands = {"searchdb --help": ["-m", "searchdb", "--help"], "bare python": ["-c", "pass"]}
    seconds = interleaved({name: lambda line=line: _run(line) for name, line in commands.items()}, ROUNDS)
    figures = {"cli_start_ms": seconds["searchdb --help"] * 1000}
    return figures, table("start", {name: f"{value * 1000:.0f} ms" for name, value in seconds.items()})


def _run(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
