"""Combines what several sources say about one image."""

from __future__ import annotations

from dataclasses import replace

from searchdb.media.written.keywords import united
from searchdb.media.written.times import weakness
from searchdb.records import WrittenMetadata

_SINGLE = ("title", "description", "rating", "label", "creator", "copyright", "camera", "country", "city")


def combine(first: WrittenMetadata, *others: WrittenMetadata) -> WrittenMetadata:
    """Return what the first source that says something says, for each field.

    Latitude and longitude are of one source, and `taken_at_from` belongs to `taken_at`. Of the times, one of a better
    kind comes first: when an image was taken, before when it was digitized, before when its file was changed. Keywords
    are united in the order of the sources.
    """
    every = (first, *others)
    chosen = {
        name: next((value for each in every if (value := getattr(each, name)) is not None), None) for name in _SINGLE
    }
    dated = min((each for each in every if each.taken_at), key=lambda each: weakness(each.taken_at_from), default=first)
    located = next((each for each in every if each.latitude is not None and each.longitude is not None), first)
    return WrittenMetadata(
        **chosen,
        keywords=united(*(each.keywords for each in every)),
        taken_at=dated.taken_at,
        taken_at_from=dated.taken_at_from,
        latitude=located.latitude,
        longitude=located.longitude,
    )


def combine_within_file(
    *, exif: WrittenMetadata, iptc: WrittenMetadata, xmp: WrittenMetadata, texts: WrittenMetadata
) -> WrittenMetadata:
    """Return what one file says in its blocks; `texts` are those of a PNG.

    People's words: XMP before IPTC before EXIF, because that is the order in which programs of today edit them, and
    older blocks go stale. What the camera measured (time, camera, place): EXIF first, because the camera wrote it
    there, and other blocks have copies of it, often without the offset of the time or with rounded numbers.
    """
    measured = combine(exif, xmp, iptc)
    return replace(
        combine(xmp, iptc, exif, texts),
        taken_at=measured.taken_at,
        taken_at_from=measured.taken_at_from,
        camera=measured.camera,
        latitude=measured.latitude,
        longitude=measured.longitude,
    )
