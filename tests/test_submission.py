"""Submission CSVs: a table of malformed files, agreement with pandas, atomic writing, finding the file."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nota_cli.errors import DataError, UsageError
from nota_cli.submission import Problem, find_submission, validate, write_submission

ROOT = Path(__file__).resolve().parents[1]
HEAD = b"testset_id,text\n"
OK = HEAD + b"test0000,a dog\n"

# the cells that pandas 2 and 3 read as missing, written out here once more
MISSING = ["#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"]
MISSING += ["NA", "NULL", "NaN", "None", "n/a", "nan", "null"]

WELL_FORMED = {
    "plain": OK,
    "byte order mark": b"\xef\xbb\xbf" + OK,
    "windows line ends": OK.replace(b"\n", b"\r\n"),
    "no last line end": OK[:-1],
    "everything quoted": b'"testset_id","text"\n"test0000","a, ""b"""\n',
    "a line break in a text": HEAD + b'test0000,"a\nb"\n',
    "quotes inside a text": HEAD + b'test0000,a "b" c\n',
    "blank lines": b"\n" + OK + b"\n   \n",
    "gaps and any order": HEAD + b"test0900,a\ntest0003,b\n",
    "some numbers": HEAD + b"test0000,5\ntest0001,five\n",
    "near missing": HEAD + b"test0000,na\ntest0001,none\ntest0002, NA\ntest0003,NaN.\n",
    "not English": HEAD + "test0000,개가 짖는다\n".encode(),
}


@pytest.mark.parametrize("text", MISSING)
@pytest.mark.parametrize("quote", ["", '"'])
def test_text_that_pandas_takes_for_missing(tmp_path, text, quote):
    (tmp_path / "s.csv").write_text(f"testset_id,text\ntest0000,{quote}{text}{quote}\ntest0001,a dog\n")
    assert pandas.read_csv(tmp_path / "s.csv")["text"].isna().tolist() == [True, False]
    (problem,) = validate(tmp_path / "s.csv")
    assert (problem.line, problem.id) == (2, "test0000")
    assert repr(text) in problem.message


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed(tmp_path, name):
    (tmp_path / "s.csv").write_bytes(WELL_FORMED[name])
    assert validate(tmp_path / "s.csv") == []
    assert _organisers_accept(tmp_path / "s.csv")


def _organisers_accept(path):
    """Their three rules, through pandas."""
    try:
        table = pandas.read_csv(path)
    except (ValueError, UnicodeDecodeError):
        return False
    if list(table.columns) != ["testset_id", "text"]:
        return False
    ids = all(isinstance(name, str) and re.match(r"^test\d{4}$", name) for name in table["testset_id"])
    return ids and all(isinstance(text, str) and text != "" for text in table["text"])


PIECES = ["a", "dog", "5", ".5", "1e3", "inf", " ", "\t", ",", '"', "\n", "\r", "NA", "null", "None", "nan", "true"]
TEXT = st.one_of(
    st.sampled_from(["", "NA", "None", "5", "1.5", "-7", "inf", "true", "False", "a dog"]),
    st.lists(st.sampled_from([*PIECES, "é", "-", "+"]), max_size=4).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_agrees_with_pandas_on_what_we_write(tmp_path_factory, texts):
    path = tmp_path_factory.getbasetemp() / "agree.csv"
    write_submission(path, [(f"test{i:04d}", text) for i, text in enumerate(texts)])
    assert (validate(path) == []) == _organisers_accept(path)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(st.lists(st.sampled_from([*PIECES, "test"]), max_size=5).map("".join), max_size=4))
def test_never_passes_what_pandas_would_refuse(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "raw.csv"
    content = "testset_id,text\n" + "".join(f"test{i:04d},{line}\n" for i, line in enumerate(lines))
    path.write_bytes(content.encode())
    if validate(path) == []:
        assert _organisers_accept(path)


def _annotation(folder, rows):
    path = folder / "a.json"
    path.write_text(json.dumps({"annotation": rows}))
    return path


def test_missing_and_extra_ids(tmp_path):
    rows = [{"path": "x", "task": "asr", "testset_id": f"test{i:04d}"} for i in range(4)]
    (tmp_path / "s.csv").write_bytes(OK + b"test0002,b\ntest0009,c\n")
    assert validate(tmp_path / "s.csv", _annotation(tmp_path, rows)) == [
        Problem(4, "test0009", "the id 'test0009' is not in the annotation", "unknown-id"),
        Problem(None, "test0001", "test0001 of the annotation is missing", "missing-id"),
        Problem(None, "test0003", "test0003 of the annotation is missing", "missing-id"),
    ]


def test_ids_of_rows_without_one_are_their_places(tmp_path):
    (tmp_path / "s.csv").write_bytes(OK + b"test0001,b\n")
    assert validate(tmp_path / "s.csv", _annotation(tmp_path, [{"path": "x"}, {"path": "y"}])) == []


def test_a_family_is_expected_whole(tmp_path):
    tasks = ["asr", "asr", "audiocaption", "audiocaption_v2"]
    annotation = _annotation(tmp_path, [{"path": "x", "task": task} for task in tasks])
    (tmp_path / "s.csv").write_bytes(OK + b"test0001,b\n")
    assert validate(tmp_path / "s.csv", annotation) == []
    assert validate(tmp_path / "s.csv", annotation, "asr") == []
    assert [problem.id for problem in validate(tmp_path / "s.csv", annotation, "aac")] == [
        *["test0000", "test0001"],  # not among the captions
        *["test0002", "test0003"],  # missing
    ]
    (tmp_path / "s.csv").write_bytes(HEAD + b"test0003,b\n")
    assert [problem.id for problem in validate(tmp_path / "s.csv", annotation)] == ["test0002"]
    (tmp_path / "s.csv").write_bytes(HEAD + b"test0077,b\n")
    assert len(validate(tmp_path / "s.csv", annotation)) == 5
    with pytest.raises(UsageError, match="unknown task 'ocr'"):
        validate(tmp_path / "s.csv", annotation, "ocr")


def test_ids_swallowed_by_a_quote_are_not_called_missing(tmp_path):
    (tmp_path / "s.csv").write_bytes(HEAD + b'test0000,"a\ntest0001,b\n')
    problems = validate(tmp_path / "s.csv", _annotation(tmp_path, [{"path": "x"}, {"path": "y"}]))
    assert [problem.line for problem in problems] == [2]


def test_missing_files_and_folders_are_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="cannot read .*none.csv: No such file"):
        validate(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="cannot read"):
        validate(tmp_path)
    (tmp_path / "s.csv").write_bytes(OK)
    with pytest.raises(UsageError, match="none.json"):
        validate(tmp_path / "s.csv", tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="lacks the key `annotation`"):
        validate(tmp_path / "s.csv", tmp_path / "a.json")


def test_write_reads_back(tmp_path):
    rows = [("test0000", 'a "dog", barking'), ("test0001", "two\nlines\r\nand\rmore"), ("test0002", "café 개")]
    write_submission(tmp_path / "new" / "s.csv", iter(rows))
    data = (tmp_path / "new" / "s.csv").read_bytes().decode("utf-8")
    assert data == ('testset_id,text\ntest0000,"a ""dog"", barking"\ntest0001,two lines and more\ntest0002,café 개\n')
    assert validate(tmp_path / "new" / "s.csv") == []
    table = pandas.read_csv(tmp_path / "new" / "s.csv")
    assert table["text"].tolist() == ['a "dog", barking', "two lines and more", "café 개"]


def test_a_broken_write_leaves_the_old_file(tmp_path):
    write_submission(tmp_path / "s.csv", [("test0000", "old")])

    def rows():
        yield "test0000", "new"
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_submission(tmp_path / "s.csv", rows())
    assert (tmp_path / "s.csv").read_text() == "testset_id,text\ntest0000,old\n"
    assert os.listdir(tmp_path) == ["s.csv"]


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Choose another output path"):
        write_submission(tmp_path / "file" / "s.csv", [])


def test_find_submission(tmp_path):
    with pytest.raises(UsageError, match=r"no submission.csv here"):
        find_submission(tmp_path)
    folder = tmp_path / "submissions"
    folder.mkdir()
    (folder / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="no CSV in submissions/"):
        find_submission(tmp_path)
    for name, changed in (("b.csv", 100), ("c.csv", 300), ("a.csv", 200)):
        (folder / name).write_bytes(OK)
        os.utime(folder / name, (changed, changed))
    assert find_submission(tmp_path) == folder / "c.csv"
    (tmp_path / "submission.csv").write_bytes(OK)
    assert find_submission(tmp_path) == tmp_path / "submission.csv"


def test_hidden_files_and_other_tables_are_no_submissions(tmp_path):
    folder = tmp_path / "submissions"
    folder.mkdir()
    others = {
        "._good.csv": b"Mac OS X",
        ".good.csv": OK,
        "details.csv": b"testset_id,edits,hypothesis,reference\ntest0000,1,a,b\n",
        "binary.csv": b"PK\x03\x04rest",
        "empty.csv": b"",
        "names.csv": b"id;caption\n1;2\n",
    }
    for name, content in others.items():
        (folder / name).write_bytes(content)
    (folder / "folder.csv").mkdir()
    with pytest.raises(UsageError, match=r"no header of testset_id, text: binary\.csv, details\.csv"):
        find_submission(tmp_path)
    for name, content in (("good.csv", OK), ("bom.csv", b"\xef\xbb\xbf" + OK), ("semi.csv", OK.replace(b",", b";"))):
        (folder / name).write_bytes(content)
        os.utime(folder / name, (100, 100))
        assert find_submission(tmp_path) == folder / name
        (folder / name).unlink()


def test_validation_imports_nothing_heavy(tmp_path):
    (tmp_path / "s.csv").write_bytes(OK)
    annotation = _annotation(tmp_path, [{"path": "x"}])
    code = (
        "import sys; from pathlib import Path; from nota_cli.submission import validate;"
        "assert validate(Path(sys.argv[1]), Path(sys.argv[2])) == [];"
        "print(sorted({'torch', 'transformers', 'pandas', 'numpy', 'jiwer', 'sacrebleu'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.csv"), str(annotation)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
