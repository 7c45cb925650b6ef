"""A table of malformed CSVs with their problems, repair and its round trip, two CSVs together, and what is shown."""

import json

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.submissions import BOM, OK, H, found
from nota_cli.errors import DataError, UsageError
from nota_cli.recipe.prompts import SPEECH_PLACE, Prompts
from nota_cli.submission import KINDS, LIMIT, READ_AS_NAN, examine, repair, validate, write_submission
from nota_cli.submission.problems import ERROR
from nota_cli.submission.texts import PROMPTS, suspicions

# content, then code and line of every problem in order, then of those that a repaired copy still has
MALFORMED = {
    "empty file": (b"", [("empty-file", None)], None),
    "blank lines only": (b"\n  \n\n", [("empty-file", None)], None),
    "header only": (H, [("no-rows", None)], [("no-rows", None)]),
    "zip": (b"PK\x03\x04\x14\x00\x06\x00\x08\x00", [("not-text", 1)], None),
    "png": (b"\x89PNG\r\n\x1a\n\x00", [("not-text", 1)], None),
    "noise": (bytes(range(1, 256)) * 3, [("not-text", 1)], None),
    "utf-16": (OK.decode().encode("utf-16"), [("utf-16", 1)], []),
    "utf-16 without a mark": (OK.decode().encode("utf-16-be"), [("utf-16", 1)], []),
    "utf-32": (OK.decode().encode("utf-32"), [("utf-16", 1)], []),
    "windows-1252": (H + b"test0000,caf\xe9\ntest0001,\x93a\x94\n", [("encoding", 2), ("encoding", 3)], []),
    "another encoding": (H + "test0000,개가\n".encode("cp949"), [("encoding", 2)], [("encoding", 2)]),
    "a broken character": (H + b"test0000,caf\xc3\n", [("encoding", 2)], []),
    "nul": (H + b"test0000,a\x00dog\n", [("nul", 2)], []),
    "nothing but nul": (H + b"test0000,\x00\n", [("nul", 2)], [("nul", 2)]),
    "byte order mark": (BOM + OK, [("bom", 1)], []),
    "byte order mark within": (OK + BOM + b"test0001,b\n", [("invisible-character", 3), ("bad-id", 3)], []),
    "old Mac": (b"testset_id,text\rtest0000,a\r", [("bare-cr", 1)], []),
    "carriage return in a text": (
        OK + b"test0001,a\rb\n",
        [("bare-cr", 3), ("bad-id", 4), ("no-text", 4)],
        [("bad-id", 4), ("no-text", 4)],
    ),
    "mixed line ends": (H + b"test0000,a\r\ntest0001,b\n", [("mixed-line-ends", 2)], []),
    "control character": (H + b"test0000,a\x1b[0m dog\n", [("control-character", 2)], []),
    "tab in a text": (H + b"test0000,a\tdog\n", [("control-character", 2)], []),
    "no-break space": (H + "test0000,a\u00a0dog\n".encode(), [("invisible-character", 2)], []),
    "zero-width space": (H + "test0000,a\u200b dog\n".encode(), [("invisible-character", 2)], []),
    "only a zero-width space": (
        H + "test0000,\u200b\n".encode(),
        [("invisible-character", 2)],
        [("invisible-character", 2)],
    ),
    "right-to-left mark": (H + "test0000,\u200fa dog\n".encode(), [("invisible-character", 2)], []),
    "line separator": (H + "test0000,a\u2028dog\n".encode(), [("invisible-character", 2)], []),
    "replacement character": (
        H + "test0000,caf\ufffd\n".encode(),
        [("replacement-character", 2)],
        [("replacement-character", 2)],
    ),
    "decoded twice": (H + "test0000,cafÃ©\n".encode(), [("replacement-character", 2)], [("replacement-character", 2)]),
    "semicolons": (b"testset_id;text\ntest0000;a, b\n", [("delimiter", 1)], []),
    "tabs": (b"testset_id\ttext\ntest0000\ta\n", [("delimiter", 1)], []),
    "bars": (b"testset_id|text\ntest0000|a\n", [("delimiter", 1)], []),
    "other columns": (b"id,caption\ntest0000,a\n", [("header", 1)], []),
    "unknown columns": (b"foo,bar\ntest0000,a\n", [("header", 1)], None),
    "columns swapped": (b"text,testset_id\na dog,test0000\n", [("header", 1)], []),
    "columns swapped, comma in a text": (
        b"text,testset_id\na dog, barking,test0000\n",
        [("header", 1), ("extra-fields", 2)],
        [],
    ),
    "space in the header": (b"testset_id, text\ntest0000,a\n", [("header", 1)], []),
    "header in capitals": (b"TESTSET_ID,TEXT\ntest0000,a\n", [("header", 1)], []),
    "no header": (b"test0000,a\ntest0001,b\n", [("header", 1)], []),
    "index column": (b",testset_id,text\n0,test0000,a\n", [("header", 1)], []),
    "third column": (b"testset_id,text,score\ntest0000,a,1\n", [("header", 1)], []),
    "unclosed quote": (OK + b'test0001,"b\ntest0002,c\n', [("unclosed-quote", 3)], []),
    "unclosed quote at the end": (OK + b'test0001,"b', [("unclosed-quote", 3)], []),
    "every quote unclosed": (
        H + b'test0000,"a\ntest0001,"b\ntest0002,"c\n',
        [("unclosed-quote", 2), ("unclosed-quote", 3), ("unclosed-quote", 4)],
        [],
    ),
    "unclosed quote below other problems": (
        H + b'test0000,\ntest0001,"b\n',
        [("empty-text", 2), ("unclosed-quote", 3)],
        [("empty-text", 2)],
    ),
    "stray quotes": (H + b'test0000,a "b" c\n', [("stray-quote", 2)], []),
    "text after a closing quote": (H + b'test0000,"a" b\n', [("stray-quote", 2)], []),
    "blank before a quote": (H + b'test0000, "a, b"\n', [("stray-quote", 2), ("extra-fields", 2)], []),
    "too few fields": (OK + b"test0001\n", [("no-text", 3)], [("no-text", 3)]),
    "bare comma in a text": (H + b"test0000,a dog, barking\n", [("extra-fields", 2)], []),
    "line of a quoted nothing": (OK + b'""\n', [("bad-id", 3), ("no-text", 3)], [("bad-id", 3), ("no-text", 3)]),
    "id too short": (H + b"test000,a\n", [("bad-id", 2)], [("bad-id", 2)]),
    "id too long": (H + b"test00000,a\n", [("bad-id", 2)], [("bad-id", 2)]),
    "id in capitals": (H + b"Test0000,a\n", [("bad-id", 2)], []),
    "id with a blank": (H + b"test0000 ,a\n", [("bad-id", 2)], []),
    "id with a line break": (H + b'"test0000\n",a\n', [("bad-id", 2)], []),
    "id is a file": (H + b"audio/test0000.wav,a\n", [("bad-id", 2)], []),
    "id with other digits": (H + "test٠٠٠٠,a\n".encode(), [("bad-id", 2)], [("bad-id", 2)]),
    "no id": (H + b",a\n", [("bad-id", 2)], [("bad-id", 2)]),
    "repeated id": (OK + b"test0001,b\ntest0000,c\n", [("duplicate-id", 4)], [("duplicate-id", 4)]),
    "repeated row": (OK + b"test0001,b\ntest0000,a dog\n", [("duplicate-id", 4)], []),
    "malformed id twice": (
        H + b"x,a\nx,b\n",
        [("bad-id", 2), ("bad-id", 3), ("duplicate-id", 3)],
        [("bad-id", 2), ("bad-id", 3), ("duplicate-id", 3)],
    ),
    "empty text": (H + b"test0000,\n", [("empty-text", 2)], [("empty-text", 2)]),
    "quoted empty text": (H + b'test0000,""\n', [("empty-text", 2)], [("empty-text", 2)]),
    "missing value": (H + b"test0000,NA\ntest0001,None\ntest0002,nan\n", [("nan-text", n) for n in (2, 3, 4)], []),
    "numbers only": (
        H + b"test0000,5\ntest0001, 1.5e3\ntest0002,-INF\n",
        [("column-type", None)],
        [("column-type", None)],
    ),
    "truth only": (H + b"test0000,true\ntest0001,FALSE\n", [("column-type", None)], [("column-type", None)]),
    "blanks": (H + b"test0000,  \n", [("blank-text", 2)], [("blank-text", 2)]),
    "line break in a text": (H + b'test0000,"a\nb"\n', [("line-break", 2)], []),
    "endless text": (OK + b"test0001," + b"x y " * 40_000 + b"\n", [("long-text", 3), ("loop", 3)], None),
    "end symbol": (
        H + b"test0000,a dog</s>\ntest0001,a<|eot_id|><|eot_id|>\n",
        [("special-token", n) for n in (2, 3)],
        [],
    ),
    "nothing but an end symbol": (H + b"test0000,<eos>\n", [("special-token", 2)], [("special-token", 2)]),
    "padding": (H + b"test0000,a [PAD] dog <pad>\n", [("special-token", 2)], []),
    "prompt": (
        H + b"test0000,<Speech></Speech> a\ntest0001,USER: hi\ntest0002,Please describe the audio. a dog\n",
        [("prompt-leak", n) for n in (2, 3, 4)],
        [("prompt-leak", n) for n in (2, 3, 4)],
    ),
    "loop of words": (H + b"test0000," + b"a dog barks and " * 5 + b"\n", [("loop", 2)], [("loop", 2)]),
    "loop of one word": (H + b"test0000,so " + b"no " * 12 + b"\n", [("loop", 2)], [("loop", 2)]),
    "loop in a word": (H + b"test0000,w" + b"ha" * 20 + b"\n", [("loop", 2)], [("loop", 2)]),
    "the same text everywhere": (
        H + b"".join(b"test%04d,a man speaks\n" % n for n in range(30)),
        [("repeated-text", 2)],
        [("repeated-text", 2)],
    ),
    "lines counted through a text of three": (
        H + b'test0000,"a\nb\nc"\n\ntest0001,\n',
        [("line-break", 2), ("empty-text", 6)],
        [("empty-text", 3)],
    ),
    "many at once": (
        b"testset,text\ntest0000,\ntest1,NA\ntest0000,a\ntest0002\n",
        [("header", 1), ("empty-text", 2), ("bad-id", 3), ("nan-text", 3), ("duplicate-id", 4), ("no-text", 5)],
        None,
    ),
}

FINE = {
    "windows line ends": OK.replace(b"\n", b"\r\n"),
    "no last line end": OK[:-1],
    "everything quoted": b'"testset_id","text"\n"test0000","a, ""b"""\n',
    "blank lines": b"\n" + OK + b"\n   \n",
    "not English": H + "test0000,개가 짖는다\ntest0001,क्‍ष 👩‍🚒 naïve €5\n".encode(),
    "digits said": H + b"test0000,six six six six\ntest0001,1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6\n",
    "longer than a block": H.replace(b"\n", b"\r\n")
    + b"".join(b"test%04d,%s\r\n" % (n, b" ".join(b"w%d" % (n + m) for m in range(20))) for n in range(9000)),
}


@pytest.fixture
def csv(tmp_path):
    return tmp_path / "s.csv"


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(csv, name):
    content, expected, _ = MALFORMED[name]
    csv.write_bytes(content)
    assert found(csv) == expected
    assert [(p.code, p.line) for p in validate(csv)] == [(c, line) for c, line in expected if KINDS[c][0] == ERROR]
    for problem in examine(csv).log.problems:
        assert problem.remedy
        assert problem.message.isprintable()
        assert str(problem).startswith("" if problem.line is None else f"line {problem.line}: ")


def test_the_table_is_long_enough_and_knows_every_kind_of_a_single_file():
    assert len(MALFORMED) >= 40
    seen = {code for _, expected, _ in MALFORMED.values() for code, _ in expected}
    assert seen == set(KINDS) - {
        *("unknown-id", "missing-id", "other-task"),
        *("same-texts", "shared-ids", "swapped-files", "swapped-texts"),
    }


@pytest.mark.parametrize("name", MALFORMED)
def test_repair_of_malformed(csv, tmp_path, name):
    content, expected, left = MALFORMED[name]
    csv.write_bytes(content)
    if expected[0][0] in {"empty-file", "not-text"} or name in {"unknown columns", "many at once"}:
        with pytest.raises(DataError, match=r"cannot be repaired.*Nothing was written"):
            repair(csv, tmp_path / "out.csv")
        assert not (tmp_path / "out.csv").exists()
        return
    done = repair(csv, tmp_path / "out.csv")
    assert csv.read_bytes() == content
    if left is not None:
        assert found(tmp_path / "out.csv") == left
        mended = {code for code, _ in expected} - {code for code, _ in left}
        assert mended <= set(done.changes.counts) or "bad-id" in done.changes.counts  # an id is mended as a whole
    again = repair(tmp_path / "out.csv", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    assert not again.changes.counts


@pytest.mark.parametrize("name", FINE)
def test_fine(csv, tmp_path, name):
    csv.write_bytes(FINE[name])
    assert found(csv) == []
    before = pandas.read_csv(csv)
    done = repair(csv, tmp_path / "out.csv")
    assert set(done.changes.counts) <= {"layout"}
    assert pandas.read_csv(tmp_path / "out.csv").equals(before)


REPAIRED = {
    b"testset_id;text\ntest0000;a;b, c\n": 'test0000,"a;b, c"',
    H + b"test0000,caf\xe9\n": "test0000,café",
    H + b'test0000,"a dog\n': "test0000,a dog",
    H + b'test0000,say "hi"\n': 'test0000,"say ""hi"""',
    H + b"test0000,a dog, a cat\n": 'test0000,"a dog, a cat"',
    H + b"test0000,a dog </s> and more\n": "test0000,a dog",
    H + b"test0000,<s> a <pad> dog\n": "test0000,a dog",
    H + b"test0000,<NA>\n": "test0000,<na>",
    H + "test0000,a\u00a0big\u200b dog\n".encode(): "test0000,a big dog",
    H + b" TEST0000.wav,x\n": "test0000,x",
    b"n,text,testset_id\n7,a dog,test0000\n": "test0000,a dog",
}


@pytest.mark.parametrize("content", REPAIRED)
def test_what_repair_writes(csv, tmp_path, content):
    csv.write_bytes(content)
    repair(csv, tmp_path / "new" / "out.csv")
    assert (tmp_path / "new" / "out.csv").read_text(encoding="utf-8") == f"testset_id,text\n{REPAIRED[content]}\n"


@pytest.mark.parametrize("text", sorted(READ_AS_NAN - {""}))
def test_missing_values_are_repaired_by_capitals_alone(csv, tmp_path, text):
    write_submission(csv, [("test0000", text), ("test0001", "a dog")])
    repair(csv, tmp_path / "out.csv")
    after = pandas.read_csv(tmp_path / "out.csv")["text"][0]
    assert after.lower() == text.lower()


def test_repair_in_place_only_if_asked(csv):
    csv.write_bytes(BOM + OK)
    with pytest.raises(UsageError, match="--in-place"):
        repair(csv, csv)
    assert csv.read_bytes() == BOM + OK
    repair(csv, csv, in_place=True)
    assert csv.read_bytes() == OK
    assert [path.name for path in csv.parent.iterdir()] == ["s.csv"]


def test_places(csv):
    csv.write_bytes(BOM + OK + "test0001,é".encode() + b"\xff\n" + b'test0002,a "b"\ntest0003,"c\n')
    places = {p.code: (p.line, p.id, p.column, p.byte) for p in examine(csv).log.problems}
    assert csv.read_bytes()[45] == 0xFF
    assert places == {
        "bom": (1, None, None, 0),
        "encoding": (3, "test0001", 11, 45),
        "stray-quote": (4, "test0002", 12, None),
        "unclosed-quote": (5, "test0003", 10, None),
    }


def test_thousands_are_counted(csv):
    csv.write_bytes(OK + b"test0000,a cat\n" * (LIMIT + 500))
    log = examine(csv).log
    assert log.counts["duplicate-id"] == LIMIT + 500
    assert len([problem for problem in log.problems if problem.code == "duplicate-id"]) == LIMIT


def test_the_competitions_prompts_are_leaks():
    prompts = Prompts()
    texts = [prompts.template.replace("{}", "hi"), SPEECH_PLACE, *(p for p in prompts.tasks.values() if len(p) > 40)]
    texts += [text.split("> ")[-1] for text in texts[2:]]
    for text in texts:
        assert "prompt-leak" in dict(suspicions(text.lower())), text
    assert all(any(prompt in text.lower() for text in texts) for prompt in PROMPTS)


LINES = st.sampled_from([b"test0000,a dog", b'test0001,"a, b"', b'test0002,"say ""hi"""', b"test0003,NA", b"x;y", b""])
DAMAGE = st.one_of(
    st.binary(max_size=3),
    st.sampled_from(
        [b'"', b",", b"\n", b"\r", b"\r\n", b'"\n', b"\0", b"\xff", b"</s>", b"\xc2\xa0", b"\t", b"test0001,"]
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    header=st.sampled_from(
        [H, b"", b"text,testset_id\n", b"testset_id;text\n", b"a,b,c\n", b"n,testset_id,text\n", BOM + H]
    ),
    lines=st.lists(LINES, max_size=6),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2), DAMAGE), max_size=4),
    encoding=st.sampled_from([None, None, None, "utf-16", "utf-16-be"]),
)
def test_damage_never_breaks_anything(tmp_path_factory, header, lines, damage, encoding):
    content = header + b"\n".join(lines)
    if encoding:
        content = content.decode().encode(encoding)
    for place, cut, inserted in damage:
        at = int(place * len(content))
        content = content[:at] + inserted + content[at + cut :]
    folder = tmp_path_factory.getbasetemp()
    (folder / "damaged.csv").write_bytes(content)
    report = examine(folder / "damaged.csv")
    json.dumps([problem.as_dict() for problem in report.log.sorted()]).encode()
    "\n".join(map(str, report.log.problems)).encode()
    if not report.log.problems:
        table = pandas.read_csv(folder / "damaged.csv")
        assert list(table.columns) == ["testset_id", "text"]
        assert table["text"].map(lambda text: isinstance(text, str)).all()
    try:
        done = repair(folder / "damaged.csv", folder / "fixed.csv")
    except DataError:
        return
    json.dumps([problem.as_dict() for problem in done.changes.sorted()] if not done.changes.counts["layout"] else 0)
    repair(folder / "fixed.csv", folder / "again.csv")
    assert (folder / "again.csv").read_bytes() == (folder / "fixed.csv").read_bytes()
    if not validate(folder / "damaged.csv"):
        assert not validate(folder / "fixed.csv")


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(st.lists(st.sampled_from(["a", '"', ",", " ", "b"]), max_size=7).map("".join), max_size=4))
def test_fields_are_those_that_pandas_reads(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "quotes.csv"
    path.write_text("testset_id,text\n" + "".join(f"test{n:04d},{line}\n" for n, line in enumerate(lines)))
    report = examine(path)
    if lines and not any(problem.severity == ERROR for problem in report.log.problems):
        assert pandas.read_csv(path)["text"].tolist() == list(report.texts.values())


def test_repair_into_a_folder_is_refused(csv, tmp_path):
    csv.write_bytes(OK)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        repair(csv, tmp_path / "folder")
