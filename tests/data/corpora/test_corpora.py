import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from helpers.paths import REPOSITORY, SAMPLES
from nota_cli.data.annotation import read_annotation
from nota_cli.data.corpora.base import Corpus, Prepared, write_annotation
from nota_cli.data.corpora.caption_labels import CORPORA, caption_metrics, register, right_captions
from nota_cli.data.corpora.esc10 import (
    ESC10_CAPTIONS,
    caption_accuracy,
    caption_accuracy_of_csv,
    caption_label,
    prepare_esc10,
)
from nota_cli.data.corpora.fsdd import DIGIT_WORDS, prepare_digits
from nota_cli.errors import DataError, UsageError

SHARED = REPOSITORY.parent / "shared" / "data"
needs_corpora = pytest.mark.skipif(not SHARED.is_dir(), reason="the recordings in ../shared/data are absent")


def rows_of(path: Path) -> list[dict]:
    return json.loads(path.read_text())["annotation"]


def tone(path: Path, seconds: float = 0.1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(8000 * seconds), 0.1), 8000)


@pytest.fixture
def fsdd(tmp_path: Path) -> Path:
    for speaker in ("ann", "bob"):
        for digit in range(10):
            for take in range(4):
                tone(tmp_path / "fsdd" / f"{digit}_{speaker}_{take}.wav", 0.1 + 0.01 * digit)
    return tmp_path / "fsdd"


@pytest.fixture
def esc10(tmp_path: Path) -> Path:
    for number, label in enumerate(ESC10_CAPTIONS):
        folder = label if number % 2 else f"{number:03d} - {label.replace('-', ' ').capitalize()}"
        for fold in (1, 2, 3):
            for take in "AB":
                tone(tmp_path / "esc10" / folder / f"{fold}-{number}-{take}.wav")
    return tmp_path / "esc10"


class TestDigits:
    def test_training_and_development_never_share_a_recording(self, fsdd: Path, tmp_path: Path) -> None:
        train, dev = prepare_digits(fsdd, tmp_path / "out", hold_out=[2], dev_strings=40)
        train_files = [row["path"] for row in rows_of(train.path)]
        dev_files = {name for row in rows_of(dev.path) for name in [row["path"], *row["expand_wav"]]}
        assert len(train_files) == len(set(train_files)) == train.rows == 60
        assert all(name.endswith("_2.wav") for name in dev_files)
        assert not any(name.endswith("_2.wav") for name in train_files)

    def test_rows_say_what_their_files_say(self, fsdd: Path, tmp_path: Path) -> None:
        train, dev = prepare_digits(fsdd, tmp_path / "out", hold_out=[0, 3], dev_strings=100, max_digits=3)
        rows = rows_of(dev.path)
        assert [row["testset_id"] for row in rows] == [f"test{number:04d}" for number in range(100)]
        assert Counter(row["speaker"] for row in rows) == {"ann": 50, "bob": 50}
        assert {len(row["text"].split()) for row in rows} == {1, 2, 3}
        for row in rows + rows_of(train.path):
            parts = [Path(name).stem.split("_") for name in [row["path"], *row.get("expand_wav", [])]]
            assert row["text"] == " ".join(DIGIT_WORDS[int(digit)] for digit, _, _ in parts)
            assert {speaker for _, speaker, _ in parts} == {row["speaker"]}
            assert row["task"] == "asr"

    def test_seed_decides_and_nothing_else(self, fsdd: Path, tmp_path: Path) -> None:
        written = [
            prepare_digits(fsdd, tmp_path / str(run), hold_out=[0], dev_strings=30, seed=seed)[1].path.read_bytes()
            for run, seed in enumerate((5, 5, 6))
        ]
        assert written[0] == written[1] != written[2]

    def test_summary_counts_seconds_and_speakers(self, fsdd: Path, tmp_path: Path) -> None:
        train, dev = prepare_digits(fsdd, tmp_path / "out", hold_out=[0], dev_strings=6)
        assert train.groups == dev.groups == ("ann", "bob")
        assert train.seconds == pytest.approx(60 * 0.145)
        words = [word for row in rows_of(dev.path) for word in row["text"].split()]
        assert dev.seconds == pytest.approx(sum(0.1 + 0.01 * DIGIT_WORDS.index(word) for word in words))

    def test_wrong_folders_name_the_corpus_and_its_home(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no such folder.*free-spoken-digit-dataset"):
            prepare_digits(tmp_path / "absent", tmp_path)
        tone(tmp_path / "something.wav")
        with pytest.raises(DataError, match=r"7_jackson_32\.wav.*free-spoken-digit-dataset"):
            prepare_digits(tmp_path, tmp_path)

    @pytest.mark.parametrize(("hold_out", "said"), [([7, 8], "none"), (range(4), "all")])
    def test_a_hold_out_that_leaves_one_side_empty_is_refused(self, fsdd, tmp_path, hold_out, said) -> None:
        with pytest.raises(DataError, match=f"{said} of the recordings of speaker ann.*has 0 to 3"):
            prepare_digits(fsdd, tmp_path / "out", hold_out=hold_out)
        assert not (tmp_path / "out").exists()

    def test_unreadable_recordings_are_all_named_and_nothing_is_written(self, fsdd: Path, tmp_path: Path) -> None:
        (fsdd / "0_ann_0.wav").write_text("not audio")
        tone(fsdd / "1_bob_3.wav", 0)
        with pytest.raises(DataError, match=r"(?s)2 recordings.*0_ann_0\.wav.*1_bob_3\.wav: no samples"):
            prepare_digits(fsdd, tmp_path / "out", hold_out=[0])
        assert not (tmp_path / "out").exists()

    def test_counts_out_of_range_are_refused(self, fsdd: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="dev_strings"):
            prepare_digits(fsdd, tmp_path, dev_strings=10_001)

    @needs_corpora
    def test_real_corpus(self, tmp_path: Path) -> None:
        train, dev = prepare_digits(SHARED / "fsdd", tmp_path)
        assert (train.rows, dev.rows, len(dev.groups)) == (2400, 300, 6)
        assert set(Counter(row["speaker"] for row in rows_of(dev.path)).values()) == {50}


class TestEsc10:
    def test_folds_are_kept_apart_and_every_row_is_captioned(self, esc10: Path, tmp_path: Path) -> None:
        train, dev = prepare_esc10(esc10, tmp_path / "out", hold_out_fold=3)
        assert (train.rows, dev.rows) == (40, 20)
        assert train.groups == dev.groups == tuple(sorted(ESC10_CAPTIONS))
        for prepared, folds in ((train, "12"), (dev, "3")):
            for row in rows_of(prepared.path):
                assert (esc10 / row["path"]).is_file()
                assert Path(row["path"]).name[0] in folds
                assert row["text"] in ESC10_CAPTIONS[row["label"]]
                assert row["task"] == "audiocaption_v2"
        assert [row["testset_id"] for row in rows_of(dev.path)] == [f"test{number:04d}" for number in range(20)]
        assert all("testset_id" not in row for row in rows_of(train.path))
        assert all(tuple(row["texts"]) == ESC10_CAPTIONS[row["label"]] for row in rows_of(train.path))
        wordings = Counter(row["text"] for prepared in (train, dev) for row in rows_of(prepared.path))
        assert set(wordings) == {text for texts in ESC10_CAPTIONS.values() for text in texts}

    def test_missing_classes_are_named(self, esc10: Path, tmp_path: Path) -> None:
        shutil.rmtree(esc10 / "chainsaw")
        with pytest.raises(DataError, match=r"no clips for chainsaw\..*ESC-10"):
            prepare_esc10(esc10, tmp_path / "out")

    def test_a_fold_that_is_not_there_is_refused(self, esc10: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="fold 4.*folds 1, 2, 3"):
            prepare_esc10(esc10, tmp_path / "out")

    @needs_corpora
    def test_real_corpus(self, tmp_path: Path) -> None:
        train, dev = prepare_esc10(SHARED / "esc10", tmp_path)
        assert (train.rows, dev.rows) == (240, 80)
        assert set(Counter(row["text"] for row in rows_of(dev.path)).values()) == {2}


class TestCaptions:
    def test_every_wording_names_its_class_and_no_other(self) -> None:
        for label, texts in ESC10_CAPTIONS.items():
            assert len(set(texts)) == 4
            for text in texts:
                assert caption_label(text) == label
                assert text == text.lower()
                assert text.replace(" ", "").isalpha()

    def test_none_or_several_sounds_name_no_class(self) -> None:
        assert caption_label("a car drives past") is None
        assert caption_label("") is None
        assert caption_label("a dog barks in the rain") is None
        assert caption_label("the crying of a dog can be heard") is None
        assert caption_label("a train passes and a firefighter speaks") is None  # parts of words do not count

    def test_key_words_are_found_in_any_case_and_beside_punctuation(self) -> None:
        assert caption_label("Waves, and the SEA.") == "sea-waves"
        assert caption_label("somebody sneezes!") == "person-sneeze"

    def test_accuracy(self) -> None:
        captions = ["a dog is barking", "rain and a dog", "the waves roll in", "a baby cries loudly"]
        assert caption_accuracy(captions, ["dog-bark", "rain", "sea-waves", "rooster"]) == 0.5
        with pytest.raises(DataError, match="1 captions for 2 labels"):
            caption_accuracy(["a dog"], ["dog-bark", "rain"])

    def test_accuracy_of_a_csv_goes_by_id_not_by_order(self, tmp_path: Path) -> None:
        annotation, submission = tmp_path / "a.json", tmp_path / "s.csv"
        rows = [
            {"testset_id": "test0000", "text": "a dog is barking"},  # without a label, the reference tells it
            {"testset_id": "test0001", "text": "", "label": "rain"},
        ]
        annotation.write_text(json.dumps({"annotation": rows}))
        submission.write_text("testset_id,text\ntest0001,the rain falls outside\ntest0000,a dog barks loudly\n")
        assert caption_accuracy_of_csv(submission, annotation) == 1
        submission.write_text("testset_id,text\ntest0001,the rain falls outside\n")
        with pytest.raises(DataError, match="test0000: no caption"):
            caption_accuracy_of_csv(submission, annotation)
        submission.write_text("id,caption\n")
        with pytest.raises(DataError, match="needs the columns"):
            caption_accuracy_of_csv(submission, annotation)
        with pytest.raises(DataError, match=r"s\.csv: cannot be read"):
            caption_accuracy_of_csv(tmp_path / "absent" / "s.csv", annotation)
        submission.write_text("testset_id,text\n")
        with pytest.raises(DataError, match=r"s\.csv: cannot read"):
            caption_accuracy_of_csv(submission, submission)


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_samples", REPOSITORY / "scripts" / "make_samples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_samples"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


class TestSamples:
    @pytest.mark.parametrize("task", ["asr", "aac"])
    def test_shipped_clips_are_sound_and_small(self, task: str) -> None:
        rows = rows_of(SAMPLES / f"{task}.json")
        assert [row["testset_id"] for row in rows] == [f"test{number:04d}" for number in range(6)]
        for row in rows:
            clip, rate = soundfile.read(SAMPLES / row["path"])
            assert (rate, clip.ndim) == (16_000, 1)
            assert 1 <= len(clip) / rate <= 5
            assert 0.3 < np.abs(clip).max() < 0.9
            assert np.sqrt(np.mean(clip**2)) > 0.01
            if task == "aac":
                assert caption_label(row["text"]) == row["label"]
        listed = {SAMPLES / row["path"] for name in ("asr.json", "aac.json") for row in rows_of(SAMPLES / name)}
        assert set((SAMPLES / "audio").iterdir()) == listed
        assert sum(path.stat().st_size for path in listed) <= 1_000_000

    def test_shipped_clips_are_remade(self, tmp_path: Path) -> None:
        if shutil.which("espeak-ng") is None:
            pytest.skip("espeak-ng is not installed")
        if " 1.51 " not in subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True).stdout:
            pytest.skip("the shipped speech comes from espeak-ng 1.51; another version is installed")
        script().make_shipped(tmp_path)
        for name in ("asr.json", "aac.json"):
            assert (tmp_path / name).read_bytes() == (SAMPLES / name).read_bytes()
            for row in rows_of(SAMPLES / name):
                made, _ = soundfile.read(tmp_path / row["path"], dtype="int16")
                shipped, _ = soundfile.read(SAMPLES / row["path"], dtype="int16")
                # other processors may round a transform's last bit otherwise
                np.testing.assert_allclose(made, shipped, rtol=0, atol=1, err_msg=row["path"])

    def test_training_clips_are_never_the_shipped_ones(self, tmp_path: Path) -> None:
        if shutil.which("espeak-ng") is None:
            pytest.skip("espeak-ng is not installed")
        module = script()
        module.make_training(tmp_path, strings=8, sounds=1, seed=0)
        speech, sounds = rows_of(tmp_path / "train-synth-asr.json"), rows_of(tmp_path / "train-synth-aac.json")
        assert (len(speech), len(sounds)) == (8, 6)
        assert {row["label"] for row in sounds} == set(module.SOUNDS)
        shipped = {hashlib.sha256(path.read_bytes()).digest() for path in (SAMPLES / "audio").iterdir()}
        assert not shipped & {hashlib.sha256(path.read_bytes()).digest() for path in (tmp_path / "audio").iterdir()}

    def test_training_strings_leave_the_shipped_strings_out(self) -> None:
        module = script()
        strings = {item.text for item in module.training_utterances(5000, np.random.default_rng(0))}
        assert strings.isdisjoint(row["text"] for row in rows_of(SAMPLES / "asr.json"))
        assert {len(text.split()) for text in strings} == {1, 2, 3, 4, 5}


class TestRegistry:
    def test_each_label_is_judged_by_its_own_corpus_alone(self) -> None:
        captions = ["a dog is barking", "the rain falls outside", "a cello plays", "a cello plays"]
        metrics, unknown = caption_metrics(captions, ["dog-bark", "rooster", "Cello", "Flute"])
        assert metrics == {"right_captions": 50.0}
        assert unknown == ["Cello", "Flute"]
        assert caption_metrics(["a dog"], ["Cello"]) == ({}, ["Cello"])
        assert caption_metrics([], []) == ({}, [])

    def test_clips_that_no_corpus_can_judge_are_neither_right_nor_wrong(self) -> None:
        captions = ["a dog is barking", "the rain falls outside", "a cello plays", "a dog"]
        assert right_captions(captions, ["dog-bark", "rooster", "Cello", None]) == [True, False, None, None]

    def test_a_corpus_from_outside_is_prepared_and_judged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nota_cli.data.corpora.caption_labels.CORPORA", dict(CORPORA))

        def prepare(folder: Path, out: Path) -> list[Prepared]:
            rows = [
                {"path": path.name, "text": f"a {path.stem}", "task": "audiocaption_v2", "label": path.stem}
                for path in sorted(folder.glob("*.wav"))
            ]
            write_annotation(out / "bells.json", rows)
            return [Prepared(out / "bells.json", len(rows), ("bell", "gong"), 0.2)]

        bells = Corpus(
            "bells",
            "Bells",
            "https://example.org/bells",
            "CC0",
            prepare,
            labels=frozenset({"bell", "gong"}),
            label_of=lambda text: text.split()[-1],
            metric="right_bells",
        )
        register(bells)

        for name in bells.labels:
            tone(tmp_path / f"{name}.wav")
        (written,) = bells.prepare(tmp_path, tmp_path)
        rows = read_annotation(written.path)
        assert [row.label for row in rows] == ["bell", "gong"]
        metrics, unknown = caption_metrics(["a bell", "a bell", "a dog"], ["bell", "gong", "dog-bark"])
        assert metrics == {"right_bells": 50.0, "right_captions": 100.0}
        assert not unknown

    def test_what_two_corpora_cannot_share(self) -> None:
        home = "https://example.org"
        for corpus in (
            Corpus("esc10", "again", home, "CC0", prepare_esc10),
            Corpus("other", "its labels", home, "CC0", prepare_esc10, labels=frozenset({"rain"})),
            Corpus("other", "its metric", home, "CC0", prepare_esc10, metric="right_captions"),
        ):
            with pytest.raises(UsageError, match="is that of corpus esc10"):
                register(corpus)
        assert set(CORPORA) == {"fsdd", "esc10"}
