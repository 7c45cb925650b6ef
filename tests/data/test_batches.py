import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nota_cli.data.annotation import read_annotation
from nota_cli.data.batches import TrainingBatches
from nota_cli.data.row_batches import Batch, RowBatches, loader
from nota_cli.errors import DataError
from nota_cli.features.batch import FRONT_ENDS, FeatureSpec, extract
from nota_cli.inference.predict import predict
from nota_cli.models.build import build
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.training import Augment, Source

SPEC = FeatureSpec(mel_bins=80, front_end="beats", pad="clip", max_seconds=30.0)
EVERYTHING = Augment(speed=0.1, gain_db=6, noise=0.5, roll=0.5, tone=6, mask_time=10, mask_frequency=8)


def source(clips: Path, name: str = "all", **settings: object) -> Source:
    return Source.model_validate({"annotation": str(clips / f"{name}.json"), "audio_root": str(clips), **settings})


def mixture(clips: Path) -> list[Source]:
    """Every kind of setting at once."""
    background = {"background": str(clips / "all.json"), "background_root": str(clips), "background_probability": 0.8}
    return [
        source(clips, "aac", mix_same_label=0.5, crop_seconds=1.5),
        source(clips, "asr", join=3, weight=2.0, **background),
    ]


def same(one: Batch, other: Batch) -> bool:
    pairs = [(one.features.log_mel, other.features.log_mel), (one.features.fbank, other.features.fbank)]
    texts = (one.texts, one.labels, one.queries) == (other.texts, other.labels, other.queries)
    return texts and all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)


def test_a_training_batch_depends_on_seed_and_number_alone(clips: Path) -> None:
    """Whatever was drawn before it: a resumed run, and each of several workers, must see the same."""
    walked = TrainingBatches(mixture(clips), SPEC, EVERYTHING, 4, seed=1)
    in_order = [walked[index] for index in range(12)]
    for index in range(12):
        assert same(TrainingBatches(mixture(clips), SPEC, EVERYTHING, 4, seed=1)[index], in_order[index])
    assert not same(in_order[0], in_order[1])
    assert not same(TrainingBatches(mixture(clips), SPEC, EVERYTHING, 4, seed=2)[0], in_order[0])


def test_a_clip_is_the_same_whether_it_was_loaded_as_a_digit_or_as_a_background_first(clips: Path) -> None:
    """Joined clips keep their length; as a background the same file is filled up to a second."""
    background = {"background": str(clips / "asr.json"), "background_root": str(clips), "background_probability": 1.0}

    def made() -> TrainingBatches:
        return TrainingBatches([source(clips, "asr", join=2, **background)], SPEC, Augment(), 1, seed=0)

    walked = made()
    assert all(same(walked[index], made()[index]) for index in range(20))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_keeps_the_order_and_the_random_state(workers: int, clips: Path) -> None:
    batches = TrainingBatches(mixture(clips), SPEC, Augment(), 2, seed=1)
    state = torch.get_rng_state()
    found = list(loader(batches, [4, 0, 2], workers))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(same(batch, batches[index]) for batch, index in zip(found, [4, 0, 2], strict=True))


def test_ctrl_c_is_for_the_process_that_reads(clips: Path) -> None:
    """A terminal sends it to all of them; workers that die of it keep the reader waiting."""
    batches = TrainingBatches(mixture(clips), SPEC, Augment(), 2, seed=1)
    stream = loader(batches, range(12), 2)
    found = [next(stream), next(stream)]
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
    found += stream
    assert all(same(batch, batches[index]) for index, batch in enumerate(found))
    assert len(found) == 12
    for worker in workers:
        worker.join(5)
        assert worker.exitcode == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_what_stops_a_worker_arrives_as_it_was_raised(workers: int, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("not audio")
    (tmp_path / "bad.json").write_text(json.dumps({"annotation": [{"path": "bad.wav", "task": "asr"}]}))
    rows = read_annotation(tmp_path / "bad.json")
    with pytest.raises(DataError, match=r"bad\.wav \(annotation row 0\)"):
        list(loader(RowBatches(rows, [[0]], tmp_path, SPEC), [0], workers))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("front_end", ["beats", "ced", "eat", None])
def test_features_are_the_same_whoever_makes_them(
    workers: int, front_end: str | None, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = read_annotation(clips / "all.json")[:5]
    here = replace(SPEC, front_end=front_end, device=torch.device("cpu"))
    in_workers, late = (
        RowBatches(rows, [[2, 0], [1, 4, 3]], clips, spec) for spec in (replace(here, device=None), here)
    )
    expected = list(loader(in_workers, [1, 0], workers))
    made: list[int] = []
    monkeypatch.setattr("nota_cli.features.batch.extract", lambda *a, **k: made.append(1) or extract(*a, **k))
    found = list(loader(late, [1, 0], workers))
    assert len(made) == 2  # in this process
    for one, other in zip(found, expected, strict=True):
        assert (one.rows, one.texts, one.labels, one.queries) == (other.rows, other.texts, other.labels, other.queries)
        for name in ("log_mel", "log_mel_lengths", "fbank", "fbank_lengths"):
            values = getattr(one.features, name), getattr(other.features, name)
            assert values == (None, None) if front_end is None and "fbank" in name else torch.equal(*values)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_is_not_there_is_told_by_the_loader_that_makes_features(workers: int, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_text("not audio")
    (tmp_path / "bad.json").write_text(json.dumps({"annotation": [{"path": "bad.wav", "task": "asr"}]}))
    batches = RowBatches(
        read_annotation(tmp_path / "bad.json"), [[0]], tmp_path, replace(SPEC, device=torch.device("cpu"))
    )
    with pytest.raises(DataError, match=r"bad\.wav \(annotation row 0\)"):
        list(loader(batches, [0], workers))


@pytest.mark.parametrize("where", ["auto", "cpu", "device"])
def test_the_recipe_says_where_inference_makes_features(where: str, tiny_checkpoint: Path, clips: Path) -> None:
    recipe = load_recipe(str(tiny_checkpoint), [f"audio.features={where}", f"checkpoint={tiny_checkpoint}"])
    model, rows = build(recipe), read_annotation(clips / "all.json")[:3]
    assert model.preprocessor().device == (torch.device("cpu") if where == "device" else None)
    on_cuda = model.preprocessor(torch.device("cuda:0")).device
    assert on_cuda == (None if where == "cpu" else torch.device("cuda:0"))
    plain = build(recipe.model_copy(update={"audio": recipe.audio.model_copy(update={"features": "cpu"})}))
    assert predict(model, rows, clips) == predict(plain, rows, clips)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("pad", ["30s", "clip"])
def test_cuda_makes_the_features_of_the_cpu(front_end: str, pad: str) -> None:
    rng = np.random.default_rng(0)
    waves = [rng.standard_normal(size).astype(np.float32) * 0.1 for size in (16_000, 48_321)]
    on_cpu, on_cuda = (extract(waves, 80, front_end=front_end, pad=pad, device=place) for place in ("cpu", "cuda"))
    assert on_cuda.log_mel.is_cuda
    assert on_cuda.fbank.is_cuda
    for name in ("log_mel", "log_mel_lengths", "fbank", "fbank_lengths"):
        expected, found = getattr(on_cpu, name), getattr(on_cuda, name)
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)
        assert found.shape == expected.shape


def test_joined_rows_have_their_texts_in_order_and_their_lengths_in_sum(clips: Path) -> None:
    batches = TrainingBatches([source(clips, "asr", join=3, gap_seconds=[0, 0])], SPEC, Augment(), 1, seed=0)
    counts = set()
    for index in range(20):
        batch = batches[index]
        count = len(batch.texts[0].split()) // 3
        assert batch.texts[0] == " ".join(["three seven one"] * count)
        seconds = int(batch.features.log_mel_lengths[0]) / 100
        assert max(1.0, 0.4 * count) - 0.02 <= seconds <= max(1.0, 1.7 * count) + 0.02  # clips of 0.4 and 1.7 s
        counts.add(count)
    assert counts == {1, 2, 3}


def test_gaps_are_drawn_between_their_bounds(clips: Path) -> None:
    plain = TrainingBatches([source(clips, "asr", join=2, gap_seconds=[0, 0])], SPEC, Augment(), 1, seed=0)
    gapped = TrainingBatches([source(clips, "asr", join=2, gap_seconds=[0.5, 0.5])], SPEC, Augment(), 1, seed=0)
    frames = [[int(batches[index].features.log_mel_lengths[0]) for index in range(12)] for batches in (plain, gapped)]
    assert min(frames[1]) >= 140  # the shortest clip is 0.4 s, with a gap before and one behind
    assert np.mean(frames[1]) > np.mean(frames[0]) + 50


def test_longer_clips_are_cropped(clips: Path) -> None:
    batches = TrainingBatches([source(clips, "aac", crop_seconds=1.1)], SPEC, Augment(), 4, seed=0)
    assert int(batches[0].features.log_mel_lengths.max()) <= 111


def test_the_ramp_holds_back_the_background_and_the_masks(clips: Path) -> None:
    """At the start of the ramp a batch is what it would be without them; at its end all are at full strength."""
    loud = {"background": str(clips / "aac.json"), "background_root": str(clips), "background_probability": 1.0}
    augment = Augment(tone=20, mask_time=30, mask_frequency=30, noise=1.0)
    ramped = TrainingBatches([source(clips, "asr", **loud)], SPEC, augment, 2, seed=0, ramp=10)
    plain = TrainingBatches([source(clips, "asr", **{**loud, "background_probability": 0.0})], SPEC, Augment(), 2, 0)
    full = TrainingBatches([source(clips, "asr", **loud)], SPEC, augment, 2, seed=0)
    assert same(ramped[0], plain[0])
    assert not same(ramped[5], full[5])
    assert same(ramped[10], full[10])


def test_sources_are_drawn_by_weight(clips: Path) -> None:
    sources = [source(clips, "aac", weight=1.0), source(clips, "asr", weight=9.0)]
    batch = TrainingBatches(sources, SPEC, Augment(), 60, seed=0)[0]
    assert 45 <= sum(query.task == "asr" for query in batch.queries) < 60


def test_label_names_are_sorted_and_each_once(clips: Path) -> None:
    assert TrainingBatches([source(clips), source(clips)], SPEC, Augment(), 1, seed=0).label_names == ["rain"]


def test_rows_come_as_they_are_and_padding_is_zero(clips: Path) -> None:
    rows = read_annotation(clips / "all.json")
    batch = RowBatches(rows, [[0, 1], [4, 2]], clips, SPEC)[1]
    assert batch.rows == [4, 2]
    assert batch.texts == [rows[4].text, rows[2].text]
    assert batch.features.log_mel_lengths.tolist() == [310, 230]
    assert not batch.features.log_mel[1, :, 230:].any()


def test_what_training_data_lacks_is_said_before_the_first_step(clips: Path, tmp_path: Path) -> None:
    rows = json.loads((clips / "asr.json").read_text())["annotation"]

    def refused(change: dict[str, object], message: str, **settings: object) -> None:
        (tmp_path / "a.json").write_text(json.dumps({"annotation": [rows[0], {**rows[1], **change}]}))
        changed = source(clips, annotation=str(tmp_path / "a.json"), **settings)
        with pytest.raises(DataError, match=message):
            TrainingBatches([changed], SPEC, Augment(), 1, seed=0)

    refused({"text": None}, r"rows 1 have no text")
    refused({"path": "audio/gone.wav"}, r"row 1: there is no file .*gone\.wav")
    refused({"speaker": None}, r"row 1 .*`speaker`", join=2)
    refused({}, r"`label`", mix_same_label=0.5)
