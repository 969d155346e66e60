"""Files in the format of the Unsplash Lite dataset, with made-up content: whole datasets, single parts, zips."""

from __future__ import annotations

import csv
import io
import random
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from searchdb.unsplash.columns import FORMATS

WORDS = (
    "dune",
    "harbour",
    "ferry",
    "lantern",
    "orchard",
    "glacier",
    "tram",
    "heron",
    "attic",
    "meadow",
    "quay",
    "kiln",
)


def photo(number: int = 1, **values: Any) -> dict[str, Any]:
    """Return a row of photos; photo 1 has the id `photo000001`."""
    name = f"photo{number:06}"
    return {
        "photo_id": name,
        "photo_url": f"https://unsplash.com/photos/{name}",
        "photo_image_url": f"https://images.unsplash.com/{name}-raw",
        "photo_submitted_at": "2019-03-04 05:06:07.123456",
        "photo_featured": "t",
        "photo_width": 6000,
        "photo_height": 4000,
        "photo_aspect_ratio": 1.5,
        "photo_description": f"picture {number}",
        "photographer_username": f"user_{number}",
        "photographer_first_name": "Ann",
        "photographer_last_name": f"Example {number}",
        "stats_views": 10_000_000_000 + number,
        "stats_downloads": number,
        **values,
    }


def keyword(number: int, word: str, **values: Any) -> dict[str, Any]:
    """Return a row of keywords for photo `number`."""
    return {"photo_id": f"photo{number:06}", "keyword": word, "suggested_by_user": "f", **values}


def conversion(number: int, word: str, second: int = 0, **values: Any) -> dict[str, Any]:
    """Return a row of conversions for photo `number`."""
    return {
        "converted_at": f"2020-01-01 {second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}.5",
        "conversion_type": "download",
        "keyword": word,
        "photo_id": f"photo{number:06}",
        "anonymous_user_id": f"anonymous-{second}",
        "conversion_country": "XX",
        **values,
    }


def text(
    table: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    delimiter: str = "\t",
    end: str = "\n",
    quoting: Literal[0, 1] = csv.QUOTE_MINIMAL,
) -> str:
    """Return the text of a part with these columns, by default the table's own."""
    file = io.StringIO(newline="")
    names = list(FORMATS[table].columns) if columns is None else columns
    writer = csv.DictWriter(
        file, names, delimiter=delimiter, lineterminator=end, quoting=quoting, extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def write(folder: Path, name: str, rows: Iterable[Mapping[str, Any]], **options: Any) -> Path:
    """Write a part whose table is in its name, such as photos.tsv000."""
    path = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text(name.split(".")[0], rows, **options), encoding="utf-8", newline="")
    return path


def write_dataset(folder: Path, photos: int = 5, *, keywords_each: int = 3, seed: int = 7) -> Path:
    """Write a small dataset with two parts of photos, and one of every other table; return its folder."""
    choose = random.Random(seed)
    numbers = range(1, photos + 1)
    words = {n: choose.sample(WORDS, keywords_each) for n in numbers}
    write(folder, "photos.tsv000", (photo(n) for n in numbers[: photos // 2]))
    write(folder, "photos.tsv001", (photo(n) for n in numbers[photos // 2 :]))
    write(
        folder,
        "keywords.tsv000",
        (
            keyword(n, word, ai_service_1_confidence=round(choose.uniform(0, 100), 3))
            for n in numbers
            for word in words[n]
        ),
    )
    write(
        folder,
        "collections.tsv000",
        (
            {"photo_id": f"photo{n:06}", "collection_id": n % 3, "collection_title": f"Collection {n % 3}"}
            for n in numbers
        ),
    )
    write(
        folder,
        "colors.tsv000",
        (
            {"photo_id": f"photo{n:06}", "hex": "A0B1C2", "red": 160, "ai_coverage": 0.25, "ai_score": 0.5}
            for n in numbers
        ),
        columns=["photo_id", "hex", "red", "green", "blue", "keyword", "ai_coverage", "ai_score"],
    )
    write(folder, "conversions.tsv000", (conversion(n, words[n][0], n) for n in numbers))
    return folder


def zipped(folder: Path, archive: Path, *, inside: str = "") -> Path:
    """Zip a folder's files, below the folder `inside` of the zip; return the zip."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"{inside}{path.name}")
            file.writestr(f"__MACOSX/{inside}._{path.name}", b"\0\5\x16\7")
    return archive


def many_keywords(path: Path, rows: int, *, each: int = 100) -> Path:
    """Write a part of keywords with that many rows, `each` a photo, without holding them in memory; return its path."""

    def generated() -> Iterator[str]:
        yield "\t".join(FORMATS["keywords"].columns) + "\n"
        for n in range(rows):
            word = f"{WORDS[n % len(WORDS)]} {n % each}"
            yield f"photo{n // each:06}\t{word}\t{n % 1000 / 10}\t\tf\t\tt\tf\n"

    with path.open("w", encoding="utf-8") as file:
        file.writelines(generated())
    return path
