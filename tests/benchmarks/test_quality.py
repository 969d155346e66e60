"""`python -m benchmarks quality` measures given vectors on a real database."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import auc, calibration_error, false_share, main
from benchmarks.vectors import clip_like

IMAGES, TEXTS = 60, 20


@cache  # they take a second to make
def made_up() -> dict[str, np.ndarray]:
    """Return images and texts that each point to one of them."""
    images, directions = clip_like(IMAGES, TEXTS)
    relevant = np.arange(IMAGES) == np.arange(TEXTS)[:, None]
    texts = directions + 0.3 * (images[:TEXTS] - images.mean(axis=0))
    return {"images": images, "texts": texts, "relevant": relevant}


def write(folder: Path, arrays: dict[str, np.ndarray]) -> str:
    file = folder / "vectors.npz"
    np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
    return str(file)


def test_texts_that_images_show_are_told_from_absent_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    absent = clip_like(0, 3 * TEXTS)[1][TEXTS:]
    given = made_up() | {"absent_texts": absent[TEXTS:], "calibration_texts": absent[:TEXTS]}
    halved = {name: 2 * array.astype(np.float16) if array.dtype != bool else array for name, array in given.items()}
    assert main([write(tmp_path, halved)]) == 0
    [figures] = json.loads(capsys.readouterr().out)
    assert (figures["calibration"], figures["absent"]) == ("calibration_texts", "absent_texts")
    assert (figures["present_texts"], figures["absent_texts"]) == (TEXTS, TEXTS)
    assert figures["auc_best_similarity"] > 0.95
    assert figures["auc_relevance"] > 0.8
    assert figures["recall_at_10"] == 1  # few images are searched exactly
    for name in ("auc_best_similarity", "auc_relevance", "false_share_similarity", "false_share_relevance"):
        assert 0 <= figures[name] <= 1
    assert 0 <= figures["calibration_error"] <= 1
    assert figures["median_relevance_absent"] < figures["median_relevance_present"]
    assert figures["p50_ms"] > 0
    assert figures["exact_p50_ms"] > 0


def test_images_are_taken_out_and_texts_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([write(tmp_path, made_up())]) == 0
    [figures] = json.loads(capsys.readouterr().out)
    assert figures["calibration"] == "held-out part of texts"
    assert (figures["present_texts"], figures["calibration_texts"]) == (16, 4)
    assert figures["absent"] == "texts whose images were deleted"
    assert figures["absent_texts"] == 16
    assert figures["auc_best_similarity"] > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.ones((IMAGES, 63))}, "the vectors in `images` have 63 numbers, but searchdb stores"),
        ({"images": np.ones((IMAGES, 768))}, "the vectors in `texts` have 512 numbers, those in `images` 768"),
        ({"texts": np.full((TEXTS, 512), np.nan)}, "`texts` holds numbers that are not finite"),
        ({"texts": np.zeros((TEXTS, 512))}, "`texts` holds a vector of length 0"),
        ({"texts": np.ones(512)}, "`texts` holds float64 of shape (512,)"),
        ({"images": None}, "has no array `images`"),
        ({"relevant": np.ones((3, 3), bool)}, "`relevant` holds bool of shape (3, 3), but must hold bool"),
        ({"relevant": np.zeros((TEXTS, IMAGES), bool)}, "no image is relevant to any text"),
        ({"calibration_texts": np.ones((1, 512))}, "1 texts to calibrate by, but at least 2 are needed"),
        ({"relevant": np.ones((TEXTS, IMAGES), bool)}, "0 of 60 images are left to search"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line(
    change: dict[str, np.ndarray | None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arrays = {name: array for name, array in (made_up() | change).items() if array is not None}
    file = write(tmp_path, arrays)
    assert main([file]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"{file}: {message}")
    assert shown.err.count("\n") == 1


def test_an_unreadable_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.npz").write_text("no vectors")
    for name in ("text.npz", "none.npz"):
        assert main([str(tmp_path / name)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert main([]) == 2


def test_figures():
    assert auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)
    present = np.linspace(0, 1, 11)
    assert false_share(present, np.array([0.05, 0.1, 0.2, 0.9])) == 0.5
    relevance = np.array([0.05] * 20 + [1.0] * 20 + [0.5] * 19)
    belongs = np.array([False] * 20 + [True] * 10 + [False] * 10 + [True] * 19)
    assert calibration_error(relevance, belongs) == pytest.approx((0.05 + 0.5) / 2)  # 19 pairs are too few for a bin
