"""Reports what an export wrote and what failed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from searchdb.records import mask_credentials


@dataclass(frozen=True, kw_only=True)
class ExportFailure:
    """One image that could not be exported: its id and reference, the class of the error, and its message."""

    id: int
    image: str
    error: str
    message: str

    @classmethod
    def of(cls, image_id: int, image: str, error: Exception) -> ExportFailure:
        """Make the failure of an image from the error."""
        return cls(id=image_id, image=mask_credentials(image), error=type(error).__name__, message=str(error))


@dataclass(kw_only=True)
class ExportReport:
    """What an export did.

    Attributes:
        target: the file or folder; `-` for a stream.
        format: csv, tsv, jsonl, parquet, npz, html or folder.
        exported: images that were written; of a contact sheet also those of which there is no thumbnail.
        unchanged: files that were in the folder already.
        failed: the images of which a file or a thumbnail is missing.
    """

    target: str
    format: str
    exported: int = 0
    unchanged: int = 0
    failed: list[ExportFailure] = field(default_factory=list[ExportFailure])

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)
