"""Every way of calling match_images that has to use the vector index."""

from __future__ import annotations

from typing import LiteralString

CALLS: dict[str, LiteralString] = {
    "by position": "SELECT * FROM match_images(%(v)s, %(t)s, %(c)s)",
    "by name": "SELECT * FROM match_images(query_embedding => %(v)s, match_threshold => %(t)s, match_count => %(c)s)",
    "sub-select": "SELECT * FROM match_images((SELECT embedding FROM images WHERE image = '/5'), %(t)s, %(c)s)",
    "lateral": (
        "SELECT m.* FROM images i CROSS JOIN LATERAL match_images(i.embedding, %(t)s, %(c)s) m WHERE i.image = '/5'"
    ),
    "joined": "SELECT m.* FROM match_images(%(v)s, %(t)s, %(c)s) m JOIN images i USING (id) WHERE i.width > 0",
}
