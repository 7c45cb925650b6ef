import os
from pathlib import Path

import pytest

from nota_cli.errors import DataError, NotaError, UsageError
from nota_cli.files import atomic_folder, atomic_path, check_writable, refuse_lfs_pointer, sweep, write_text


def test_a_file_appears_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    write_text(target, "ä\n")
    assert target.read_bytes() == "ä\n".encode()
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def crash() -> None:
        with atomic_path(target) as part:
            part.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole_in_the_place_of_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("old", "new"):
        with atomic_folder(target) as part:
            (part / name).write_text("")
    assert [path.name for path in target.iterdir()] == ["new"]

    def crash() -> None:
        with atomic_folder(target) as part:
            (part / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_checking_leaves_nothing_behind_and_refuses_a_folder(tmp_path: Path) -> None:
    check_writable(tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="it is a folder"):
        check_writable(tmp_path)


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        write_text(tmp_path, "text")
    assert not list(tmp_path.iterdir())


def test_links_are_followed_and_devices_left_alone(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "real" / "file").read_text() == "text"
    assert (tmp_path / "link").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    for write in (check_writable, lambda target: write_text(target, "text")):
        with pytest.raises(UsageError, match="no plain file"):
            write(tmp_path / "pipe")


def test_sweeping_takes_what_is_ours_alone(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.csv") as part:
        left = part.name
    others = {"a.csv", ".b.csv.abcd1234.part", ".a.csv.abcd1234.part.txt", ".a.csv.not-ours-at-all.part"}
    for name in {left, *others}:
        (tmp_path / name).touch()
    sweep(tmp_path / "a.csv")
    assert {path.name for path in tmp_path.iterdir()} == others


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write .*file/a\.txt"), atomic_path(tmp_path / "file" / "a.txt"):
        pass


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 604128\n"


@pytest.mark.parametrize("text", [POINTER, "\ufeff" + POINTER, POINTER.replace("\n", "\r\n"), "\n" + POINTER])
def test_a_git_lfs_pointer_is_named_with_its_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "weights.bin").write_bytes(text.encode())
    with pytest.raises(NotaError, match=r"weights\.bin is a Git LFS pointer.*`git lfs pull`"):
        refuse_lfs_pointer(tmp_path / "weights.bin")
    with pytest.raises(DataError, match="Git LFS pointer"):
        refuse_lfs_pointer("rows.csv", text.encode(), DataError)


def test_other_files_and_absent_ones_are_no_pointers(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"version": "https://git-lfs.github.com/spec/v1"}')
    for path in (tmp_path / "a.json", tmp_path / "absent", tmp_path):
        refuse_lfs_pointer(path)
