"""Each published corpus in miniature, in its own layout, made here."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from helpers.paths import REPOSITORY
from nota_cli.data.annotation import read_annotation
from nota_cli.data.corpora.clips import Segment, write_clip
from nota_cli.data.corpora.prepare import clean_text, prepare
from nota_cli.data.corpora.published import READERS, reader_of
from nota_cli.errors import DataError, UsageError

REAL = REPOSITORY.parent / "shared" / "data" / "real"


def tone(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp3":
        soundfile.write(path, np.full(1_600, 0.1), 16_000, format="MP3")
    else:
        soundfile.write(path, np.full(1_600, 0.1), 16_000)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def librispeech(root: Path) -> str:
    for chapter in ("61/70968", "61/70970"):
        name = chapter.replace("/", "-")
        text(root / "test-clean" / chapter / f"{name}.trans.txt", f"{name}-0000 HE BEGAN", f"{name}-0001 GIVE NOT SO")
        for number in range(2):
            tone(root / "test-clean" / chapter / f"{name}-000{number}.flac")
    return "test-clean"


def gigaspeech(root: Path, segments: int = 2) -> str:
    rows = [
        {"sid": f"POD1_S{n:07d}", "begin_time": n, "end_time": n + 0.75, "subsets": ["{XL}", "{DEV}"], "text_tn": words}
        for n, words in enumerate(
            ["DOUGLAS <COMMA> HE SAID <PERIOD>", *["YES <QUESTIONMARK>"] * (segments - 1), "<SIL>"]
        )
    ]
    audio = {"aid": "POD1", "path": "audio/podcast/P0001/POD1.flac", "subsets": ["{XL}", "{DEV}"], "segments": rows}
    other = {**audio, "aid": "POD2", "path": "audio/podcast/P0001/POD2.flac", "segments": rows[:1]}
    text(root / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "audios": [audio, other]}))
    path = root / audio["path"]
    path.parent.mkdir(parents=True)
    levels = np.repeat(np.arange(1, segments + 2) / (2 * segments + 4), 16_000)  # every second has a level of its own
    soundfile.write(path, levels, 16_000)
    return "dev"


def common_voice(root: Path) -> str:
    head = "client_id\tpath\tsentence\tup_votes\tgender"
    text(root / "test.tsv", head, 'abc\tcv_1.mp3\tHe said "no\t2\t', "abd\tcv_2.mp3\tYes.\t2\tfemale")
    tone(root / "clips" / "cv_1.mp3")
    return "test"


def speechocean762(root: Path) -> str:
    text(root / "test" / "wav.scp", "000030012\tWAVE/SPEAKER0003/000030012.WAV")
    text(root / "test" / "text", "000030012\tMARK IS GOING")
    text(root / "test" / "utt2spk", "000030012\t0003")
    tone(root / "WAVE" / "SPEAKER0003" / "000030012.WAV")
    return "test"


def clotho(root: Path) -> str:
    text(
        root / "clotho_captions_evaluation.csv",
        "file_name,caption_1,caption_2,caption_3,caption_4,caption_5",
        'Rain (1).wav,"Rain falls, hard.",b b,c c,d d,e e',
    )
    tone(root / "evaluation" / "Rain (1).wav")
    return "evaluation"


def audiocaps(root: Path) -> str:
    text(
        root / "test.csv",
        "audiocap_id,youtube_id,start_time,caption",
        "103549,7fmOlUlwoNg,20,Constant rattling noise",
        "103548,7fmOlUlwoNg,20,A machine whirs",
        "1,gone,10,Nobody hears it",
    )
    tone(root / "test" / "7fmOlUlwoNg_20.wav")
    return "test"


def wavcaps(root: Path) -> str:
    data = [{"id": "1", "caption": "A bell rings.", "duration": 2.0}, {"id": "2", "caption": "x", "duration": 1.0}]
    text(root / "json_files" / "SoundBible" / "sb_final.json", json.dumps({"num_captions_per_audio": 1, "data": data}))
    tone(root / "SoundBible_flac" / "1.flac")
    return "SoundBible"


def musicnet(root: Path) -> str:
    text(
        root / "musicnet_metadata.csv",
        "id,composer,composition,movement,ensemble,source,transcriber,catalog_name,seconds",
        "1727,Schubert,Piano Quintet in A major,2. Andante,Piano Quintet,European Archive,x,OP114,447",
        "1728,Schubert,Other,1,Piano Quintet,European Archive,x,OP114,447",
    )
    tone(root / "test_data" / "1727.wav")
    return "test"


def esc50(root: Path) -> str:
    head = "filename,fold,target,category,esc10,src_file,take"
    text(root / "meta" / "esc50.csv", head, "1-1-A-0.wav,1,0,dog,True,1,A", "2-2-A-9.wav,2,9,crying_baby,True,2,A")
    tone(root / "audio" / "2-2-A-9.wav")
    return "fold2"


EXPECTED = {
    "librispeech": (4, 0, {"text": "he began", "speaker": "61", "task": "asr"}),
    "gigaspeech": (2, 1, {"text": "douglas, he said.", "speaker": "POD1", "task": "asr"}),
    "common-voice": (1, 1, {"text": 'He said "no', "speaker": "abc", "task": "asr"}),
    "speechocean762": (1, 0, {"text": "mark is going", "speaker": "0003", "task": "asr"}),
    "clotho": (1, 0, {"text": "Rain falls, hard.", "texts": ("Rain falls, hard.", "b b", "c c", "d d", "e e")}),
    "audiocaps": (1, 1, {"texts": ("Constant rattling noise", "A machine whirs"), "task": "audiocaption_v2"}),
    "wavcaps": (1, 1, {"text": "A bell rings.", "task": "audiocaption_v2"}),
    "musicnet": (1, 0, {"text": "Piano Quintet plays Piano Quintet in A major by Schubert, 2. Andante"}),
    "esc50": (1, 0, {"text": "crying baby", "label": "crying baby"}),
}
MAKERS = {
    maker.__name__.replace("_", "-"): maker
    for maker in (librispeech, gigaspeech, common_voice, speechocean762, clotho, audiocaps, wavcaps, musicnet, esc50)
}


@pytest.mark.parametrize("name", READERS)
def test_each_corpus_in_its_own_layout(name: str, nota: Callable[..., int], tmp_path: Path) -> None:
    root, out = tmp_path / "corpus", tmp_path / "out.json"
    split = MAKERS[name](root)
    rows, missing, first = EXPECTED[name]
    assert nota("data", "prepare", name, root, "--split", split, "--out", out) == 0
    written = read_annotation(out, audio_root=tmp_path if name == "gigaspeech" else root)
    assert len(written) == rows
    for key, value in first.items():
        assert getattr(written[0], key) == value
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert (manifest["rows"], manifest["missing"], manifest["split"]) == (rows, missing, split)
    assert manifest["license"]
    assert manifest["tables_sha256"]
    assert (tmp_path / "out.missing.txt").exists() == bool(missing)
    data = out.read_bytes()
    assert nota("data", "prepare", name, root, "--split", split, "--out", out) == 0
    assert out.read_bytes() == data
    assert nota("data", "prepare", name, root, "--split", "no", "--out", out) == 2
    assert nota("data", "prepare", name, tmp_path, "--out", tmp_path / "x.json") == 1
    assert not (tmp_path / "x.json").exists()


def test_limit_and_exclusion(tmp_path: Path, nota: Callable[..., int]) -> None:
    librispeech(tmp_path / "c")
    text(tmp_path / "names.txt", "61-70968-0000.flac")
    (tmp_path / "names.json").write_text(json.dumps({"a": ["x/61-70968-0001.wav"]}))
    arguments = [
        "data",
        "prepare",
        "librispeech",
        tmp_path / "c",
        "--split",
        "test-clean",
        "--out",
        tmp_path / "o.json",
    ]
    assert (
        nota(*arguments, "--exclude", tmp_path / "names.txt", "--exclude", tmp_path / "names.json", "--limit", 1) == 0
    )
    (row,) = read_annotation(tmp_path / "o.json")
    assert row.path.endswith("61-70970-0000.flac")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_of_ones_own(suffix: str, tmp_path: Path, nota: Callable[..., int]) -> None:
    import pandas

    frame = pandas.DataFrame({"file": ["a.wav", "b.wav"], "words": ["one", "two"], "task": ["asr", ""]})
    table = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(table)
    elif suffix == "jsonl":
        frame.to_json(table, orient="records", lines=True)
    else:
        frame.to_csv(table, index=False, sep="," if suffix == "csv" else "\t")
    for name in ("a", "b"):
        tone(tmp_path / f"{name}.wav")
    columns = ["--column", "path=file", "--column", "text=words"]
    arguments = ["data", "prepare", table, tmp_path, "--out", tmp_path / "o.json"]
    assert nota(*arguments, *columns, "--task", "audiocaption") == 0
    assert [(row.text, row.task) for row in read_annotation(tmp_path / "o.json")] == [
        ("one", "asr"),
        ("two", "audiocaption"),
    ]
    assert nota(*arguments) == 1  # no column `path`
    assert nota(*arguments, "--column", "pat=file") == 2


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_table_of_a_spreadsheet(
    separator: str, tmp_path: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a mark of UTF-8 in front, and semicolons where the decimal point is a comma."""
    table = tmp_path / "t.csv"
    table.write_text(f'file{separator}words\na.wav{separator}"one, two"\n', "utf-8-sig")
    tone(tmp_path / "a.wav")
    arguments = ["data", "prepare", table, tmp_path, "--out", tmp_path / "o.json"]
    assert nota(*arguments, "--column", "path=file", "--column", "text=words") == 0
    assert [row.text for row in read_annotation(tmp_path / "o.json")] == ["one, two"]
    for columns in (["path=file", "text=word"], ["text=words"]):
        capsys.readouterr()
        assert nota(*arguments, *(word for column in columns for word in ("--column", column))) == 1
        assert "there are: file, words. Say which is which by --column" in " ".join(capsys.readouterr().err.split())
    for name, content, message in (
        ("latin.csv", b"path,text\na.wav,Gr\xfc\xdfe\n", "latin.csv: is not UTF-8"),
        ("none.csv", b"path,text\n", "none.csv: holds no rows"),
        ("empty.csv", b"", "empty.csv: holds no rows"),
        ("half.jsonl", b'{"path": "a.wav"}\n{"path":\n', "half.jsonl: row 1 cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        assert nota("data", "prepare", tmp_path / name, tmp_path, "--out", tmp_path / "o.json") == 1
        assert message in " ".join(capsys.readouterr().err.split())
    assert nota("infer", "--task", "asr", "--annotation", table, "--out", tmp_path / "o.csv") == 1
    assert "is a table, and annotations are JSON" in " ".join(capsys.readouterr().err.split())
    assert nota("data", "prepare", tmp_path / "gone.csv", tmp_path, "--out", tmp_path / "o.json") == 2
    assert "Nor is there such a file" in " ".join(capsys.readouterr().err.split())


KILLED_IN_ITS_SIXTH_CLIP = """
import os, signal
import soundfile
from nota_cli.cli import main

write, left = soundfile.write, [5]

def some(file, *arguments, **options):
    write(file, *arguments, **options)
    if not left[0]:
        os.truncate(file, 100)
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1

soundfile.write = some
main()
"""


def test_segments_are_cut_where_they_are_and_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, nota: Callable[..., int]
) -> None:
    """SIGKILL while clips are written: what is there is whole, and the next run ends as one that was never killed."""
    split = gigaspeech(tmp_path / "corpus", segments=120)
    command = ["data", "prepare", "gigaspeech", str(tmp_path / "corpus"), "--split", split, "--hashes", "--out"]
    cut = tmp_path / "killed"
    cut.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_ITS_SIXTH_CLIP, *command, str(cut / "o.json")], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (cut / "o.json").exists()
    assert len(list(cut.rglob("*.flac"))) == 5
    assert len(list(cut.rglob("*.part"))) == 1
    (tmp_path / "whole").mkdir()
    for folder in (cut, tmp_path / "whole"):
        assert nota(*command, folder / "o.json") == 0
    one, other = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (cut, tmp_path / "whole")
    )
    assert one == other
    for row in (0, 7, 119):
        samples, rate = soundfile.read(tmp_path / "whole" / read_annotation(cut / "o.json")[row].path)
        assert (rate, len(samples)) == (16_000, 12_000)
        assert samples == pytest.approx((row + 1) / 244, abs=1e-4)
    for line in (cut / "o.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((cut / name).read_bytes()).hexdigest() == digest


def test_a_segment_that_ends_before_it_begins_is_named(tmp_path: Path) -> None:
    gigaspeech(tmp_path / "corpus")
    with pytest.raises(DataError, match="s1: its segment of POD1.flac ends at 1 s, before it begins"):
        write_clip(Segment(tmp_path / "corpus/audio/podcast/P0001/POD1.flac", 2, 1), tmp_path / "s1.flac")


@pytest.mark.parametrize("column", ["audio", "sound"])
def test_recordings_inside_a_parquet_file(column: str, tmp_path: Path, nota: Callable[..., int]) -> None:
    """As the hub's datasets hold them: bytes and a name, or none, in one column."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    tone(tmp_path / "a.wav")
    data = (tmp_path / "a.wav").read_bytes()
    rows = [{"bytes": data, "path": name} for name in ("train/one.wav", None)]
    table = tmp_path / "train-00000-of-00001.parquet"
    parquet.write_table(pyarrow.table({column: rows, "text": ["one", "two"]}), table)
    out = tmp_path / "o.json"
    options = [] if column == "audio" else ["--column", f"path={column}"]
    assert nota("data", "prepare", table, tmp_path, "--out", out, *options) == 0
    written = read_annotation(out)
    assert [(row.path, row.text) for row in written] == [
        ("o.clips/000000-one.wav", "one"),
        ("o.clips/000001", "two"),
    ]
    assert all((tmp_path / row.path).read_bytes() == data for row in written)


@pytest.mark.parametrize("name", ["librispeech", "speechocean762", "common-voice"])
def test_the_speakers_gender_as_a_question(name: str, tmp_path: Path, nota: Callable[..., int]) -> None:
    root, out = tmp_path / "corpus", tmp_path / "o.json"
    split = MAKERS[name](root)
    text(root / "SPEAKERS.TXT", ";ID |SEX| SUBSET |MINUTES| NAME", "61   | M | test-clean | 8.08 | Paul-Gabriel Wiener")
    text(root / "test" / "spk2gender", "0003 m")
    tone(root / "clips" / "cv_2.mp3")
    assert nota("data", "prepare", name, root, "--split", split, "--task", "gender_QA", "--out", out) == 0
    rows = read_annotation(out)
    gender = "female" if name == "common-voice" else "male"
    assert {(row.task, row.question, row.text) for row in rows} == {
        ("gender_QA", "Is the speaker male or female?", f"The speaker is {gender}.")
    }
    # Of Common Voice's two speakers one has not said what they are.
    assert len(rows) == {"librispeech": 4, "speechocean762": 1, "common-voice": 1}[name]


def test_a_task_that_a_corpus_cannot_give_is_refused(
    tmp_path: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    clotho(tmp_path / "corpus")
    out = tmp_path / "o.json"
    arguments = ["data", "prepare", "clotho", tmp_path / "corpus", "--split", "evaluation", "--out", out]
    assert nota(*arguments, "--task", "gender_QA") == 2
    assert "no task 'gender_QA' can be made of Clotho" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("corpus", "rows"), [("speechocean762", 40), ("instruments", 40), ("cdda", 40)])
def test_real_recordings_through_a_table(corpus: str, rows: int, tmp_path: Path, nota: Callable[..., int]) -> None:
    """Speech with its speakers and sounds with their labels, as they lie on disk; then looked at whole."""
    source = REAL / f"{corpus}.json"
    if not source.is_file():
        pytest.skip(f"needs {source}, real recordings")
    items = json.loads(source.read_text())["annotation"]
    text(tmp_path / "t.jsonl", *map(json.dumps, items))
    out = tmp_path / "o.json"
    command = ["data", "prepare", tmp_path / "t.jsonl", REAL, "--out", out, "--limit", rows, "--hashes"]
    assert nota(*command) == 0
    written = read_annotation(out, audio_root=REAL)
    assert [(row.path, row.speaker, row.label) for row in written] == [
        (item["path"], item.get("speaker"), item.get("label")) for item in items[:rows]
    ]
    assert len((tmp_path / "o.sha256").read_text().splitlines()) == len({row.path for row in written})
    assert nota("data", "check", out, "--audio-root", REAL, "--full", "--json") in (0, 1)


def test_texts() -> None:
    assert clean_text("  HE   BEGAN ") == "he began"
    assert clean_text("He said  OK") == "He said OK"


def test_names() -> None:
    with pytest.raises(UsageError, match="no corpus 'libri'; there are: librispeech"):
        reader_of("libri")
    with pytest.raises(DataError, match="no such folder"):
        prepare(reader_of("clotho"), Path("/nowhere"), Path("x.json"))
