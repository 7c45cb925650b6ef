"""The recipe's typed fields, their defaults and checks, and nothing else."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_serializer,
    model_validator,
)

from nota_cli.recipe.connectors import CONNECTORS
from nota_cli.recipe.encoders import ENCODERS, kinds
from nota_cli.recipe.prompts import SUMMARY_PLACE, Prompts
from nota_cli.recipe.quantizers import QUANTIZERS
from nota_cli.recipe.section import Dtype, PathText, Positive, Probability, Section
from nota_cli.recipe.training import Data, StageQuantize, Train


def _one_of(known: Callable[[], list[str]]) -> Callable[[str], str]:
    """A check of a value against a registry as it is then."""

    def check(kind: str) -> str:
        names = known()
        if kind not in names:
            alternatives = " or ".join(filter(None, (", ".join(map(repr, names[:-1])), repr(names[-1]))))
            raise ValueError(f"Input should be {alternatives}")
        return kind

    return check


_speech_kind = _one_of(lambda: kinds("speech"))
_audio_kind = _one_of(lambda: [*kinds("audio"), "none"])
_connector_kind = _one_of(lambda: list(CONNECTORS))
_decoder_quantization = _one_of(lambda: ["none", *QUANTIZERS])


class _Kind(Protocol):
    @property
    def settings(self) -> tuple[str, ...]: ...


def _refuse_others(section: Section, registry: Mapping[str, _Kind], kind: str) -> None:
    """Refuse settings that are for another kind than the section's alone."""
    for name, entry in registry.items():
        given = [key for key in entry.settings if getattr(section, key) != type(section).model_fields[key].default]
        if given and name != kind:
            raise ValueError(f"{', '.join(given)}: of {name} alone, and the kind is {kind}")


class Audio(Section):
    """How a file becomes the waveform that both encoders see."""

    max_seconds: float = Field(30.0, gt=0, le=30.0)
    pad: Literal["30s", "clip"] = "30s"
    """`30s`: Whisper's own way, every clip padded to 30 s. `clip`: each clip at its own length."""
    features: Literal["auto", "cpu", "device"] = "auto"
    """Where inference computes the spectrograms: in the workers that decode audio (`cpu`), or where the model lies
    (`device`), which `auto` does where that is CUDA. Training computes them in its workers, as it masks them there."""


class Encoder(Section):
    """One encoder, from published weights (`path`) or from random weights of a given shape (`config`)."""

    path: PathText | None = None
    config: dict[str, Any] | None = None
    dtype: Dtype = "float32"
    quantization: Literal["none", "int8", "int4"] = "none"
    """How its linear layers' weights are held when it does not train: as `dtype`, or in 8 or 4 bits by groups; the
    arithmetic stays in `dtype`."""
    train: bool = False
    kind: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> "Encoder":
        if getattr(self, "kind", None) != "none" and (self.path is None) == (self.config is None):
            raise ValueError("give either `path` (published weights) or `config` (random weights of that shape)")
        return self


class SpeechEncoder(Encoder):
    """Whisper's encoder."""

    kind: Annotated[str, AfterValidator(_speech_kind)] = "whisper"


class AudioEncoder(Encoder):
    """The encoder for sounds other than speech, or `none`."""

    kind: Annotated[str, AfterValidator(_audio_kind)] = "beats"
    """One of `nota_cli.recipe.encoders`: `beats`, `ced`, `eat`; or `none`."""
    heads: Positive | None = None
    """CED only: its files do not record the number of attention heads; width / 64 if not given, as published."""
    scaling: Literal["published", "beats"] = "published"
    """CED alone. `beats`: its spectrogram is first normalized with BEATs' figures, as NLP-07 did."""
    token_order: Literal["time", "frequency"] = "time"
    """CED alone. `frequency`: all times of one frequency band before the next band, so that the connector's windows
    mix times, as NLP-07's did."""

    @model_validator(mode="after")
    def _settings_of_its_kind(self) -> "AudioEncoder":
        if self.kind != "none":
            _refuse_others(self, ENCODERS, self.kind)
        if self.heads is not None and self.config is not None:
            raise ValueError("`heads` is for a file; in `config` it is num_heads")
        return self


class Connector(Section):
    """What turns encoder states into decoder embeddings, window by window."""

    kind: Annotated[str, AfterValidator(_connector_kind)] = "qformer"
    """One of `nota_cli.recipe.connectors`: `qformer`, the window-level Q-Former (SALMONN), with its window and stride
    in seconds of audio; or `stack_mlp`, neighbouring states stacked and projected (Ultravox)."""
    hidden_size: Positive = 768
    """The Q-Former's width; of `stack_mlp` the outputs of its first layer, half of which gate the other half."""
    layers: Positive = 2
    heads: Positive = 12
    intermediate_size: Positive = 3072
    queries: Positive = 1
    window_seconds: float = Field(0.333333, gt=0)
    stride_seconds: float = Field(0.333333, gt=0)
    dropout: Probability = 0.1
    stack: Positive = 8
    """`stack_mlp` alone: how many states, 20 ms each, become one embedding."""
    summary: int = Field(0, ge=0)
    """How many more embeddings tell of the clip as a whole: of the mean and deviation of the encoders' states over
    time. Prompts with `<SummaryHere>` take these in place of the windows."""
    quantization: Literal["none", "int8", "int4"] = "none"
    """How its linear layers' weights are held when nothing trains: in float32, or in 8 or 4 bits by groups."""
    train: bool | Literal["summary"] = True
    """`summary`: that part alone."""

    @model_validator(mode="after")
    def _settings_of_its_kind(self) -> "Connector":
        _refuse_others(self, CONNECTORS, self.kind)
        return self


class Decoder(Section):
    """The language model: a folder or hub id (`path`), or random weights of a given shape (`config`)."""

    path: PathText | None = None
    config: dict[str, Any] | None = None
    tokenizer: PathText | None = None
    """Where the tokenizer is, if not beside the weights. One that `nota prune-vocabulary` trimmed (it has a
    `vocabulary.json`) cuts the full decoder in `path` down to its tokens as that is loaded."""
    bos_token: str | None = None
    """The token before everything else, where the tokenizer names none (Qwen)."""
    pad_token: str | None = None
    """A token that the tokenizer gets in addition, `[PAD]` in the teams' systems; the embedding is resized to fit."""
    quantization: Annotated[str, AfterValidator(_decoder_quantization)] = "none"
    """`none`, or one of `nota_cli.recipe.quantizers`: `gptq`, `nf4`."""
    kernel: str = "auto"
    """GPTQ kernel; `auto` takes the fastest that needs no compiler on this device. On the CPU also `int4pack`, which
    multiplies in bfloat16 whatever `dtype` is (`auto` takes it with bfloat16 alone), and `blockwise`, exact in any
    (`auto` takes it with the others)."""
    dtype: Dtype = "float32"
    """Of everything that is not quantized, and of the arithmetic."""
    train: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> "Decoder":
        if (self.path is None) == (self.config is None):
            raise ValueError("give either `path` (published weights) or `config` (random weights of that shape)")
        if self.config is not None and self.tokenizer is None:
            raise ValueError("a decoder built from `config` needs `tokenizer`")
        if self.train and self.quantization != "none":
            raise ValueError("a quantized decoder cannot be trained itself; use `lora`")
        if self.kernel != "auto" and not (
            self.quantization in QUANTIZERS and QUANTIZERS[self.quantization].has_kernels
        ):
            raise ValueError(f"`kernel` is of GPTQ alone, and quantization is {self.quantization}")
        return self


class Lora(Section):
    """Low-rank adapters on the decoder's linear layers."""

    rank: Positive = 8
    alpha: Positive = 32
    dropout: Probability = 0.1
    targets: list[str] = ["q_proj", "v_proj"]
    train: bool = True


class GenerateTask(Section):
    """How an answer is found (the organisers: beam 4, at most 200 new tokens); what may differ from task to task."""

    beams: Positive = 4
    max_new_tokens: Positive = 200
    repetition_penalty: float = Field(1.0, gt=0)
    length_penalty: float = 1.0
    sample: bool = False
    """Draw every token instead of searching for the likeliest answer; takes `beams: 1`."""
    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """What the logits are divided by before a draw."""
    top_k: int = Field(0, ge=0)
    """Draw from so many likeliest tokens; 0: from all."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability (Holtzman et al. 2020)."""
    seed: int = 0
    """Of the draws: the same seed, clip and prompt give the same answer at any batch size and in any order."""
    loop_guard: Literal["off", "cut", "penalise"] = "off"
    """What becomes of an answer whose end repeats itself (`nota_cli.generation.repetition`): `cut` leaves the first
    time of it; `penalise` answers again with a higher repetition penalty, and cuts what loops even then."""
    fallback_text: str = Field("inaudible", pattern=r"^.*\S.*$")
    """What `--on-error blank` writes for a clip that cannot be read; an empty cell would be rejected."""
    decoding: Literal["auto", "plain"] = "auto"
    """`auto`, with one beam: a cache of fixed size, CUDA graphs, the prompts' common beginning computed once; the same
    to rounding. `plain`: transformers' own loop, as the teams' stacks ran; with more beams it is always taken."""
    batch_size: Positive = 8


class Generate(GenerateTask):
    """The settings of every task, and in `tasks` what is otherwise for some."""

    compute: Literal["auto", "stored"] = "auto"
    """Type of the arithmetic on a CPU: `auto` is each part's `dtype`, but float32 for 16-bit types that the processor
    only emulates (the weights stay in 16 bits); `stored` is `dtype` whatever the processor."""
    merge_lora: Literal["auto", "never", "always"] = "auto"
    """`auto` adds the adapters to the decoder's weights where that is exact: float32, not quantized. `always` does so
    in half precision too, which rounds; quantized weights take none."""
    tasks: dict[str, GenerateTask] = {}
    """Task to the settings that it has instead; those that are not written there are the ones above."""

    def for_task(self, task: str) -> "Generate":
        """The settings of one task, none of them left for other tasks."""
        own = self.tasks.get(task, GenerateTask())
        changes = {name: getattr(own, name) for name in own.model_fields_set}
        return self.model_copy(update={**changes, "tasks": {}})

    @field_serializer("tasks")
    def _as_written(self, tasks: dict[str, GenerateTask]) -> dict[str, dict[str, Any]]:
        """A value that equals the default of all tasks may differ from this recipe's, and stays."""
        return {task: own.model_dump(exclude_unset=True) for task, own in tasks.items()}

    @model_validator(mode="after")
    def _draws_take_one_beam(self) -> "Generate":
        for task in (None, *self.tasks):
            merged = self if task is None else self.for_task(task)
            if merged.sample and merged.beams > 1:
                where = "" if task is None else f"tasks.{task}: "
                raise ValueError(f"{where}`sample` draws one answer; with it `beams` has to be 1, not {merged.beams}")
        return self


class BaseRecipe(Section):
    """What recipes of all model families have; a family's own recipe adds its parts (`nota_cli.recipe.families`)."""

    name: str
    family: str = "salmonn"
    """The kind of system: which class of recipe reads the other keys, and which model is built from them."""
    description: str = ""
    checkpoint: PathText | None = None
    """Trained weights to load: our folder format, or a team's `.pth`."""
    audio: Audio = Audio()
    prompts: Prompts = Prompts()
    generate: Generate = Generate()
    data: Data = Data()
    _files: tuple[Path, ...] = PrivateAttr(default=())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it was read from: its own and those of its `base` chain; none if it was made otherwise."""
        return self._files

    def read_from(self, files: Iterable[Path]) -> Self:
        """Note the files that it was read from; returns the recipe itself."""
        self._files = tuple(files)
        return self

    def weight_paths(self) -> dict[str, str]:
        """Paths or hub ids of the weights and tokenizers of its parts, by the dotted keys that name them."""
        return {}

    def with_checkpoint(self, checkpoint: Path) -> Self:
        """The recipe with other trained weights."""
        return self.model_copy(update={"checkpoint": str(checkpoint)})

    def __eq__(self, other: object) -> bool:
        """Whether all values are the same, wherever they were read from."""
        return isinstance(other, BaseRecipe) and type(other) is type(self) and self.__dict__ == other.__dict__

    @model_validator(mode="after")
    def _tasks_are_asked(self) -> Self:
        unknown = [task for task in self.generate.tasks if task not in self.prompts.tasks]
        if unknown:
            there = ", ".join(self.prompts.tasks)
            raise ValueError(f"generate.tasks: no prompt for {', '.join(unknown)}; prompts.tasks has {there}")
        return self

    @model_serializer(mode="wrap")
    def _in_order(self, values_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A family's own keys stand where a person writes them, and `family` is written where it is not the default."""
        values: dict[str, Any] = values_of(self)
        if values.get("family") == BaseRecipe.model_fields["family"].default:
            del values["family"]
        return {key: values[key] for key in sorted(values, key=self._rank)}

    @classmethod
    def _rank(cls, key: str) -> int:
        """Place of a key: those up to the audio, the family's own ones, those from the prompts on; training last."""
        first = ("name", "family", "description", "checkpoint", "audio")
        last = ("prompts", "generate", "data", "train", "quantize", "stages")
        own = [name for name in cls.model_fields if name not in (*first, *last)]
        return (*first, *own, *last).index(key)


class Recipe(BaseRecipe):
    """A system of SALMONN's family: encoders, connector and decoder; everything needed to train it and run it."""

    speech_encoder: SpeechEncoder
    audio_encoder: AudioEncoder = AudioEncoder(kind="none")
    connector: Connector = Connector()
    decoder: Decoder
    lora: Lora | None = None
    train: Train = Train()
    stages: list["Stage"] = []
    """Stages that `nota train` runs in turn, each from where the one before it ended. A stage is written as what
    differs from the recipe itself, or from another one that its `base` names; once read it is a whole recipe."""

    @model_validator(mode="after")
    def _has_asked_summary(self) -> "Recipe":
        asking = [task for task, prompt in self.prompts.tasks.items() if SUMMARY_PLACE in prompt]
        if asking and not self.connector.summary:
            raise ValueError(
                f"the prompt of {', '.join(asking)} has {SUMMARY_PLACE}, and the connector makes no summary; "
                "set connector.summary to how many embeddings it is"
            )
        if self.connector.train == "summary" and not self.connector.summary:
            raise ValueError("connector.train: summary, and connector.summary is 0")
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> "Recipe":
        for number, stage in enumerate(self.stages):
            if stage.stages:
                raise ValueError(f"stages.{number}: a stage has no stages of its own")
            if stage.quantize is None:
                continue
            if number + 1 == len(self.stages):
                raise ValueError(f"stages.{number}.quantize: the last stage is not quantized; use nota quantize on it")
            if stage.decoder.quantization != "none":
                raise ValueError(f"stages.{number}.quantize: the stage's decoder is quantized already")
            following = self.stages[number + 1]
            if following.train.init is None and following.decoder.quantization != "gptq":
                raise ValueError(
                    f"stages.{number + 1}.decoder.quantization is {following.decoder.quantization}, and the stage "
                    "before it ends with a GPTQ decoder; set it to gptq"
                )
        return self

    def weight_paths(self) -> dict[str, str]:
        """As every recipe's."""
        paths = {
            "speech_encoder.path": self.speech_encoder.path,
            "audio_encoder.path": None if self.audio_encoder.kind == "none" else self.audio_encoder.path,
            "decoder.path": self.decoder.path,
            "decoder.tokenizer": self.decoder.tokenizer,
        }
        return {key: path for key, path in paths.items() if path is not None}

    def with_checkpoint(self, checkpoint: Path) -> "Recipe":
        """As every recipe's; a decoder that belongs to the recipe's own checkpoint gives way to the new one's."""
        changed = super().with_checkpoint(checkpoint)
        own = self.checkpoint is not None and self.decoder.path == str(Path(self.checkpoint) / "decoder")
        if not (own and (checkpoint / "decoder").is_dir()):
            return changed
        decoder = self.decoder.model_copy(update={"path": str(checkpoint / "decoder")})
        return changed.model_copy(update={"decoder": decoder})


class Stage(Recipe):
    """One stage of a recipe's training: a whole recipe, and what becomes of its result.

    `train.init` of a stage after the first is None where it starts from the result of the stage before.
    """

    quantize: StageQuantize | None = None

    def recipe(self) -> Recipe:
        """The stage as a recipe that can be trained by itself."""
        own = {name: getattr(self, name) for name in Recipe.model_fields if name not in ("stages", "checkpoint")}
        return Recipe(**own).read_from(self.files)


Recipe.model_rebuild()
