"""Draws the plots of docs/performance.md from the figures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

SIZES = (25, 100, 500)
"""Thousands of images."""
SIDES = {
    "recipe_sql": "the recipe's SQL",
    "exact": "exact scan in PostgreSQL",
    "faiss_flat": "FAISS flat",
    "faiss_hnsw": "FAISS HNSW",
}
STYLE: Any = {
    "svg.hashsalt": "searchdb",  # makes the file depend on the figures only
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10,
}


def draw(figures: Mapping[str, float], folder: Path) -> list[Path]:
    """Write the plots for which there are figures, and return their files."""
    drawn = []
    with plt.rc_context(STYLE):
        for name, plot in {"search-by-size": _search, "ingest": _ingest}.items():
            try:
                shown = plot(figures)
            except KeyError:  # a quick or partial run lacks some figures
                continue
            drawn.append(folder / f"{name}.svg")
            shown.savefig(drawn[-1], bbox_inches="tight", metadata={"Date": None})
            plt.close(shown)
    return drawn


def _search(figures: Mapping[str, float]) -> Figure:
    sizes = [size for size in SIZES if f"search_p50_ms_{size}k" in figures]
    if len(sizes) < 2:
        raise KeyError("search_p50_ms")
    shown, axes = plt.subplots(figsize=(7, 4))
    for name, label in SIDES.items():
        values = [figures[f"search_vs_{name}_{size}k"] * figures[f"search_p50_ms_{size}k"] for size in sizes]
        axes.plot(sizes, values, marker="o", label=label, linestyle="--")
    for suffix, label in (("", "match_images, HNSW"), ("_ivfflat", "match_images, ivfflat")):
        values = [figures[f"search_p50_ms{suffix}_{size}k"] for size in sizes]
        axes.plot(sizes, values, marker="o", label=label, linewidth=2.5)
    axes.set(xscale="log", yscale="log", xlabel="thousands of images", ylabel="median, ms")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))  # outside: hides no line
    return shown


def _ingest(figures: Mapping[str, float]) -> Figure:
    shown, axes = plt.subplots(figsize=(7, 2.4))
    bars = {
        "the recipe": "ingest_recipe_per_s",
        "searchdb": "ingest_ingest_per_s",
        "this machine's limit": "ingest_limit_per_s",
    }
    values = [figures[name] for name in bars.values()]
    drawn = axes.barh(list(bars), values, color=["#b9b4ae", "#0f766e", "#e0b36a"])
    axes.bar_label(drawn, fmt="%.1f", padding=4)
    axes.invert_yaxis()
    axes.set(xlabel="images per second")
    return shown
