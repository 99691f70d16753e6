"""The places a journal can write to: which one is taken, and what it promises."""

import errno
import os
from pathlib import Path

import pytest

from clearstone.record import layout, segments
from clearstone.record.segments import Segment

MOUNTS = [
    "22 27 0:21 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw",
    "23 27 0:22 / /home rw - btrfs /dev/vdb rw",
    "24 27 0:23 / /home/nfs rw - nfs4 server:/ rw",
    r"25 27 0:24 / /mnt/a\040disk rw - xfs /dev/vdc rw",
    "26 27 0:25 / /dönerdisk rw - zfs pool rw",
    "a line that means nothing",
]


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"), ("/homework", "ext4"), ("/home/me", "btrfs"), ("/home/nfs/x", "nfs4"), ("/home/nfsx", "btrfs"),
        ("/mnt/a disk/x", "xfs"), ("/dönerdisk/x", "zfs"),
    ],
)  # fmt: skip
def test_the_file_system_of_a_folder_is_that_of_its_nearest_mount(folder: str, kind: str) -> None:
    assert segments.file_system(Path(folder), MOUNTS) == kind
    assert segments.file_system(Path(folder), []) == ""


@pytest.mark.parametrize(
    ("kind", "place"), [("ext4", "mapped"), ("btrfs", "written"), ("nfs4", "written"), ("", "written")]
)
def test_only_a_local_file_system_that_writes_in_place_is_mapped(
    kind: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "file_system", lambda *_: kind)
    assert segments.place_for(tmp_path) == place


def test_an_overlay_over_a_file_system_that_copies_on_write_is_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "file_system", lambda *_: "overlay")
    assert segments.place_for(tmp_path) == "mapped"
    counts = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result([*counts[:5], 0, *counts[6:]]))
    assert segments.place_for(tmp_path) == "written"


def test_a_link_to_another_file_system_counts_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    asked: list[Path] = []

    def file_system(folder: Path, _: object) -> str:
        asked.append(folder)
        return "ext4"

    monkeypatch.setattr(segments, "file_system", file_system)
    segments.place_for(tmp_path / "link")
    assert asked == [target.resolve()]


@pytest.fixture(params=["mapped", "written"])
def segment(request: pytest.FixtureRequest, tmp_path: Path) -> Segment:
    return segments.in_file(tmp_path / "1.segment", 1 << 20, request.param)


def test_a_segment_reads_what_was_written_and_nothing_after_it_is_cleared(segment: Segment) -> None:
    segment.data[100:105] = b"bytes"
    segment.put(40, b"a record")
    assert segment.read(100, 105) == b"bytes"
    assert segment.read(40, 56) == layout.framed(b"a record")
    before, segment = segment, segment.renewed()
    segment.clear()
    assert segment.read(0, segment.size) == bytes(segment.size)
    assert before.read(0, before.size) == b""
    assert segment.path is not None
    assert segment.inode == segment.path.stat().st_ino
    segment.remove()
    segment.close()
    assert not segment.path.exists()


@pytest.mark.parametrize("place", ["mapped", "written"])
def test_a_file_without_room_leaves_neither_file_nor_descriptor(
    place: segments.Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="full"):
        segments.in_file(tmp_path / "1.segment", 1 << 20, place)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == []


def test_without_fallocate_the_blocks_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    segment = segments.in_file(tmp_path / "1.segment", 3 << 20, "mapped")
    assert (tmp_path / "1.segment").stat().st_blocks * 512 >= 3 << 20
    segment.remove()
