"""Annotation files: what is read, and every problem of a bad one at once."""

import json
import re
import tracemalloc

import pytest

from nota_cli.data.annotation import Row, family, read_annotation, row_id
from nota_cli.data.row_files import missing_files
from nota_cli.data.tasks import KNOWN_TASKS
from nota_cli.errors import DataError, UsageError

GOOD = {"path": "a.wav", "text": "hello", "task": "asr"}


def _file(folder, rows):
    path = folder / "a.json"
    path.write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    return path


def test_every_field(tmp_path):
    rows = [
        GOOD,
        {
            "path": "/abs/b.flac",
            "text": "yes",
            "task": "QA",
            "Q": "is it rain?",
            "testset_id": "test0042",
            "expand_wav": ["c.wav", "d.wav"],
            "label": "rain",
            "speaker": "ann",
            "texts": ["yes", "it is"],
            "duration": 3,  # keys of other tools are left alone
        },
        {"path": "c.wav", "task": "audiocaption", "text": None, "Q": None, "testset_id": None, "expand_wav": None},
    ]
    first, second, third = read_annotation(_file(tmp_path, rows))
    assert first == Row(0, "a.wav", "asr", "hello", None, None, ())
    assert second == Row(
        *(1, "/abs/b.flac", "QA", "yes", "is it rain?", "test0042", ("c.wav", "d.wav")),
        **{"label": "rain", "speaker": "ann", "texts": ("yes", "it is")},
    )
    assert third == Row(2, "c.wav", "audiocaption", None, None, None, ())
    assert [row_id(row) for row in (first, second, third)] == ["test0000", "test0042", "test0002"]


def test_families():
    assert [family(task) for task in ("asr", "audiocaption", "audiocaption_v2", "QA", "gender_QA")] == [
        *("asr", "aac", "aac", "qa", "qa")
    ]
    assert family("phone_recognition") is None
    assert {"asr", "gender_QA", "phone_recognition", "speech_query"} <= KNOWN_TASKS


def test_default_task_fills_only_the_gaps(tmp_path):
    path = _file(tmp_path, [{"path": "a"}, {"path": "b", "task": "audiocaption"}, {"path": "c", "task": None}])
    assert [row.task for row in read_annotation(path, default_task="asr")] == ["asr", "audiocaption", "asr"]
    with pytest.raises(DataError, match="rows 0, 2: lacks `task`"):
        read_annotation(path)


def test_byte_order_mark_is_read_over(tmp_path):
    path = _file(tmp_path, [GOOD])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_annotation(path)) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not JSON: Expecting value at line 1, column 1"),
        (b'{"annotation":\n [}', "at line 2, column 3"),
        (b"path,text\na.wav,hello\n", "not JSON"),
        (b'{"annotation":\n [{"path": "caf\xe9"}]}', "line 2 is not UTF-8 (byte 30)"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "is a list. Put it under the key `annotation`"),
        (b'{"annotations": []}', "lacks the key `annotation`"),
        (b'{"annotation": {}}', "`annotation` is an object, not a list"),
        (b'{"annotation": null}', "`annotation` is null, not a list"),
        (b'{"annotation": []}', "`annotation` is empty"),
    ],
)
def test_unusable_file(tmp_path, content, expected):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_annotation(tmp_path / "a.json")
    assert expected in str(caught.value)
    assert str(tmp_path / "a.json") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"annotation": [{"path": "a"}],\n "annotation": []}', "'annotation' is on line 1 and again on line 2"),
        (b'{"annotation": [{"path": "a",\n"task": "asr", "task": "QA"}]}', "'task' is on line 2 and again on line 2"),
        (b'{"annotation": [{"path": "a", "task": "asr", "more": {"x": 1, "x": 2}}]}', "'x' is on line 1"),
        (b'{"annotation": [{"path": "a", "task": "asr", "seconds": NaN}]}', "NaN on line 1"),
        (b'{"path": "a"}\n{"path": "b"}\n', "one JSON object a line (JSON lines)"),
        (b'\n{"path": "a"}\n{"path": "b"}\n{"pa', "jq -s"),
        (b'{"path": "a", "task": "asr"}\n', "is a single row"),
        (b'[{"path": "a", "task": "asr"}]', "is a list. Put it under the key `annotation`"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
    ],
)
def test_what_would_lose_rows_is_refused_with_the_remedy(tmp_path, content, expected):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_annotation(tmp_path / "a.json")
    assert expected in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_json_in_its_other_encodings_is_read(tmp_path, encoding):
    content = json.dumps({"annotation": [GOOD | {"text": "강아지"}]}, ensure_ascii=False)
    (tmp_path / "a.json").write_bytes(content.encode(encoding))
    assert read_annotation(tmp_path / "a.json")[0].text == "강아지"


def test_of_a_list_of_texts_the_first_is_the_text(tmp_path):
    rows = [GOOD | {"text": ["one", "two", "three"], "texts": ["four"]}, GOOD | {"text": ["only"], "testset_id": "b"}]
    first, second = read_annotation(_file(tmp_path, rows))
    assert (first.text, first.texts) == ("one", ("two", "three", "four"))
    assert (second.text, second.texts) == ("only", ())


@pytest.mark.parametrize(
    ("task", "meant"),
    [("aac", "audiocaption_v2"), ("Caption", "audiocaption_v2"), ("qa", "QA"), ("question", "QA"), ("ASR ", "asr")]
    + [("transcribe", "asr"), ("Gender-QA", "gender_QA"), ("captionn", "audiocaption_v2"), ("asr-de", "asr_de")],
)
def test_near_words_of_tasks(tmp_path, task, meant):
    with pytest.raises(DataError, match=f"unknown task .*; did you mean {meant}"):
        read_annotation(_file(tmp_path, [GOOD | {"task": task}]))


@pytest.mark.parametrize(
    ("key", "meant"), [("Speaker", "speaker"), ("Label ", "label"), (" q", "Q"), ("expandWav", "expand_wav")]
)
def test_keys_that_would_be_lost_are_named_and_others_are_allowed(tmp_path, key, meant):
    with pytest.raises(DataError, match=f"is not read; did you mean `{meant}`"):
        read_annotation(_file(tmp_path, [GOOD | {key: "x"}]))
    assert read_annotation(_file(tmp_path, [GOOD | {"seconds": 3, "corpus": "x"}]))
    assert read_annotation(_file(tmp_path, [GOOD | {meant: [] if meant == "expand_wav" else "x", key: "x"}]))


def test_absent_file_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="none.json: No such file"):
        read_annotation(tmp_path / "none.json")
    with pytest.raises(UsageError, match="cannot read the annotation"):
        read_annotation(tmp_path)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("a.wav", "is a string, not an object"),
        (None, "is null, not an object"),
        ({"task": "asr"}, "lacks `path`"),
        (GOOD | {"path": ""}, "`path` is empty"),
        (GOOD | {"path": "a\0b"}, "has a NUL"),
        (GOOD | {"path": 5}, "`path` is a number, not a string"),
        (GOOD | {"task": "ASR"}, "unknown task 'ASR'; did you mean asr"),
        (GOOD | {"task": "audio_caption"}, "did you mean audiocaption"),
        (GOOD | {"task": "zzzz"}, "unknown task 'zzzz'; known: QA, asr,"),
        (GOOD | {"task": ["asr"]}, "`task` is a list, not a string"),
        (GOOD | {"task": ""}, "unknown task ''"),
        (GOOD | {"text": 7}, "`text` is a number"),
        (GOOD | {"text": []}, "`text` is an empty list"),
        (GOOD | {"text": ["a", 7]}, "`text` is not a list of non-empty strings"),
        (GOOD | {"Q": {}}, "`Q` is an object"),
        (GOOD | {"testset_id": 1}, "`testset_id` is a number"),
        (GOOD | {"testset_id": True}, "`testset_id` is true or false"),
        (GOOD | {"testset_id": ""}, "`testset_id` is empty"),
        (GOOD | {"label": 3}, "`label` is a number"),
        (GOOD | {"expand_wav": "b.wav"}, "`expand_wav` is not a list of non-empty strings"),
        (GOOD | {"expand_wav": ["b.wav", 2]}, "`expand_wav` is not a list of non-empty strings"),
        (GOOD | {"texts": [""]}, "`texts` is not a list of non-empty strings"),
        (GOOD | {"task": "QA"}, "task 'QA' needs a question; add `Q`"),
        (GOOD | {"task": "gender_QA", "Q": ""}, "task 'gender_QA' needs a question"),
    ],
)
def test_unusable_row(tmp_path, row, expected):
    with pytest.raises(DataError) as caught:
        read_annotation(_file(tmp_path, [GOOD, row, GOOD]))
    head, *problems = str(caught.value).splitlines()
    assert "a.json: 1 problem " in head
    assert len(problems) == 1
    assert "row 1: " in problems[0]
    assert expected in problems[0]


def test_all_problems_at_once(tmp_path):
    rows = [
        {"task": "asr", "text": 5},
        GOOD | {"testset_id": "test0003"},
        GOOD | {"task": "aks"},
        GOOD,  # its id is its place, test0003
        GOOD | {"testset_id": "x"},
        GOOD | {"testset_id": "x"},
    ]
    with pytest.raises(DataError) as caught:
        read_annotation(_file(tmp_path, rows))
    message = str(caught.value)
    assert "a.json: 5 problems (rows counted from 0)" in message
    for part in (
        "row 0: lacks `path`",
        "row 0: `text` is",
        "row 2: unknown task",
        "row 3: testset_id 'test0003' is also",
    ):
        assert part in message
    assert "row 5: testset_id 'x' is also row 4's" in message


def test_missing_and_empty_files(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    rows = [
        GOOD | {"path": "a.wav"},
        GOOD | {"path": "none.wav"},
        GOOD | {"path": str(tmp_path / "a.wav"), "expand_wav": ["empty.wav", "a.wav"]},
        GOOD | {"path": "folder"},
        GOOD | {"path": "a.wav/b.wav"},
    ]
    path = _file(tmp_path, rows)
    messages = missing_files(read_annotation(path), tmp_path)
    assert [message.split(":")[0] for message in messages] == ["row 1", "row 2", "row 3", "row 4"]
    assert f"there is no file {tmp_path / 'none.wav'}" in messages[0]
    assert "empty.wav is empty (0 bytes)" in messages[1]
    assert "is a folder" in messages[2]
    with pytest.raises(DataError, match=r"4 problems[\s\S]*row 1: there is no file"):
        read_annotation(path, audio_root=tmp_path)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GOOD | {"path": "a\ud800.wav"}, "`path` holds half of a surrogate pair"),
        (GOOD | {"testset_id": "\udcff"}, "`testset_id` holds half"),
        (GOOD | {"text": "a \udfff b"}, "`text` holds half"),
        (GOOD | {"expand_wav": ["\ud800"]}, "`expand_wav` holds half"),
        (GOOD | {"task": "x" * 100_000}, "unknown task 'xxx"),
    ],
)
def test_what_no_file_can_say_is_refused_in_few_words(tmp_path, row, expected):
    with pytest.raises(DataError) as caught:
        read_annotation(_file(tmp_path, [row]))
    message = str(caught.value)
    assert expected in message
    assert len(message) < 1_000
    message.encode()  # can be shown anywhere


def test_names_that_are_not_utf8_are_read(tmp_path):
    """JSON writes the byte 0xff of a file's name as Python does: \\udcff."""
    row = GOOD | {"path": "caf\udce9.wav", "expand_wav": ["\udcff.wav"]}
    (read,) = read_annotation(_file(tmp_path, [row]))
    assert (read.path, read.expand) == (row["path"], ("\udcff.wav",))
    messages = missing_files([read], tmp_path)
    assert len(messages) == 2
    assert "caf\\udce9.wav" in messages[0].encode().decode()


def test_a_number_of_too_many_digits(tmp_path):
    (tmp_path / "a.json").write_text('{"annotation": [{"path": ' + "1" * 5_000 + "}]}")
    with pytest.raises(DataError, match="thousands of digits"):
        read_annotation(tmp_path / "a.json")


def test_every_bad_row_of_many_is_named(tmp_path):
    """A hundredth of 100,000 rows is bad, in three ways; the message is short and names each."""
    rows = [GOOD | {"path": f"{i}.wav", "testset_id": f"clip{i}"} for i in range(100_000)]
    for index in range(50, 100_000, 100):
        rows[index] = [{"task": "asr"}, GOOD | {"task": f"task {index}"}, 7][index // 100 % 3]
    path = _file(tmp_path, rows)
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        read_annotation(path)
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
    message = str(caught.value)
    assert "1000 problems" in message
    assert len(message) < 20_000
    assert {int(number) for number in re.findall(r"(?<![\d])(\d+)(?=[,:]|$)", message, re.M)} >= set(
        range(50, 100_000, 100)
    )


def test_reads_many_rows(tmp_path):
    rows = [GOOD | {"path": f"{i}.wav", "testset_id": f"clip{i}"} for i in range(100_000)]
    path = _file(tmp_path, rows)
    assert len(read_annotation(path)) == 100_000
