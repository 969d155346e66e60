"""Writes the files that programs put beside images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmp:Rating="%(rating)d"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">%(text)s</rdf:li></rdf:Alt>
</dc:description><dc:subject><rdf:Bag><rdf:li>%(keyword)s</rdf:li></rdf:Bag></dc:subject></rdf:Description></rdf:RDF>
</x:xmpmeta>"""


def xmp(*, rating: int = 3, text: str = "from XMP", keyword: str = "lake") -> str:
    """Return a sidecar's content."""
    return _XMP % {"rating": rating, "text": text, "keyword": keyword}


def takeout(*, text: str = "from Takeout") -> str:
    """Return the JSON of a photo taken in 2020."""
    return json.dumps({"description": text, "photoTakenTime": {"timestamp": "1600000000"}})


def write_xmp(path: Path, **said: Any) -> None:
    """Write a sidecar that says what `xmp` takes."""
    path.write_text(xmp(**said))


def write_takeout(path: Path, **said: Any) -> None:
    """Write a photo's JSON that says what `takeout` takes."""
    path.write_text(takeout(**said))
