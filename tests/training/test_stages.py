"""Stages of a recipe: one command ends with the bytes of the commands by hand, and a cut run goes on in its stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nota_cli.cli import main
from nota_cli.errors import RecipeError
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.sources import stages_with_data_there
from nota_cli.training import loop

Nota = Callable[..., int]
FROZEN: dict[str, Any] = {
    "speech_encoder": {"train": False},
    "audio_encoder": {"train": False},
    "decoder": {"train": False},
    "lora": {"rank": 2},
    "train": {"steps": 3, "learning_rate": 2e-3, "ctc_weight": 0, "label_weight": 0},
}


@pytest.fixture(scope="module")
def staged(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything together, then LoRA on what came of it."""
    path = tmp_path_factory.mktemp("staged") / "staged.yaml"
    stages = [{"train": {"steps": 4}}, FROZEN]
    recipe = {"base": str(tiny_recipe), "name": "staged", "data": {"validation": []}, "stages": stages}
    path.write_text(yaml.safe_dump(recipe))
    return path


def files(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint, whatever lies in `trainer` left out."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "trainer" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def by_hand(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two commands leave, each with the settings of its stage."""
    folder = tmp_path_factory.mktemp("hand")
    first, second = folder / "one", folder / "two"
    settings = [f"{part}={yaml.safe_dump(values, default_flow_style=True)}" for part, values in FROZEN.items()]
    decoder = f"decoder={{path: {first / 'decoder'}, config: null, tokenizer: null, train: false}}"
    settings = [decoder if setting.startswith("decoder=") else setting for setting in settings]
    same = ["name=staged", "data.validation=[]"]
    loop.train(load_recipe(str(tiny_recipe), [*same, "train.steps=4"]), first)
    loop.train(load_recipe(str(tiny_recipe), [*same, *settings, f"train.init={first}"]), second)
    return folder


@pytest.fixture(scope="module")
def run(staged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one command leaves."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["nota", "train", str(staged), "--out", str(folder)])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return folder


def message(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_one_command_ends_with_the_bytes_of_two(run: Path, by_hand: Path) -> None:
    assert files(run.with_name("run-stage1")) == files(by_hand / "one")
    assert files(run) == files(by_hand / "two")
    assert {"adapter/adapter_model.safetensors", "decoder/model.safetensors"} <= set(files(run))


def test_a_run_that_is_cut_goes_on_in_its_stage(
    staged: Path, run: Path, tmp_path: Path, nota: Nota, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def cut(recipe: Any, folder: Path, **options: Any) -> Any:
        begun.append(folder.name)
        loop.train(recipe, folder, stop_after=2, **options)
        raise KeyboardInterrupt

    command = ["train", staged, "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr("nota_cli.training.stages.train", cut)
        assert nota(*command) != 0
    assert nota(*command) == 1  # something is there, and no flag
    assert nota(*command, "--stage", 1, "--resume") == 0
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:
        patch.setattr("nota_cli.training.stages.train", cut)
        assert nota(*command, "--resume") != 0
    assert begun == ["run-stage1", "run"]
    assert nota(*command, "--resume") == 0
    assert files(tmp_path / "run") == files(run)


def test_what_is_done_is_neither_done_again_nor_mixed_with_another_recipe(
    staged: Path, run: Path, tmp_path: Path, nota: Nota, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(run)
    assert nota("train", staged, "--out", run) == 1
    assert "--resume to go on after it, or --restart" in message(capsys)
    assert nota("train", staged, "--out", run, "--resume", "--set", "stages.0.train.seed=9") == 1
    assert "another recipe of stage 1" in message(capsys)
    assert nota("train", staged, "--out", run, "--resume") == 0
    assert files(run) == before
    assert nota("train", staged, "--out", tmp_path / "new", "--stage", 2) == 1
    assert "train that one first: --stage 1" in message(capsys)
    assert nota("train", staged, "--out", run, "--stage", 3) == 2


def test_stage_is_for_recipes_with_stages(tiny_recipe: Path, tmp_path: Path, nota: Nota) -> None:
    assert nota("train", tiny_recipe, "--out", tmp_path, "--stage", 1) == 2


def test_settings_hold_in_every_stage_and_those_of_one_in_it(staged: Path) -> None:
    recipe = load_recipe(str(staged), ["train.steps=7", "stages.1.train.steps=8", "stages.1.train.init=/elsewhere"])
    assert [stage.train.steps for stage in recipe.stages] == [7, 8]
    assert recipe.stages[1].train.init == "/elsewhere"
    assert [stage.train.init for stage in load_recipe(str(staged), ["train.init=/start"]).stages] == ["/start", None]


def test_all_that_is_wrong_in_stages_is_named_at_once(staged: Path) -> None:
    wrong = ["train.beta2=7", "stages.0.train.stepz=1", "stages.1.lora.rank=0"]
    with pytest.raises(RecipeError) as error:
        load_recipe(str(staged), wrong)
    lines = [line.strip(" -") for line in str(error.value).splitlines()[1:]]
    assert [line.split(":")[0] for line in lines] == ["train.beta2", "stages.0.train.stepz", "stages.1.lora.rank"]
    assert "did you mean steps?" in str(error.value)
    with pytest.raises(RecipeError, match="has 2 stages, numbered from 0"):
        load_recipe(str(staged), ["stages.2.train.steps=1"])
    with pytest.raises(RecipeError, match=r"stages\.1\.decoder\.quantization is none"):
        load_recipe(str(staged), ["stages.0.quantize={}"])


def test_missing_data_of_all_stages_is_named_at_once(staged: Path, tmp_path: Path) -> None:
    source = f"[{{annotation: {tmp_path}/none.json, audio_root: {tmp_path}}}]"
    recipe = load_recipe(str(staged), [f"data.train={source}"])
    with pytest.raises(RecipeError, match=r"(?s)stage 1, .*none\.json.*stage 2, .*none\.json"):
        stages_with_data_there(recipe, str(staged))


def test_a_checkpoint_made_otherwise_is_not_taken_for_a_stage(
    staged: Path, by_hand: Path, tmp_path: Path, nota: Nota, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run-stage1").symlink_to(by_hand / "one")
    before = files(by_hand / "one")
    assert nota("train", staged, "--out", tmp_path / "run", "--resume") == 1
    assert "no stage of this recipe made" in message(capsys)
    assert files(by_hand / "one") == before


def test_the_shipped_recipe_is_the_two_it_replaces() -> None:
    stages = load_recipe("tiny-stages").stages
    first, second = load_recipe("tiny-stage1"), load_recipe("tiny")
    assert stages[0].recipe() == first
    assert stages[0].quantize is not None
    own = ("name", "description", "checkpoint", "train")
    same = {name: getattr(second, name) for name in own}
    assert stages[1].recipe().model_copy(update=same) == second
    assert stages[1].train.init is None  # from stage 1's own result


def test_resume_and_restart_exclude_each_other(staged: Path, tmp_path: Path, nota: Nota) -> None:
    assert nota("train", staged, "--out", tmp_path / "run", "--resume") == 1  # nothing has been begun
    assert nota("train", staged, "--out", tmp_path / "run", "--resume", "--restart") == 2
