"""How much faster is ingest than the copied recipe: one picture at a time, processor, float32, one row, one commit?

Both sides use the demo's small CLIP on pictures of the demo album.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import torch
from pgvector.psycopg import register_vector
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.report import interleaved, table
from searchdb.collection import SearchDB
from searchdb.demo.album import draw_album
from searchdb.embed import DEMO_FOLDER

PICTURES, QUICK_PICTURES = 1_000, 200
ROUNDS = 3


def measure(collection: SearchDB, folder: Path, *, quick: bool) -> tuple[dict[str, float], str]:
    """Return the figures and a table of them."""
    count = QUICK_PICTURES if quick else PICTURES
    draw_album(folder, count)
    paths = sorted(folder.glob("*.jpg"))
    processor = CLIPImageProcessorPil.from_pretrained(DEMO_FOLDER)
    model: Any = CLIPModel.from_pretrained(DEMO_FOLDER, dtype=torch.float32).eval()
    collection.embedder.load()

    with psycopg.connect(collection.database.libpq_url) as connection:
        register_vector(connection)
        connection.execute("CREATE TABLE recipe_ingest (image text, embedding vector(512))")

        def recipe() -> None:
            connection.execute("TRUNCATE recipe_ingest")
            for path in paths:
                with Image.open(path) as picture:
                    inputs = processor(images=picture.convert("RGB"), return_tensors="pt")
                with torch.inference_mode():
                    features = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
                vector = torch.nn.functional.normalize(features, dim=-1)[0].numpy()
                connection.execute("INSERT INTO recipe_ingest VALUES (%s, %s)", [str(path), vector])
                connection.commit()

        def ours() -> None:
            collection.store.delete_source("files")
            report = collection.ingest_files(*paths)
            if report.stored != count:
                raise RuntimeError(report.in_words())

        seconds = interleaved({"recipe": recipe, "ours": ours}, ROUNDS)
    ratio = seconds["recipe"] / seconds["ours"]
    shown = {
        "recipe / ingest": f"{ratio:.1f} x",
        "pictures/s": ", ".join(f"{name} {count / value:.0f}" for name, value in seconds.items()),
    }
    return {"ingest_vs_recipe": ratio}, table(f"ingest, {count:,} pictures, the demo's model", shown)
