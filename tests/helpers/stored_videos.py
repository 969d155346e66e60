"""Stores frames of videos without ingesting them, for tests of what is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from PIL import Image

from searchdb.db.current_model import claim_model
from searchdb.db.database import Database
from searchdb.db.tables import frame_previews, images
from searchdb.media.embed import CLIPEmbedder


class StoredVideos:
    """Stores the frames of videos with the vectors of texts, so that searches for the texts find them."""

    def __init__(self, database: Database, embedder: CLIPEmbedder) -> None:
        self._database = database
        self._embedder = embedder

    def add(
        self,
        video: Path | str,
        frames: Mapping[float, str],
        *,
        duration: float | None = 60.0,
        codec: str = "h264",
        previews: bool = True,
        **columns: Any,
    ) -> list[int]:
        """Store one frame at each time, as similar to its text as a picture can be; return their ids in time order."""
        is_file = not str(video).startswith("http") and Path(video).is_file()
        content = Path(video).read_bytes() if is_file else str(video).encode()
        vectors = self._embedder.embed_texts(list(frames.values()))
        ids: list[int] = []
        with self._database.begin() as connection:
            model = claim_model(connection, self._embedder.identity)
            for (time, text), vector in zip(frames.items(), vectors, strict=True):
                row = {
                    "image": f"{video}#t={time:g}",
                    "source": "files" if is_file else "urls",
                    "video": str(video),
                    "video_time": time,
                    "metadata": {"video": str(video), "time": time, "duration": duration, "codec": codec},
                    "embedding": vector,
                    "embedding_model_id": model,
                    "sha256": hashlib.sha256(content).digest(),
                    "byte_size": len(content),
                    "width": 320,
                    "height": 240,
                }
                statement = sa.insert(images).values(row | columns).returning(images.c.id)
                ids.append(connection.execute(statement).scalar_one())
                if previews:
                    preview = {"image_id": ids[-1], "webp": webp(text)}
                    connection.execute(sa.insert(frame_previews).values(preview))
        return ids


def webp(text: str) -> bytes:
    """Return a preview in a colour of its own."""
    encoded = BytesIO()
    colour = tuple(hashlib.sha256(text.encode()).digest()[:3])
    Image.new("RGB", (320, 240), colour).save(encoded, "WEBP")
    return encoded.getvalue()
