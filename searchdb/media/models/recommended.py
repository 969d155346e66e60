"""The models that are recommended for a need; docs/models.md has their figures with sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Need = Literal["fast", "best", "multilingual", "small"]


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A model on the hub, what it is recommended for, and the numbers of its vectors."""

    name: str
    needs: tuple[Need, ...]
    dimension: int
    languages: str


RECOMMENDED: tuple[Recommendation, ...] = (
    Recommendation(name="openai/clip-vit-base-patch32", needs=("fast", "small"), dimension=512, languages="English"),
    Recommendation(
        name="laion/CLIP-ViT-B-32-laion2B-s34B-b79K", needs=("fast", "small"), dimension=512, languages="English"
    ),
    Recommendation(
        name="google/siglip2-base-patch32-256", needs=("fast", "multilingual"), dimension=768, languages="many"
    ),
    Recommendation(name="openai/clip-vit-large-patch14", needs=("best",), dimension=768, languages="English"),
    Recommendation(
        name="google/siglip2-base-patch16-224", needs=("best", "multilingual"), dimension=768, languages="many"
    ),
    Recommendation(
        name="google/siglip2-so400m-patch14-384", needs=("best", "multilingual"), dimension=1152, languages="many"
    ),
    Recommendation(
        name="facebook/metaclip-2-worldwide-huge-quickgelu",
        needs=("best", "multilingual"),
        dimension=1024,
        languages="over 300",
    ),
    Recommendation(
        name="OFA-Sys/chinese-clip-vit-base-patch16",
        needs=("small", "multilingual"),
        dimension=512,
        languages="Chinese",
    ),
)
"""In the order of `searchdb model list`."""
