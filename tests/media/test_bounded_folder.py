"""A folder of files has a bound in bytes, which threads and processes cannot pass together, also after a restart."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from searchdb.errors import UnsafeFolderError
from searchdb.media import bounded_folder
from searchdb.media.bounded_folder import BLOCK, BoundedFolder

FITTING = 10
"""Files that fit into the folders of these tests."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def folder_in(home: Path) -> BoundedFolder:
    """The folder as another process sees it."""
    return BoundedFolder(home / "files", FITTING * BLOCK)


def write(folder: BoundedFolder, number: int, data: bytes = b"x", *, prune: bool = False) -> bool:
    return folder.write(path(folder, number), data, prune=prune)


def path(folder: BoundedFolder, number: int) -> Path:
    return folder.path(hashlib.sha256(str(number).encode()).digest(), ".bin")


def files(home: Path) -> list[Path]:
    return [path for path in (home / "files").rglob("*") if path.is_file()]


def write_many(home: Path, numbers: range) -> int:
    folder = folder_in(home)
    return sum(write(folder, number) for number in numbers)


def test_small_files_count_as_whole_blocks_and_deleting_frees_them(home: Path) -> None:
    folder = folder_in(home)
    assert folder.size == 0
    assert [write(folder, number) for number in range(FITTING + 1)] == [True] * FITTING + [False]
    assert (folder.size, folder.has_room(1), len(files(home))) == (FITTING * BLOCK, False, FITTING)
    folder.delete(path(folder, 0))
    folder.delete(path(folder, 0))
    assert folder.has_room(BLOCK)
    assert not folder.has_room(BLOCK + 1)
    assert not write(folder, 0, b"x" * (BLOCK + 1))
    assert write(folder, 1, b"y" * BLOCK), "replaced a file"
    assert write(folder, 0)
    assert folder.size == FITTING * BLOCK
    assert folder.read(path(folder, 1)) == b"y" * BLOCK
    assert folder.read(path(folder, 99)) is None


def test_threads_and_processes_do_not_pass_the_bound_together(home: Path) -> None:
    with multiprocessing.get_context("forkserver").Pool(3) as processes:
        shares = [processes.apply_async(write_many, (home, range(n * 20, n * 20 + 20))) for n in range(3)]
        folder = folder_in(home)
        with ThreadPoolExecutor(8) as threads:
            written = sum(threads.map(lambda number: write(folder, number), range(100, 130)))
        written += sum(share.get() for share in shares)
    assert written == len(files(home)) == FITTING
    assert folder_in(home).size == FITTING * BLOCK


@pytest.mark.parametrize("noted", [None, "", "nonsense", "0", "99999999999999"])
def test_a_new_process_counts_what_is_there(home: Path, noted: str | None) -> None:
    before = folder_in(home)
    for number in range(FITTING - 1):
        write(before, number)
    total = home / "files.total"
    if noted is None:
        total.unlink()
    else:
        total.write_text(noted)
    (path(before, 0).parent / "killed.tmp").write_bytes(b"half a file" * BLOCK)
    assert [write(folder_in(home), number) for number in (50, 51)] == [True, False]
    assert len(files(home)) == FITTING, "without the file of the killed writer"


def test_files_that_a_person_deletes_are_noticed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_in(home)
    for number in range(FITTING):
        write(folder, number)
    path(folder, 3).unlink()
    assert not folder.has_room(1), "counted a moment ago"
    monkeypatch.setattr(bounded_folder, "COUNT_AGAIN_S", 0.0)
    assert folder.has_room(1)
    assert write(folder, 50)


def test_with_pruning_the_oldest_make_room(home: Path) -> None:
    folder = folder_in(home)
    for number in range(50):
        assert write(folder, number, prune=True)
        os.utime(path(folder, number), (number, number))
        assert len(files(home)) * BLOCK <= folder.max_bytes
    assert path(folder, 49).exists()
    assert sorted(file.stat().st_mtime for file in files(home)) == list(range(50 - len(files(home)), 50))
    assert not write(folder, 99, b"x" * (FITTING + 1) * BLOCK, prune=True)


def test_a_folder_that_others_can_write_is_not_used(home: Path) -> None:
    folder = folder_in(home)
    write(folder, 1)
    home.chmod(0o777)
    with pytest.raises(UnsafeFolderError, match="writable by everyone"):
        write(folder, 2)
    home.chmod(0o755)
    target = home / "target"
    target.write_bytes(b"secret")
    path(folder, 2).parent.mkdir(exist_ok=True)
    path(folder, 2).symlink_to(target)
    assert folder.read(path(folder, 2)) is None
    assert write(folder, 2)
    assert target.read_bytes() == b"secret"


def test_a_link_leads_to_the_home_and_none_out_of_it(home: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    home.symlink_to(tmp_path / "disk")
    assert write(folder_in(home), 1)
    assert len(files(tmp_path / "disk")) == 1
    (tmp_path / "disk" / "linked").symlink_to(tmp_path)
    with pytest.raises(UnsafeFolderError, match="is a link"):
        write(BoundedFolder(home / "linked", FITTING * BLOCK), 1)
