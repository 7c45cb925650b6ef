import json
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nota_cli.errors import CheckpointError, DataError, RecipeError, UsageError
from nota_cli.recipe.load import load_recipe, starting_from
from nota_cli.recipe.schema import Recipe
from nota_cli.training.loop import train
from nota_cli.training.optim import learning_rate


@pytest.fixture(scope="module")
def unbroken(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    train(load_recipe(str(tiny_recipe)), folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "decoder" / "model.safetensors")}


def test_a_run_leaves_a_whole_checkpoint_and_its_metrics(unbroken: Path) -> None:
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert metrics["steps"] == 6
    assert {"validation_loss", "wer", "right_captions"} <= set(metrics)
    assert not (unbroken / "trainer" / "state.safetensors").exists()
    assert load_recipe(str(unbroken)).decoder.path == str(unbroken / "decoder")


@pytest.mark.parametrize("cut", [1, 4])
def test_a_run_cut_anywhere_ends_with_the_same_weights(
    cut: int, unbroken: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(str(tiny_recipe))
    train(recipe, tmp_path, stop_after=cut)
    assert not (tmp_path / "model.safetensors").exists()
    train(recipe, tmp_path, resume=True)
    expected, found = weights(unbroken), weights(tmp_path)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_loss_falls_on_a_few_clips(tiny_recipe: Path, tmp_path: Path) -> None:
    settings = ["train.steps=60", "train.average=0", "train.augment={}", "data.validation=[]", "train.save_every=100"]
    train(load_recipe(str(tiny_recipe), [*settings, "train.learning_rate=3e-3"]), tmp_path)
    log = [json.loads(line) for line in (tmp_path / "trainer" / "metrics.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]


def test_another_seed_gives_other_weights(unbroken: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    train(load_recipe(str(tiny_recipe), ["train.seed=5", "data.validation=[]"]), tmp_path)
    name = "connector.speech_llama_proj.weight"
    assert not torch.equal(weights(tmp_path)[name], weights(unbroken)[name])


def test_an_unfinished_run_is_neither_overwritten_nor_mixed_with_another_recipe(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(str(tiny_recipe))
    train(recipe, tmp_path, stop_after=2)
    with pytest.raises(CheckpointError, match="--resume"):
        train(recipe, tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(load_recipe(str(tiny_recipe), ["train.learning_rate=0.5"]), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(recipe, tmp_path / "elsewhere", resume=True)


def test_a_finished_run_is_not_resumed_and_the_advice_holds(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe, folder = load_recipe(str(tiny_recipe), ["train.steps=1"]), tmp_path / "run"
    train(recipe, folder)
    with pytest.raises(CheckpointError, match="nothing to resume.* --init .*; to train it anew, --restart"):
        train(recipe, folder, resume=True)
    with pytest.raises(CheckpointError, match="--restart to replace it"):
        train(recipe, folder)
    assert train(recipe, folder, restart=True).folder == folder
    assert train(starting_from(recipe, folder), tmp_path / "on").folder == tmp_path / "on"


def test_a_log_has_each_step_once_and_a_restart_begins_it_anew(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), ["train.validate_every=1"])
    log = tmp_path / "trainer" / "metrics.jsonl"

    def steps() -> list[int]:
        return [entry["step"] for entry in map(json.loads, log.read_text().splitlines()) if "validation_loss" in entry]

    train(recipe, tmp_path, stop_after=2)
    with log.open("a") as file:
        file.write('{"step": 3, "validation_loss": 9}\n{"step": 4, "valida')  # as a kill after the last save leaves it
    train(recipe, tmp_path, resume=True)
    assert steps() == [1, 2, 3, 4, 5, 6]
    train(recipe, tmp_path, restart=True, stop_after=1)
    assert steps() == [1]


def test_a_run_cut_in_its_last_validation_still_reports_it(
    tiny_recipe: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(model: object) -> dict[str, float]:
        raise KeyboardInterrupt

    recipe = load_recipe(str(tiny_recipe), ["train.validate_every=100"])
    with monkeypatch.context() as patch:
        patch.setattr("nota_cli.training.loop.validate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path)
    train(recipe, tmp_path, resume=True)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads((unbroken / "metrics.json").read_text())


def test_a_trained_model_is_overwritten_only_when_asked_for(unbroken: Path, tiny_recipe: Path) -> None:
    with pytest.raises(CheckpointError, match="--restart to replace it"):
        train(load_recipe(str(tiny_recipe)), unbroken)


def test_what_cannot_work_is_said_before_the_first_step(tiny_recipe: Path, clips: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny_recipe))
    with pytest.raises(UsageError, match="choose one"):
        train(recipe, tmp_path, resume=True, restart=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        train(recipe, tmp_path / "file" / "run")
    gone = f"data.validation=[{{annotation: {clips / 'all.json'}, audio_root: {tmp_path}}}]"
    with pytest.raises(DataError, match="row 0: there is no file"):
        train(load_recipe(str(tiny_recipe), [gone]), tmp_path / "run")


def test_training_goes_on_from_the_decoder_of_the_checkpoint_it_starts_from(
    unbroken: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    """A recipe whose decoder has random weights takes the trained one of `train.init`."""
    still = ["train.learning_rate=1e-30", "train.warmup_rate=0", "train.minimum_rate=0", "train.average=0"]
    train(load_recipe(str(tiny_recipe), [f"train.init={unbroken}", "data.validation=[]", *still]), tmp_path)
    before, after = weights(unbroken), weights(tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_lora_trains_on_the_frozen_decoder_of_an_earlier_stage(
    unbroken: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    changes = [
        f"decoder={{path: {unbroken / 'decoder'}, config: null, tokenizer: null, train: false}}",
        f"train.init={unbroken}",
        "speech_encoder.train=false",
        "audio_encoder.train=false",
        "lora={rank: 2, dropout: 0}",
        "data.validation=[]",
    ]
    train(load_recipe(str(tiny_recipe), changes), tmp_path)
    before, after = load_file(unbroken / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"connector"}
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any(tensor.abs().sum() > 0 for name, tensor in adapter.items() if "lora_B" in name)
    for file in (*tmp_path.glob("*.yaml"), *tmp_path.rglob("*.json")):
        assert str(unbroken) not in file.read_text(), file  # where parts lay on this machine helps nobody elsewhere
    frozen = load_file(unbroken / "decoder" / "model.safetensors")
    copied = load_file(tmp_path / "decoder" / "model.safetensors")
    assert all(torch.equal(frozen[name], copied[name]) for name in frozen)


def test_a_recipe_without_data_or_with_nothing_to_train_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.train"):
        train(load_recipe(str(tiny_recipe), ["data.train=[]"]), tmp_path)
    frozen = [f"{part}.train=false" for part in ("speech_encoder", "audio_encoder", "connector", "decoder")]
    with pytest.raises(RecipeError, match="trains nothing"):
        train(load_recipe(str(tiny_recipe), frozen), tmp_path)


def test_the_schedule_is_the_organisers() -> None:
    from nota_cli.recipe.training import Train

    spec = Train()
    assert learning_rate(0, spec) == pytest.approx(1e-6)
    assert learning_rate(1500, spec) == pytest.approx((1e-6 + 3e-5) / 2)
    assert learning_rate(45000, spec) == pytest.approx((3e-5 + 1e-5) / 2)
    assert learning_rate(90000, spec) == pytest.approx(1e-5)


def test_a_run_that_reads_shards_in_order_goes_on_in_the_middle_of_an_epoch(
    tiny_recipe: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTA_CACHE", str(tmp_path / "kept"))
    rows = json.loads((clips / "all.json").read_text())["annotation"]
    for number, row in enumerate(rows):
        with tarfile.open(tmp_path / f"shard-{number % 2}.tar", "a") as archive:
            archive.add(clips / row["path"], f"{number}.wav")
        row["path"] = f"shard-{number % 2}.tar/{number}.wav"
    (tmp_path / "all.json").write_text(json.dumps({"annotation": rows}))
    shards = f"{{annotation: {tmp_path / 'all.json'}, audio_root: {tmp_path}, shuffle_buffer: 2}}"
    others = f"{{annotation: {clips / 'asr.json'}, audio_root: {clips}, join: 2}}"

    def read(source: str) -> Recipe:
        return load_recipe(str(tiny_recipe), [f"data.train=[{source}, {others}]", "data.validation=[]"])

    recipe = read(shards)
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "cut", stop_after=1)  # three clips of an epoch of five
    train(recipe, tmp_path / "cut", stop_after=3, resume=True)
    train(recipe, tmp_path / "cut", resume=True)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    train(read(shards.replace("buffer: 2", "buffer: 0")), tmp_path / "drawn")
    name = "connector.speech_llama_proj.weight"
    assert not torch.equal(weights(tmp_path / "drawn")[name], expected[name])
