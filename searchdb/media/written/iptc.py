"""Reads the metadata from an IPTC-IIM block, as Photoshop has written it into JPEGs and TIFFs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from searchdb.media.written import text
from searchdb.media.written.keywords import flat, united
from searchdb.media.written.times import iptc_time, is_plausible
from searchdb.records import WrittenMetadata

MAX_DATASETS = 2000
"""Datasets that are read of one block: an image has some dozens, most of them keywords."""

_MARKER = 0x1C
_LONGEST_SHORT = 0x7FFF
"""Lengths above it tell how many bytes the actual length has."""
_CHARSET, _UTF_8 = (1, 90), b"\x1b%G"
_TITLE, _HEADLINE, _CAPTION, _KEYWORD = (2, 5), (2, 105), (2, 120), (2, 25)
_BYLINE, _COPYRIGHT, _CITY, _COUNTRY = (2, 80), (2, 116), (2, 90), (2, 101)
_DATE, _TIME = (2, 55), (2, 60)


def read_iptc(block: bytes) -> WrittenMetadata:
    """Return what a block says, up to its first malformed dataset."""
    values: dict[tuple[int, int], list[bytes]] = defaultdict(list)
    for number, value in _datasets(block):
        values[number].append(value)
    is_utf_8 = values[_CHARSET][:1] == [_UTF_8]

    def texts(number: tuple[int, int]) -> list[str]:
        return [each.decode("utf-8", "replace") if is_utf_8 else text.decoded(each) for each in values[number]]

    def first(number: tuple[int, int]) -> str:
        return next(iter(texts(number)), "")

    taken_at = iptc_time(first(_DATE).strip(), first(_TIME).strip())
    taken_at = taken_at if taken_at is not None and is_plausible(taken_at) else None
    return WrittenMetadata(
        title=text.title(first(_TITLE)) or text.title(first(_HEADLINE)),
        description=text.description(first(_CAPTION)),
        keywords=united(flat(texts(_KEYWORD), "|")),
        creator=text.one_line(", ".join(texts(_BYLINE))),
        copyright=text.one_line(first(_COPYRIGHT)),
        taken_at=taken_at,
        taken_at_from=None if taken_at is None else "DateCreated",
        country=text.name(first(_COUNTRY)),
        city=text.name(first(_CITY)),
    )


# Pillow's IptcImagePlugin gives nothing of a block with one malformed dataset, and has no limit.
def _datasets(block: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yield (record, dataset) and the value of each dataset; the value is cut to what a text may need."""
    start = 0
    for _ in range(MAX_DATASETS):
        header = block[start : start + 5]
        if len(header) < 5 or header[0] != _MARKER:
            return
        start += 5
        length = int.from_bytes(header[3:], "big")
        if length > _LONGEST_SHORT:
            size = length & _LONGEST_SHORT
            if size > 4:
                return
            length = int.from_bytes(block[start : start + size], "big")
            start += size
        if start + length > len(block):
            return
        yield (header[1], header[2]), block[start : start + min(length, text.MAX_ENCODED_BYTES)]
        start += length
