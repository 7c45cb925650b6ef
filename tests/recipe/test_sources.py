"""Data that a recipe names and that is not there: named at once, with recipe and key."""

from pathlib import Path

import pytest

from nota_cli.errors import RecipeError
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.sources import with_data_there


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text('{"annotation": [{"path": "x.wav", "text": "x", "task": "asr"}]}')
    (tmp_path / "parent.yaml").write_text(
        "speech_encoder: {path: some/whisper}\ndecoder: {path: some/lm}\n"
        "data: {validation: [{annotation: ./gone.json, audio_root: .}]}\ntrain: {init: ./ckpt}\n"
    )
    (tmp_path / "mine.yaml").write_text("base: parent\ndata: {train: [{annotation: a.jsn, audio_root: .}]}\n")
    return "mine.yaml"


def test_recipe_and_key_are_named_and_the_way_out(own: str) -> None:
    with pytest.raises(RecipeError) as caught:
        with_data_there(load_recipe(own), own)
    lines = str(caught.value).splitlines()
    assert "data.train.0.annotation: there is no a.jsn, which mine.yaml names" in lines[1]
    assert "a.json, which differs in its ending" in lines[1]
    assert "data.validation.0.annotation: there is no" in lines[2]
    assert "gone.json, which parent.yaml names" in lines[2]
    assert "train.init: there is no" in lines[3]
    assert "--set data.validation=[]" in lines[-1]


def test_what_is_there_is_left_alone_and_optional_sources_may_be_missing(own: str, capsys) -> None:
    one = "{annotation: ./a.json, audio_root: .}"
    settings = [f"data.train=[{one}, {{annotation: ./no.json, audio_root: ./no, optional: true}}]"]
    settings += ["data.validation=[]", "train.init=null"]
    recipe = with_data_there(load_recipe(own, settings), own)
    assert [source.annotation for source in recipe.data.train] == ["./a.json"]
    assert "trained without ./no.json" in capsys.readouterr().err
