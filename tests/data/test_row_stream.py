"""Rows of a file read piece by piece: the same as of the whole file, wherever a piece ends."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from nota_cli.data import row_stream
from nota_cli.data.annotation import read_annotation
from nota_cli.data.row_stream import stream_rows
from nota_cli.errors import DataError
from nota_cli.parsing import ParseError

ITEMS = [
    {"path": "a.wav", "text": 'a "quoted" \\ line\n', "task": "asr", "more": [1, -2.5e3, {"deep": [True, None]}]},
    {"path": "강아지.wav", "text": "\u2028 𝄞 é", "task": "asr"},
    12345,
    -0.25,
    "text } ] ,",
    None,
    [],
    {},
    {"path": "z.wav", "text": "x" * 300, "task": "asr"},
]


@pytest.fixture(params=[1, 3, 7, 64, 2**20])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(row_stream, "CHUNK_BYTES", request.param)
    return int(request.param)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
def test_rows_are_those_of_the_whole_file(piece: int, encoding: str, indent: int | None, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    content = {"version": {"a": [1, 2]}, "annotation": ITEMS, "more": 1.5}
    file.write_bytes(json.dumps(content, indent=indent, ensure_ascii=False).encode(encoding))
    assert list(stream_rows(file)) == ITEMS


GOOD = '{"path": "a.wav", "task": "asr"}'


def whole(template: str) -> str:
    """The text with a good row in the place of each @."""
    return template.replace("@", GOOD)


def refusals(file: Path) -> tuple[str, str]:
    """What the reader of whole files says of one that cannot be used, and what the reader of pieces does."""
    with pytest.raises(DataError) as expected:
        read_annotation(file)
    with pytest.raises(DataError) as error:
        list(stream_rows(file))
    return str(expected.value), str(error.value)


BROKEN = [
    whole('{"annotation": [@,\n @'),
    whole('{"annotation": [@,\n {"path": "b.wav" "task": "asr"}]}'),
    whole('{"annotation": [@,\n {"path": "b.wav}]}'),
    whole('{"annotation": [@ @]}'),
    whole('{"annotation": [@]} true'),
    whole('{"annotation" [@]}'),
    '{"annotation": [tru]}',
    "",
    whole('{"annotation": [@,\n\n "\x01"]}'),
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_not_json_is_named_as_in_the_whole_file(piece: int, text: str, tmp_path: Path) -> None:
    """Line and column are the same; of what is said after them, the row is more."""
    file = tmp_path / "a.json"
    file.write_text(text)
    whole_file, message = refusals(file)
    plain = whole_file.removesuffix(". Mend the file there.")
    assert message.endswith(". Mend the file there.")
    assert plain.split(" at line ")[1] == message.split(" at line ")[1].split(" (")[0].removesuffix(
        ". Mend the file there."
    )


@pytest.mark.parametrize(
    "text",
    [
        whole("[@]"),
        GOOD,
        f"{GOOD}\n{GOOD}\n",
        '{"rows": []}',
        '"text"',
        '{"annotation": {}}',
        '{"annotation": []}',
        '{"annotation": [' + "[" * 100_000 + "]" * 100_000 + "]}",
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n",
    ],
    ids=range(9),
)
def test_another_shape_is_refused_with_its_remedy(text: str, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    whole_file, message = refusals(file)
    if "nested" in whole_file:
        assert message == f"{file}: row 0, counted from 0: it is nested too deeply to be a row; mend it."
    else:
        assert message == whole_file


def test_keys_that_are_twice_there_name_their_lines(piece: int, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(whole('{"annotation": [\n@,\n{"path": "b",\n "path": "c"},\n{"a": NaN}, @]}'))
    first, twice, none, last = stream_rows(file)
    assert first == last == json.loads(GOOD)
    assert str(twice) == "the key 'path' is on line 3 and again on line 4; keep one of them"
    assert str(none) == "NaN on line 5 is no JSON; write a number, null or leave the key out"
    file.write_text(whole('{"annotation": [@],\n"annotation": [@]}'))
    with pytest.raises(DataError, match="the key 'annotation' is there again on line 2; keep one of them"):
        list(stream_rows(file))


def test_bytes_that_are_no_text_are_named_by_line_and_number(piece: int, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    data = (whole('{"annotation": [@,\n{"path": "é')).encode()
    file.write_bytes(data + b"\xff" + b'"}]}')
    with pytest.raises(DataError, match=rf"line 2 is not UTF-8 \(byte {len(data)}\). Save the file as UTF-8."):
        list(stream_rows(file))


def test_each_line_is_a_row_and_a_bad_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"path": "a"}\n\n{"path": \n"x"\n{"a": 1, "a": 2}\n\xff\n[]\n')
    rows = list(stream_rows(file))
    assert [str(row) for row in rows if isinstance(row, ParseError)] == [
        "line 3 is not JSON: Expecting value at column 1; mend it",
        "line 5: the key 'a' is on line 1 and again on line 1; keep one of them",
        "line 6 is not UTF-8; save it as UTF-8",
    ]
    assert [row for row in rows if not isinstance(row, ParseError)] == [{"path": "a"}, "x", []]
    file.write_text("\n")
    with pytest.raises(DataError, match=r"a\.jsonl: has no rows"):
        list(stream_rows(file))


def test_a_table_has_its_rows_in_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    rows = [{"path": "a.wav", "text": "x", "texts": ["y"]}, {"path": "b.wav", "text": None, "texts": None}]
    parquet.write_table(pa.Table.from_pylist([{**row, "audio": b"0"} for row in rows]), file)
    assert list(stream_rows(file)) == rows
    parquet.write_table(pa.Table.from_pylist([{"Path": "a.wav"}]), file)
    with pytest.raises(DataError, match=r"a\.parquet: its columns:\n.*'Path' is not read; did you mean `path`\?"):
        list(stream_rows(file))
    file.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as Parquet"):
        list(stream_rows(file))
