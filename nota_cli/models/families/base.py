"""What every model family offers: inference, cost, score, chat and the Python API use nothing else of a model."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from nota_cli.generation.answer import Answer
from nota_cli.generation.runtimes.base import Runtime
from nota_cli.models.parts import Part
from nota_cli.models.purpose import Purpose
from nota_cli.prompts import Query
from nota_cli.recipe.schema import BaseRecipe, Generate
from nota_cli.recipe.section import LoadFormat


class Device(Protocol):
    """Where a model lies; `torch.device` is one, and `str()` of it names it."""

    @property
    def type(self) -> str:
        """`cpu` or `cuda`."""


class Preprocessor(Protocol):
    """Waveforms to what a family's `encode` takes; it is pickled to the workers that decode audio.

    Attributes:
        max_seconds: how much of a clip the model hears, in seconds.
        device: where `features` puts what it makes, in the main process; None has the workers make it, on the CPU.
    """

    @property
    def max_seconds(self) -> float: ...  # noqa: D102

    @property
    def device(self) -> Device | None: ...  # noqa: D102

    def features(self, waves: list[np.ndarray[Any, Any]]) -> Any:
        """A batch of clips, float32 `[samples]` at 16 kHz each.

        What it returns has `part(chosen: slice)`, the features of some of the clips as if they were a batch alone.
        """


class AudioModel(Protocol):
    """A model in evaluation mode that answers queries about clips."""

    @property
    def recipe(self) -> BaseRecipe:
        """What it was built from."""

    @property
    def device(self) -> Device:
        """Where it runs."""

    @property
    def kernel(self) -> str:
        """What multiplies its decoder's weights, in a word; `none` where that is nothing special."""

    def preprocessor(self, device: Any = None) -> Preprocessor:
        """What makes its features; `device` says where, if not where the recipe has them made."""

    def encode(self, features: Any) -> Any:
        """A batch of clips, encoded, so that several things can be asked about it."""

    def encode_batch(self, features: Any) -> Any:
        """As `encode` where it pays to encode before generation, else the features as they are."""

    def settings_for(self, task: str) -> Generate:
        """How answers to one task are searched for."""

    def generate_answers(
        self,
        features: Any,
        queries: list[Query],
        settings: Generate | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """An answer for each query; there is one query a clip.

        Args:
            features: what the preprocessor, `encode` or `encode_batch` made.
            queries: one a clip; their `task` chooses the prompt.
            settings: the recipe's if not given.
            on_text: of a single query, called with the text so far after every token, where the search goes token by
                token; the text may begin anew. What it raises ends the search.
        """

    def parts(self) -> Sequence[Part]:
        """What it is made of, with parameters and bytes."""

    def free_caches(self) -> None:
        """Give up memory that is kept from call to call."""

    def runtime(self, tokens: int) -> Runtime:
        """For measuring: one clip stage by stage, of which at most `tokens` tokens are generated."""


class Builder(Protocol):
    """A family's function that builds its models (`nota_cli.recipe.families`)."""

    def __call__(
        self, recipe: Any, device: str, purpose: Purpose, *, load_format: LoadFormat, allow_missing: bool
    ) -> AudioModel:
        """The model; see `nota_cli.models.build.build`."""


Sizes = Callable[[Any], Sequence[Part]]
"""What `AudioModel.parts` counts, of a recipe by arithmetic."""
