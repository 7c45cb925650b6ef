"""Distillation: the divergence and its gradient against plain formulas, and students that go where the teacher is."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from nota_cli.data.tokenizer import build_word_tokenizer
from nota_cli.errors import RecipeError
from nota_cli.features.soft_targets import SoftTargets
from nota_cli.models.build import build
from nota_cli.models.families.salmonn import Encoded
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.training import Augment, Distill
from nota_cli.training.distillation import Teacher
from nota_cli.training.loop import train

STILL = [
    *(f"train.augment.{name}=0" for name in Augment.model_fields),
    *("train.ctc_weight=0", "train.label_weight=0", "train.average=0", "train.autocast=false", "connector.dropout=0"),
    *("data.validation=[]", "train.batch_size=3", "train.save_every=100"),
]


def kl(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """As Hinton et al. 2015 have it, by torch's own divergence."""
    logs = (student / temperature).log_softmax(-1)
    return F.kl_div(logs, (teacher / temperature).softmax(-1), reduction="batchmean") * temperature**2


@pytest.mark.parametrize("top_k", [0, 11])
def test_over_the_whole_vocabulary_value_and_gradient_are_the_plain_formula_s(top_k: int) -> None:
    torch.manual_seed(0)
    teacher, student = 3 * torch.randn(5, 11), torch.randn(5, 11, requires_grad=True)
    ours = SoftTargets.of_logits(teacher, 2.5, top_k).divergence(student, 2.5)
    (gradient,) = torch.autograd.grad(ours, student)
    plain = kl(student, teacher, 2.5)
    (expected,) = torch.autograd.grad(plain, student)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradient, expected)


def test_of_the_likeliest_entries_the_others_count_as_one() -> None:
    torch.manual_seed(1)
    teacher, student = 2 * torch.randn(4, 9), torch.randn(4, 9, requires_grad=True)
    ours = SoftTargets.of_logits(teacher, 2.0, 3).divergence(student, 2.0)
    ids = teacher.topk(3).indices
    rest = torch.ones(4, 9).scatter(1, ids, 0.0).bool()

    def lumped(logits: torch.Tensor) -> torch.Tensor:
        scaled = logits / 2.0
        others = scaled.masked_fill(~rest, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([scaled.gather(1, ids), others], 1)

    plain = kl(2.0 * lumped(student), 2.0 * lumped(teacher), 2.0)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (ours, plain)))
    torch.testing.assert_close(SoftTargets.of_logits(teacher, 2.0, 3).divergence(teacher, 2.0), torch.tensor(0.0))


@pytest.fixture(scope="module")
def sources(clips: Path) -> str:
    return f"data.train=[{{annotation: {clips / 'all.json'}, audio_root: {clips}}}]"


def entries(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "trainer" / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nota_cli.training.loop.LOG_EVERY", 1)


def test_a_student_goes_where_the_teacher_is_and_cached_answers_are_the_teacher_s(
    tiny_recipe: Path, tiny_checkpoint: Path, sources: str, tmp_path: Path, each_step: None
) -> None:
    """The teacher's weights are random: nothing but its probabilities can bring the divergence down."""
    distill = f"train.distill.teacher={tiny_checkpoint}"
    settings = [*STILL, sources, distill, "train.distill.weight=1", "train.learning_rate=3e-3", "train.seed=4"]
    size = len(json.loads((tiny_checkpoint / "decoder" / "tokenizer.json").read_text())["model"]["vocab"])
    runs = {"online": [], "cached": [f"train.distill.cache={tmp_path / 'cache'}", f"train.distill.top_k={size}"]}
    for name, more in runs.items():
        recipe = load_recipe(str(tiny_recipe), [*settings, "train.steps=20", *more])
        train(recipe, tmp_path / name, stop_after=20 if name == "online" else 4)
    online, cached = (entries(tmp_path / name) for name in runs)
    assert online[-1]["distillation"] < 0.3 * online[0]["distillation"]
    assert all(entry["loss"] == 0 for entry in online)  # its weight is 1 - 1
    for one, other in zip(online[:4], cached, strict=True):
        assert other["distillation"] == pytest.approx(one["distillation"], rel=1e-4)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    text = (tmp_path / "online" / "recipe.yaml").read_text()
    assert "distill" not in text  # where the teacher lay on this machine helps nobody elsewhere


def test_the_mix_is_of_cross_entropy_and_divergence(
    tiny_recipe: Path, tiny_checkpoint: Path, sources: str, tmp_path: Path, each_step: None
) -> None:
    losses = {}
    for weight in (0.25, 0.75):
        settings = [f"train.distill={{teacher: {tiny_checkpoint}, weight: {weight}, top_k: 5}}", "train.steps=1"]
        train(load_recipe(str(tiny_recipe), [*STILL, sources, *settings]), tmp_path / str(weight))
        losses[weight] = entries(tmp_path / str(weight))[0]
    assert losses[0.25]["loss"] == pytest.approx(3 * losses[0.75]["loss"], rel=1e-5)
    assert losses[0.75]["distillation"] == pytest.approx(3 * losses[0.25]["distillation"], rel=1e-5)


def test_a_teacher_hears_what_is_masked_for_the_student(tiny_recipe: Path, clips: Path, sources: str) -> None:
    from nota_cli.data.batches import TrainingBatches
    from nota_cli.features.batch import FeatureSpec

    recipe = load_recipe(str(tiny_recipe), [*STILL, sources])
    student, teacher = FeatureSpec(80, "beats", "clip", 30.0), FeatureSpec(128, None, "clip", 30.0)
    same = TrainingBatches(recipe.data.train, student, Augment(), 3, 0, teacher=student)[0]
    assert same.teacher_features is None
    masked = TrainingBatches(recipe.data.train, student, Augment(mask_time=40), 3, 0, teacher=student)[0]
    assert torch.equal(masked.teacher_features.log_mel, same.features.log_mel)
    assert not torch.equal(masked.features.log_mel, same.features.log_mel)
    other = TrainingBatches(recipe.data.train, student, Augment(), 3, 0, teacher=teacher)[0]
    assert other.teacher_features.log_mel.size(1) == 128
    assert other.teacher_features.fbank is None


def test_what_cannot_teach_is_refused(tiny_recipe: Path, tiny_checkpoint: Path, sources: str, tmp_path: Path) -> None:
    build_word_tokenizer(["one two three seven", "rain falls outside"], tmp_path / "other")
    distill = f"train.distill.teacher={tiny_checkpoint}"
    still = [setting for setting in STILL if "speed" not in setting]
    cases = [
        ([f"decoder.tokenizer={tmp_path / 'other'}", distill], r"another vocabulary than the student: \d+ tokens"),
        ([f"train.distill.teacher={tiny_recipe}"], "has no checkpoint"),
        (["train.distill.teacher=qwen2-audio-7b"], "nota infer over the training rows"),
        ([distill, f"train.distill.cache={tmp_path}", "train.augment.speed=0.1"], "train.augment.speed changes clips"),
        ([distill, f"train.cache={tmp_path}"], r"set train\.distill\.cache too"),
        ([distill, "train.decoder_weight=0"], "never runs"),
    ]
    for settings, message in cases:
        with pytest.raises(RecipeError, match=message):
            train(load_recipe(str(tiny_recipe), [*still, sources, *settings]), tmp_path / "run")


def test_hidden_states_come_closer_to_the_teacher_s(
    tiny_recipe: Path, tiny_checkpoint: Path, sources: str, tmp_path: Path, each_step: None
) -> None:
    distill = f"train.distill={{teacher: {tiny_checkpoint}, weight: 0, states_weight: 1}}"
    settings = [*STILL, sources, distill, "train.learning_rate=3e-3", "train.seed=4", "train.steps=12"]
    train(load_recipe(str(tiny_recipe), settings), tmp_path / "student")
    losses = entries(tmp_path / "student")
    assert losses[-1]["states"] < 0.5 * losses[0]["states"]


def test_equal_states_differ_by_nothing_and_padding_does_not_count(tiny_recipe: Path, tiny_checkpoint: Path) -> None:
    student = build(load_recipe(str(tiny_recipe)), purpose="train")
    teacher = Teacher(Distill(teacher=str(tiny_checkpoint), states_weight=1), student, "cpu")
    sounds = [torch.sin(torch.arange(length) / 30).numpy() for length in (32_000, 9_000)]
    encoded = teacher.model.encode(teacher.model.preprocessor().features(sounds))
    other = Encoded(**{**vars(encoded), "embeds": torch.where(encoded.mask[..., None], encoded.embeds, 7.0)})
    assert float(teacher.states_difference(other, encoded)) == 0
    twice = Encoded(*(value * 2 if value.is_floating_point() else value for value in vars(encoded).values()))
    assert float(teacher.states_difference(twice, encoded)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.distill.cache=cache"], "compares what student and teacher hear"),
        (["connector.window_seconds=0.2"], "states of a window and from one to the next"),
        (["audio.pad=30s"], "audio.pad: clip, the student's 30s"),
    ],
)
def test_states_that_cannot_be_compared(
    tiny_recipe: Path, tiny_checkpoint: Path, sources: str, tmp_path: Path, settings: list[str], message: str
) -> None:
    distill = [f"train.distill.teacher={tiny_checkpoint}", "train.distill.states_weight=1"]
    with pytest.raises(RecipeError, match=message):
        train(load_recipe(str(tiny_recipe), [*STILL, sources, *distill, *settings]), tmp_path / "student")
