"""A model family from outside, in one file: it answers how long a clip is, and needs no torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from nota_cli.generation.answer import Answer
from nota_cli.models.parts import Part
from nota_cli.prompts import Query
from nota_cli.recipe.families import FAMILIES, Family
from nota_cli.recipe.schema import BaseRecipe, Generate

FAMILY = Family(
    "helpers.echo_family:EchoRecipe", "helpers.echo_family:build", "helpers.echo_family:sizes", runs_on_torch=False
)


def register() -> None:
    """The line in the registry."""
    FAMILIES["echo"] = FAMILY


class EchoRecipe(BaseRecipe):
    """A word, said once for each tenth of a second."""

    word: str = "ping"


@dataclass(frozen=True)
class Cpu:
    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


@dataclass(frozen=True)
class Lengths:
    seconds: list[float]

    def part(self, chosen: slice) -> "Lengths":
        return Lengths(self.seconds[chosen])


@dataclass(frozen=True)
class Measure:
    max_seconds: float
    device: None = None

    def features(self, waves: list[np.ndarray[Any, Any]]) -> Lengths:
        return Lengths([len(wave) / 16_000 for wave in waves])


class EchoRuntime:
    """Counts what it is asked to do."""

    name, decoding = "echo", "one word at a time"

    def __init__(self) -> None:
        self.steps = 0

    def prompt(self, features: Lengths, query: Query) -> Lengths:
        return features

    def prefill(self, prompt: Lengths, query: Query) -> None:
        self.steps = 0

    def step(self) -> None:
        self.steps += 1

    def cache_bytes(self) -> int:
        return 8

    @contextmanager
    def watch(self, read: Callable[[], Any], on_part: Callable[[str], None] = lambda name: None) -> Iterator[list]:
        yield [("speech_encoder", read(), read())]


class EchoModel:
    """`nota_cli.models.families.base.AudioModel`."""

    device, kernel = Cpu(), "none"

    def __init__(self, recipe: EchoRecipe) -> None:
        self.recipe = recipe

    def preprocessor(self, device: object = None) -> Measure:
        return Measure(self.recipe.audio.max_seconds)

    def encode(self, features: Lengths) -> Lengths:
        return features

    encode_batch = encode

    def settings_for(self, task: str) -> Generate:
        return self.recipe.generate.for_task(task)

    def generate_answers(
        self,
        features: Lengths,
        queries: list[Query],
        settings: Generate | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        words = [self.recipe.word if query.question is None else query.question for query in queries]
        return [Answer(f"{word} {round(seconds, 1)}") for word, seconds in zip(words, features.seconds, strict=True)]

    def parts(self) -> list[Part]:
        return sizes(self.recipe)

    def free_caches(self) -> None: ...

    def runtime(self, tokens: int) -> EchoRuntime:
        return EchoRuntime()


def build(recipe: EchoRecipe, device: str, purpose: str, *, load_format: str, allow_missing: bool) -> EchoModel:
    return EchoModel(recipe)


def sizes(recipe: EchoRecipe) -> list[Part]:
    return [Part("word", len(recipe.word), {"int8": len(recipe.word)})]
