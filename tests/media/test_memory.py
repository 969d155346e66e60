"""The memory budget, and that the estimates of what decoding takes are upper bounds."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from searchdb.errors import MemoryBusyError, TooMuchMemoryError
from searchdb.media.decode import decode
from searchdb.media.embed import CLIPEmbedder
from searchdb.media.memory import Hold, MemoryBudget
from searchdb.media.pixels import WHOLE_PIXELS, reduction, to_rgb
from searchdb.records import FetchedImage, SourceItem
from tests.helpers.large_images import LARGE_IMAGES
from tests.helpers.waiting import GIVE_UP_S, until

ROOT = Path(__file__).parents[2]


def fetched(data: bytes) -> FetchedImage:
    return FetchedImage(item=SourceItem(image="x", source="test"), data=data)


def test_who_asked_first_is_served_first() -> None:
    budget = MemoryBudget(10)
    order: list[str] = []

    def use(name: str, size: int) -> None:
        with budget.reserve(size):
            order.append(name)

    with ThreadPoolExecutor(2) as threads, budget.reserve(8):
        large = threads.submit(use, "large", 9)
        until(lambda: budget.waiting == 1, "the first")
        small = threads.submit(use, "small", 2)  # would fit, but would keep the large one waiting
        until(lambda: budget.waiting == 2, "the second")
        assert order == []
    for done in (large, small):
        done.result(GIVE_UP_S)
    assert order == ["large", "small"]
    assert budget.used == 0


def test_a_wait_for_memory_ends() -> None:
    budget = MemoryBudget(10)
    with budget.reserve(6):
        with pytest.raises(MemoryBusyError, match="SEARCHDB_DECODE_MEMORY"), budget.reserve(5, timeout_s=0.01):
            pass
        with budget.reserve(4, timeout_s=0):  # who gave up is not waited for
            assert budget.used == 10
    with Hold(budget, timeout_s=0) as hold:
        hold.take(100)  # more than there is: alone
        hold.shrink(3)
        assert budget.used == 3
        hold.take(10)
        assert budget.used == 10
    assert budget.used == 0


def test_decoding_is_refused_or_waits_before_pixels_exist() -> None:
    data = LARGE_IMAGES["webp lossless"](4000, 3000)
    with pytest.raises(TooMuchMemoryError, match=r"WEBP of 4,000 x 3,000 pixels takes .* \(SEARCHDB_DECODE_MEMORY\)"):
        decode(fetched(data), max_pixels=10**8, memory=MemoryBudget(100_000_000))
    budget = MemoryBudget(400_000_000)
    with budget.reserve(300_000_000), pytest.raises(MemoryBusyError):
        decode(fetched(data), max_pixels=10**8, memory=budget, timeout_s=0)
    decode(fetched(data), max_pixels=10**8, memory=budget, timeout_s=0)
    assert budget.used == 0


@pytest.mark.parametrize("kind", ["webp", "webp alpha", "webp lossless", "gif", "gif animated"])
def test_formats_that_allocate_on_opening_are_refused_before(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: object, **options: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("searchdb.media.decode.open_image", opened)
    with pytest.raises(TooMuchMemoryError):
        decode(fetched(LARGE_IMAGES[kind](2000, 2000)), max_pixels=10**8, memory=MemoryBudget(8_000_000))


MEASURE = """
import json, os, resource, sys
import numpy
from PIL import Image, ImageCms
from searchdb.media import pixels
pixels.WHOLE_PIXELS, pixels.STRIP_PIXELS = 1_200_000, 50_000
from searchdb.media.decode import decode
from searchdb.media.memory import MemoryBudget
from searchdb.records import FetchedImage, SourceItem
from tests.helpers.large_images import LARGE_IMAGES

class Asked(MemoryBudget):
    def reserve(self, size, **options):
        self.size = size
        return super().reserve(size, **options)

width, height, kinds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
for kind in kinds:
    read_end, write_end = os.pipe()
    encoder = os.fork()  # a process of its own, whose memory is not measured
    if not encoder:
        os.close(read_end)
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(LARGE_IMAGES[kind](width, height))
        os._exit(0)
    os.close(write_end)
    data = open(read_end, "rb").read()
    os.waitpid(encoder, 0)
    decoder = os.fork()
    if not decoder:
        before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
        memory = Asked(10**11)
        image = FetchedImage(item=SourceItem(image="x", source="x"), data=data)
        decode(image, max_pixels=10**9, needed=224, memory=memory)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        peak += resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024  # of a helper
        print(json.dumps([kind, memory.size, peak]), flush=True)
        os._exit(0)
    os.waitpid(decoder, 0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_decoding_takes_is_at_most_the_estimate() -> None:
    """Each format and mode, of more pixels than are kept whole. Most of the time goes into encoding."""
    kinds = list(LARGE_IMAGES)
    run = [sys.executable, "-c", MEASURE, "1500", "1300", *kinds]
    output = subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True, timeout=10 * GIVE_UP_S).stdout
    measured = [json.loads(line) for line in output.splitlines()]
    assert [kind for kind, _, _ in measured] == kinds
    assert [each for each in measured if each[2] > each[1]] == []
    # Three times as much, and what a helper and the conversion may take, is what small buffers differ by.
    assert [each for each in measured if each[1] > 3 * each[2] + 30_000_000] == []


@pytest.mark.slow
def test_a_large_image_is_reduced_while_it_is_converted(embedder: CLIPEmbedder) -> None:
    """Every mode: the colours are those of the whole image, and its vector is that of the whole image."""
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    scene = small.resize((4200, 3000), Image.Resampling.BICUBIC)
    assert scene.width * scene.height > WHOLE_PIXELS
    buffer = BytesIO()
    scene.save(buffer, "BMP")
    needed = embedder.shortest_edge
    whole = decode(fetched(buffer.getvalue()), max_pixels=10**8)
    reduced = decode(fetched(buffer.getvalue()), max_pixels=10**8, needed=needed)
    assert (reduced.width, reduced.height) == (whole.width, whole.height) == scene.size
    assert 3 * needed <= min(reduced.pixels.size) < 4 * needed
    vectors = embedder.embed_images([whole.pixels, reduced.pixels])
    assert float(vectors[0] @ vectors[1]) > 0.9995
    colours = [np.array(list(bytes.fromhex((each.colour or "")[1:])), int) for each in (whole, reduced)]
    assert np.abs(colours[0] - colours[1]).max() <= 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "CMYK", "LAB", "I;16", "I", "F"])
def test_strips_give_what_the_whole_gives(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    if mode in ("I;16", "I", "F"):
        numbers = rng.integers(0, 65536, (50, 70)) - (9 if mode == "F" else 0)
        image = Image.fromarray(numbers.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    elif mode == "LAB":
        image = Image.frombytes("LAB", (70, 50), rng.bytes(70 * 50 * 3))
    else:
        image = Image.fromarray(rng.integers(0, 256, (50, 70, 4), dtype=np.uint8), "RGBA").convert(mode)
    whole = to_rgb(image)
    monkeypatch.setattr("searchdb.media.pixels.STRIP_PIXELS", 36)  # less than a row
    assert to_rgb(image).tobytes() == whole.tobytes()
    assert to_rgb(image, factor=3).tobytes() == whole.reduce(3).tobytes()


def test_no_result_is_larger_than_an_image_that_is_kept_whole() -> None:
    for size in ((10_000, 10_000), (100_000, 1_000), (1_000_000, 100), (100_000_000, 1), (4_000, 3_001)):
        factor = reduction(size, 224)
        assert -(-size[0] // factor) * -(-size[1] // factor) <= WHOLE_PIXELS * 1.1 or min(size) < factor
    assert reduction((4_000, 3_000), 224) == 1
    assert reduction((100_000, 1_000), 224) == 3
