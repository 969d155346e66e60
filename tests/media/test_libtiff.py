"""libtiff's own messages do not reach stderr."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from searchdb.errors import DamagedImageError
from searchdb.media.decode import decode
from searchdb.records import FetchedImage, SourceItem


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_lzw"])
def test_a_damaged_tiff_prints_nothing(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    buffer = BytesIO()
    noise = np.random.default_rng(15).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(buffer, "TIFF", compression=compression)
    whole = buffer.getvalue()
    with TiffImagePlugin.TiffImageFile(BytesIO(whole)) as opened:
        start = opened.tag_v2[TiffImagePlugin.STRIPOFFSETS][0]
    damaged = whole[:start] + bytes([255]) * 32 + whole[start + 32 :]
    fetched = FetchedImage(item=SourceItem(image="/a.tif", source="files"), data=damaged)
    with pytest.raises(DamagedImageError, match="TIFF"):
        decode(fetched, max_pixels=1_000_000)
    assert capfd.readouterr().err == ""
