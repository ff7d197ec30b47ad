"""One shard's samples by their places."""

import tarfile
from io import BytesIO

import pytest

from c2srt.shard_reader import as_packed, misplaced


def header(name: str, form: int, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.uname, member.mode = size, "c2srt", 0o644
    return member.tobuf(form)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_header_is_recognised_without_tarfile_wherever_tarfile_does(form):
    block = header("00aa.jpg", form, 123_456)
    assert as_packed(block, "00aa.jpg", 123_456) and misplaced(block, "00aa.jpg", 123_456) == ""
    assert not as_packed(block, "00aa.json", 123_456) and not as_packed(block, "00aa.jpg", 1)
    for place in range(len(block)):
        damaged = bytearray(block)
        damaged[place] ^= 1
        assert not as_packed(bytes(damaged), "00aa.jpg", 123_456)


@pytest.mark.parametrize("change", [{"type": tarfile.DIRTYPE}, {"name": "x/00aa.jpg"}, {"size": 8}])
def test_a_sound_header_of_something_else_is_told(change):
    member = tarfile.TarInfo("00aa.jpg")
    for name, value in change.items():
        setattr(member, name, value)
    block = member.tobuf(tarfile.USTAR_FORMAT)
    assert not as_packed(block, "00aa.jpg", 0) and misplaced(block, "00aa.jpg", 0)


def test_a_header_in_two_parts_is_told():
    """ustar cuts a long name at a slash: name alone is not all of it."""
    member = tarfile.TarInfo("y" * 90 + "/" + "00aa.jpg" + "z" * 60)
    block = member.tobuf(tarfile.USTAR_FORMAT)
    assert not as_packed(block, "00aa.jpg" + "z" * 60, 0)
    assert misplaced(block, "00aa.jpg" + "z" * 60, 0).startswith("has 'yyy")


def test_a_long_name_stands_before_its_header(tmp_path):
    """Its own header has the first 100 bytes."""
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo("n" * 190 + ".jpg")
        member.size = 3
        tar.addfile(member, BytesIO(b"abc"))
    content = (tmp_path / "x.tar").read_bytes()
    at = content.index(b"abc")
    assert misplaced(content[at - 512 : at], "n" * 190 + ".jpg", 3) == ""
