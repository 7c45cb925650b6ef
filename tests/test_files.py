import errno
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nota_cli.errors import DataError, NotaError, UsageError
from nota_cli.files import (
    atomic_folder,
    atomic_path,
    check_writable,
    copy_folder,
    refuse_lfs_pointer,
    sweep,
    write_text,
)
from nota_cli.inference.journal import Entry, Journal


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


def refuse(number: int) -> Callable[..., None]:
    def call(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), *map(str, arguments[:1]))

    return call


@pytest.fixture(params=[errno.EPERM, errno.ENOTSUP, errno.ENOSYS], ids=["EPERM", "ENOTSUP", "ENOSYS"])
def lean(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system as CIFS, gcsfuse and S3 mounts are: no modes, no times, no syncing, no locks, no links."""
    for name in ("chmod", "fchmod", "utime", "fsync", "link", "symlink", "chown"):
        monkeypatch.setattr(os, name, refuse(request.param))
    monkeypatch.setattr("fcntl.lockf", refuse(errno.ENOLCK))
    monkeypatch.setattr("fcntl.flock", refuse(errno.ENOLCK))


@pytest.mark.usefixtures("lean")
def test_a_file_system_that_refuses_niceties_gets_the_files(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "a.csv")
    write_text(tmp_path / "new" / "a.csv", "one\n")
    write_text(tmp_path / "new" / "a.csv", "two\n")
    assert (tmp_path / "new" / "a.csv").read_text() == "two\n"
    for round_ in range(2):
        with atomic_folder(tmp_path / "folder") as part:
            copy_folder(tmp_path / "new", part / "inner")
            (part / "b").write_text(str(round_))
    assert (tmp_path / "folder" / "b").read_text() == "1"
    assert (tmp_path / "folder" / "inner" / "a.csv").read_text() == "two\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "new"]
    with closing(Journal(tmp_path / "j", {"a": 1})) as journal:
        journal.append([Entry(0, "text")])
    with closing(Journal(tmp_path / "j", {"a": 1})) as journal:
        assert [entry.text for entry in journal.entries()] == ["text"]


@pytest.mark.usefixtures("lean")
def test_whole_runs_on_such_a_file_system(
    nota: Callable[..., int], clips: Path, tiny_checkpoint: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", clips / "all.json", "--workers", 0]
    assert nota(*run, "--out", tmp_path / "o.csv") == 0
    assert nota("validate-submission", tmp_path / "o.csv", "--fix", tmp_path / "f.csv") in (0, 1)
    assert (tmp_path / "f.csv").exists()
    scored = ["score", tmp_path / "o.csv", "--annotation", clips / "all.json", "--task", "asr"]
    assert nota(*scored, "--details", tmp_path / "d.csv") == 0
    assert nota("train", tiny_recipe, "--out", tmp_path / "t", "--set", "train.steps=1") == 0
    assert nota("prune-layers", tmp_path / "t", "--speech-encoder", 1, "--out", tmp_path / "p") == 0
    assert (tmp_path / "p" / "recipe.yaml").exists()


@pytest.mark.parametrize("name", ["replace", "unlink", "fsync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOSPC])
def test_what_will_fail_after_the_work_fails_before_it(
    name: str, number: int, nota: Callable[..., int], clips: Path, tiny_checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(os, name, refuse(number))
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", clips / "all.json"]
    assert nota(*run, "--out", tmp_path / "o.csv") == (1 if number == errno.ENOSPC else 2)
    said = capsys.readouterr().err
    assert "cannot write" in said
    assert "recipe random on" not in said


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").write_text("old")
    usual = os.replace

    def once(source: object, target: object) -> None:
        if str(target).endswith("/f") and str(source).endswith(".part"):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        usual(source, target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(NotaError, match="cannot write"), atomic_folder(tmp_path / "f") as part:
        (part / "new").write_text("new")
    assert (tmp_path / "f" / "old").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
