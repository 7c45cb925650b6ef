"""Two submissions together, and the command line."""

import json
import random
import re

import pytest
from typer.testing import CliRunner

from helpers.submissions import BOM, OK, H, found
from nota_cli.cli import app
from nota_cli.errors import UsageError
from nota_cli.submission import examine_pair, write_submission


@pytest.fixture
def csv(tmp_path):
    return tmp_path / "s.csv"


def annotation(folder, tasks, name="a.json", start=0):
    rows = [{"path": "x", "task": task, "testset_id": f"test{start + n:04d}"} for n, task in enumerate(tasks)]
    (folder / name).write_text(json.dumps({"annotation": rows}))
    return folder / name


SPEECH = ["he said that i was right", "what do you mean by that", "we were there at nine", "nobody knew why"]
SOUNDS = [
    "a dog barks while a man speaks",
    "rain falling on a roof",
    "birds chirping in the background",
    "an engine runs",
]


def pair(folder, asr, aac, first_aac=0):
    write_submission(folder / "asr.csv", [(f"test{n:04d}", text) for n, text in enumerate(asr)])
    write_submission(folder / "aac.csv", [(f"test{first_aac + n:04d}", text) for n, text in enumerate(aac)])
    return folder / "asr.csv", folder / "aac.csv"


def codes(log):
    return dict(log.counts)


def test_two_good_files(tmp_path):
    files = pair(tmp_path, SPEECH * 5, SOUNDS * 5)
    both = examine_pair(*files)
    assert [codes(log) for log in (both.asr.log, both.aac.log, both.together)] == [{}, {}, {}]
    own = [annotation(tmp_path, ["asr"] * 20), annotation(tmp_path, ["audiocaption"] * 20, "b.json")]
    both = examine_pair(*files, own)
    assert [codes(log) for log in (both.asr.log, both.aac.log, both.together)] == [{}, {}, {}]


def test_two_files_of_one_annotation(tmp_path):
    one = annotation(tmp_path, ["asr"] * 12 + ["audiocaption"] * 12)
    asr, aac = pair(tmp_path, SPEECH * 3, SOUNDS * 3, first_aac=12)
    both = examine_pair(asr, aac, [one])
    assert [codes(log) for log in (both.asr.log, both.aac.log, both.together)] == [{}, {}, {}]
    swapped = examine_pair(aac, asr, [one])
    assert codes(swapped.together) == {"swapped-files": 1, "swapped-texts": 1}
    assert codes(swapped.asr.log) == {"unknown-id": 12, "missing-id": 12, "other-task": 1}


def test_two_files_that_share(tmp_path):
    assert codes(examine_pair(*pair(tmp_path, SPEECH, SPEECH)).together) == {"same-texts": 1}
    assert codes(examine_pair(*pair(tmp_path, SPEECH * 3, SOUNDS * 3, first_aac=5)).together) == {"shared-ids": 1}
    assert codes(examine_pair(*pair(tmp_path, SOUNDS * 3, SPEECH * 3)).together) == {"swapped-texts": 1}


def test_captions_for_transcripts(tmp_path):
    asr, _ = pair(tmp_path, SOUNDS * 6, SOUNDS)
    assert found(asr, task="asr") == [("other-task", None)]
    assert found(asr, task="aac") == []


@pytest.fixture
def nota(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["validate-submission", *map(str, words)])


def test_command(nota, csv, tmp_path):
    csv.write_bytes(OK)
    assert nota(csv).exit_code == 0
    csv.write_bytes(BOM + OK)
    assert nota(csv).exit_code == 0
    assert nota(csv, "--strict").exit_code == 1
    done = nota(csv, "--fix", "out.csv")
    assert done.exit_code == 0
    assert "byte order mark removed" in done.stdout
    assert (tmp_path / "out.csv").read_bytes() == OK
    csv.write_bytes(BOM + H + b"test0000,\n")
    done = nota(csv, "--fix", "out.csv", "--json")
    assert done.exit_code == 1
    shown = json.loads(done.stdout)
    assert shown["counts"] == {"bom": 1, "empty-text": 1}
    assert [problem["code"] for problem in shown["fixed"]["problems"]] == ["empty-text"]
    assert shown["fixed"]["changes"] == [{"code": "bom", "line": 1, "id": None, "message": "byte order mark removed"}]


def test_command_for_two(nota, tmp_path):
    asr, aac = pair(tmp_path, SPEECH, SPEECH)
    shown = json.loads(nota("--asr", asr, "--aac", aac, "--json").stdout)
    assert shown["valid"]
    assert shown["together"]["counts"] == {"same-texts": 1}
    assert shown["asr"]["rows"] == 4
    assert nota("--asr", asr, "--aac", aac, "--strict").exit_code == 1
    for wrong in ([asr, "--asr", asr], ["--asr", asr, "--aac", aac, "--fix", "x.csv"]):
        assert isinstance(nota(*wrong).exception, UsageError)


def test_screen_holds_no_escapes_and_few_lines(nota, csv):
    rows = [b"test\x1b%03d,a dog barks and a cat\xff mews at \x1b[31m it\n" % n for n in range(999)]
    random.Random(0).shuffle(rows)
    csv.write_bytes(H + b"".join(rows))
    shown = nota(csv).stdout
    assert len(shown.splitlines()) < 40
    assert "\x1b" not in shown
    assert re.search(r"encoding, 999 times", shown)
    assert "and 995 more" in shown


def test_in_place_without_fix_is_refused(nota, csv):
    csv.write_bytes(OK)
    done = nota(csv, "--in-place")
    assert isinstance(done.exception, UsageError)
    assert "--fix" in str(done.exception)
