"""A model whose every step takes a known time."""

import time
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from nota_cli.efficiency.measure import Settings
from nota_cli.features.batch import FeatureSpec
from nota_cli.generation.kv_cache import cache_name
from nota_cli.generation.runtimes.torch import TorchRuntime
from nota_cli.models.inventory import count_parts
from nota_cli.models.parts import Part
from nota_cli.recipe.schema import Audio, Decoder, Recipe, SpeechEncoder

CPU = torch.device("cpu")
QUICK = Settings(audio_seconds=1.0, tokens=4, rounds=5, warm_up=1)


class Sleepy(nn.Module):
    """A part that takes a known time."""

    def __init__(self, seconds: float, megabytes: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = nn.Parameter(torch.ones(int(megabytes * 1e6 / 4)))
        self.config = SimpleNamespace(num_mel_bins=80)
        self.front_end = "beats"

    def forward(self) -> None:
        time.sleep(self.seconds)


class SleepyLM(nn.Module):
    """Takes one known time over a prompt and another over a token; may ask for memory, or find none."""

    def __init__(self, prefill: float, step: float, megabytes: float, fails: str) -> None:
        super().__init__()
        self.prefill, self.step, self.megabytes, self.fails = prefill, step, megabytes, fails
        self.config = SimpleNamespace()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, inputs_embeds: Tensor | None = None, **_: object) -> SimpleNamespace:
        if self.fails == ("step" if inputs_embeds is None else "prefill"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        block = torch.ones(0 if inputs_embeds is None else int(self.megabytes * 1e6 / 4))
        time.sleep(self.step if inputs_embeds is None else self.prefill)
        del block  # held while it sleeps, so that who samples the memory sees it
        return SimpleNamespace(logits=torch.zeros(1, 1, 10), **{cache_name(): None})


class SleepyModel(nn.Module):
    """The interface of `AudioLM`, as far as measuring needs it."""

    def __init__(
        self,
        speech: float = 0.0,
        audio: float = 0.0,
        connector: float = 0.0,
        prefill: float = 0.0,
        step: float = 0.0,
        weights: float = 0.0,
        activations: float = 0.0,
        fails: str = "",
    ) -> None:
        super().__init__()
        self.recipe = Recipe(
            name="sleepy",
            audio=Audio(pad="clip"),  # or making the features would need tens of megabytes too
            speech_encoder=SpeechEncoder(config={}),
            decoder=Decoder(config={}, tokenizer="none"),
        )
        self.speech_encoder = Sleepy(speech, weights)
        self.audio_encoder, self.connector = Sleepy(audio), Sleepy(connector)
        self.decoder = nn.Module()
        self.decoder.model = SleepyLM(prefill, step, activations, fails)
        self.decoder.base, self.kernel = self.decoder.model, "none"
        self.device = CPU

    def preprocessor(self, device: object = None) -> FeatureSpec:
        return FeatureSpec(80, "beats", "clip", 30.0)

    def runtime(self, tokens: int) -> TorchRuntime:
        return TorchRuntime(self, tokens)

    def parts(self) -> list[Part]:
        names = ("speech_encoder", "audio_encoder", "connector", "decoder")
        return count_parts({name: getattr(self, name) for name in names})

    def prompt_embeds(self, features: object, queries: list[object]) -> tuple[Tensor, Tensor]:
        for part in (self.speech_encoder, self.audio_encoder, self.connector):
            part()
        return torch.zeros(1, 5, 8), torch.ones(1, 5, dtype=torch.long)
