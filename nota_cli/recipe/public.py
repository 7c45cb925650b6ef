"""Recipes of public audio language models that transformers has the code of: one model, a prompt for each task."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from nota_cli.recipe.prompts import SUMMARY_PLACE, Prompts
from nota_cli.recipe.schema import BaseRecipe, Generate
from nota_cli.recipe.section import Dtype, PathText, Positive, Section


class PublicModel(Section):
    """The model and its processor, from one folder or hub id."""

    path: PathText
    adapter: PathText | None = None
    """LoRA weights of a folder of their own, or of `ORG/NAME/FOLDER` on the hub; those beside its own are found."""
    dtype: Dtype = "float32"
    """Of everything that is not quantized, and of the arithmetic."""
    quantization: Literal["none", "int8", "int4", "nf4"] = "none"
    """How linear layers' weights are held: as `dtype`; in 8 or 4 bits by groups (by nota); in nf4 (by bitsandbytes)."""
    options: dict[str, Any] = {}
    """What its own `generate` takes besides, such as `language: en` of a multilingual Whisper."""
    parameters: Positive | None = None
    """Published number of parameters, for `nota recipes`; counted where the model is built."""


class PublicPrompts(Prompts):
    """What a public model is asked; nothing stands round the prompt of a task but its own chat template."""

    template: str = "{}"
    tasks: dict[str, str] = {"asr": "<SpeechHere>"}

    @model_validator(mode="after")
    def _no_summary(self) -> Self:
        if any(SUMMARY_PLACE in prompt for prompt in self.tasks.values()):
            raise ValueError(f"{SUMMARY_PLACE} is for systems with a connector of their own; use <SpeechHere>")
        return self


class PublicGenerate(Generate):
    """How answers are searched for: greedily unless a recipe says otherwise."""

    beams: Positive = 1


class PublicRecipe(BaseRecipe):
    """A public model; `prompts.tasks` holds the tasks that suit it.

    The text of a prompt before and after `<SpeechHere>` is given to the model's chat template before and after the
    audio. A model that only transcribes takes no text: its one prompt is `<SpeechHere>`.
    """

    family: str = "transformers"
    model: PublicModel
    prompts: PublicPrompts = PublicPrompts()
    generate: PublicGenerate = PublicGenerate()
    reported: dict[str, str] = Field(default_factory=dict)
    """Figures that its publishers state, by what they are of, and where."""
    license: str = ""
    """Under which terms the weights may be used."""

    def weight_paths(self) -> dict[str, str]:
        """As every recipe's."""
        adapter = {} if self.model.adapter is None else {"model.adapter": self.model.adapter}
        return {"model.path": self.model.path, **adapter}
