"""Runs benchmarks in interleaved rounds, and formats their results and the machine they ran on."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path


def interleaved(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run every side once per round, in turn, and return each side's median seconds.

    Taking turns spreads other load on the machine over all sides equally.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(title: str, rows: Mapping[str, str]) -> str:
    """Return lines of names and values under a title."""
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in rows.items())])


def machine() -> str:
    """Return the date, the processor, and the versions that figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    bfloat16 = "with" if re.search(r"\b(amx_bf16|avx512_bf16)\b", text) else "without"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "pillow", "psycopg"))
    return (
        f"{date.today()}, {found[1] if found else platform.processor()}, {os.cpu_count()} cores, {bfloat16} bfloat16, "
        f"Python {platform.python_version()}, {libraries}"
    )
