"""The recipe's typed fields, their defaults and checks, and nothing else."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, field_serializer, model_validator

from nota_cli.paths import expand_path

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
LoadFormat = Literal["auto", "dummy"]
"""How weights come into a model: from files, or at random at their true size."""
PathText = Annotated[str, AfterValidator(expand_path)]
"""A file, a folder or a hub id; `~`, `~user` and `file://` are written out."""
Dtype = Literal["float32", "bfloat16", "float16"]


class Section(BaseModel):
    """A part of a recipe; a key it does not know is an error, so that a typo never vanishes."""

    model_config = ConfigDict(extra="forbid")


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

    @model_validator(mode="after")
    def _one_source(self) -> "Encoder":
        if getattr(self, "kind", None) != "none" and (self.path is None) == (self.config is None):
            raise ValueError("give either `path` (published weights) or `config` (random weights of that shape)")
        return self


class SpeechEncoder(Encoder):
    """Whisper's encoder."""

    kind: Literal["whisper"] = "whisper"


class AudioEncoder(Encoder):
    """The encoder for sounds other than speech, or `none`."""

    kind: Literal["beats", "ced", "eat", "none"] = "beats"
    heads: Positive | None = None
    """CED only: its files do not record the number of attention heads; width / 64 if not given, as published."""
    scaling: Literal["published", "beats"] = "published"
    """CED alone. `beats`: its spectrogram is first normalized with BEATs' figures, as NLP-07 did."""
    token_order: Literal["time", "frequency"] = "time"
    """CED alone. `frequency`: all times of one frequency band before the next band, so that the connector's windows
    mix times, as NLP-07's did."""

    @model_validator(mode="after")
    def _settings_of_ced(self) -> "AudioEncoder":
        given = [
            key
            for key in ("heads", "scaling", "token_order")
            if getattr(self, key) != type(self).model_fields[key].default
        ]
        if given and self.kind in ("beats", "eat"):
            raise ValueError(f"{', '.join(given)}: of CED alone, and the kind is {self.kind}")
        if self.heads is not None and self.config is not None:
            raise ValueError("`heads` is for a file; in `config` it is num_heads")
        return self


class Connector(Section):
    """The window-level Q-Former (SALMONN) and its window, in seconds of audio."""

    hidden_size: Positive = 768
    layers: Positive = 2
    heads: Positive = 12
    intermediate_size: Positive = 3072
    queries: Positive = 1
    window_seconds: float = Field(0.333333, gt=0)
    stride_seconds: float = Field(0.333333, gt=0)
    dropout: Probability = 0.1
    train: bool = True


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
    quantization: Literal["none", "gptq", "nf4"] = "none"
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
        if self.kernel != "auto" and self.quantization != "gptq":
            raise ValueError(f"`kernel` is of GPTQ alone, and quantization is {self.quantization}")
        return self


class Lora(Section):
    """Low-rank adapters on the decoder's linear layers."""

    rank: Positive = 8
    alpha: Positive = 32
    dropout: Probability = 0.1
    targets: list[str] = ["q_proj", "v_proj"]


class Prompts(Section):
    """What is said to the decoder round the audio."""

    template: str = "USER: {}\nASSISTANT:"
    system: str = ""
    """Text put before everything else, already in the decoder's own chat format."""
    end_symbol: str | None = None
    """The text that ends an answer; the tokenizer's end-of-sequence token when not given."""
    tasks: dict[str, str] = {
        "asr": "<Speech><SpeechHere></Speech> Recognize the speech and give me the transcription.",
        "audiocaption": "<Speech><SpeechHere></Speech> Please describe the audio.",
        "audiocaption_v2": "<Speech><SpeechHere></Speech> Please write down what your hear in the audio.",
        "QA": "<Speech><SpeechHere></Speech> {}",
        "gender_QA": "<Speech><SpeechHere></Speech> {}",
    }

    @model_validator(mode="after")
    def _placeholders(self) -> "Prompts":
        if self.template.count("{}") != 1:
            raise ValueError("`template` needs exactly one {} for the task's prompt")
        wrong = [task for task, prompt in self.tasks.items() if prompt.count("<SpeechHere>") != 1]
        if wrong:
            raise ValueError(f"the prompt of {', '.join(wrong)} needs exactly one <SpeechHere>")
        return self


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


class Source(Section):
    """One annotation file and where its audio lies."""

    annotation: PathText
    audio_root: PathText
    optional: bool = False
    """Train without this source, with a warning, where its annotation is not there."""
    weight: float = Field(1.0, gt=0)
    """Share of the training rows drawn from this source, relative to the others."""
    join: Positive = 1
    """Up to so many rows of one `speaker` are joined into one clip, their texts with spaces."""
    gap_seconds: tuple[float, float] = (0.0, 0.3)
    """Silence between joined rows, drawn uniformly."""
    background: PathText | None = None
    """An annotation (same audio root rules as `background_root`) whose sounds are mixed under this source's clips."""
    background_root: PathText | None = None
    background_probability: Probability = 0.4
    crop_seconds: float | None = Field(None, gt=0)
    """Longer clips are cut to a random stretch of this length in training."""
    mix_same_label: Probability = 0.0
    """Chance that a second clip with the same `label` is added."""


class Augment(Section):
    """Random changes to training clips; all off by default."""

    speed: float = Field(0.0, ge=0, lt=0.5)
    """Largest relative change of speed (and with it of pitch)."""
    gain_db: float = Field(0.0, ge=0)
    noise: Probability = 0.0
    """Chance of white noise at 5 to 35 dB below the clip."""
    roll: Probability = 0.0
    """Chance that a labeled clip is rolled in time."""
    tone: float = Field(0.0, ge=0)
    """Largest tilt of the spectrum, in dB at its edge."""
    mask_time: int = Field(0, ge=0)
    """SpecAugment: two time masks of up to so many frames of 10 ms."""
    mask_frequency: int = Field(0, ge=0)
    """SpecAugment: two frequency masks of up to so many bins."""


class Data(Section):
    """Annotation files for training, validation and test."""

    train: list[Source] = []
    validation: list[Source] = []
    test: dict[str, Source] = {}


class Train(Section):
    """Optimizer, schedule and what is kept."""

    steps: Positive = 90000
    batch_size: Positive = 8
    accumulation: Positive = 1
    learning_rate: float = Field(3e-5, gt=0)
    minimum_rate: float = Field(1e-5, ge=0)
    warmup_rate: float = Field(1e-6, ge=0)
    warmup_steps: int = Field(3000, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    beta2: float = Field(0.999, gt=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    autocast: bool = True
    """bfloat16 autocast in the forward pass."""
    decoder_weight: float = Field(1.0, ge=0)
    """Weight of the decoder's cross-entropy. 0 teaches the connector by `alignment_weight` alone, and the decoder is
    never run: many times faster."""
    alignment_weight: float = Field(0.0, ge=0)
    """Weight of a CTC loss that moves the connector's output towards the decoder's embeddings of the spoken tokens."""
    ctc_weight: float = Field(0.0, ge=0)
    """Weight of a CTC loss on the speech encoder's states (tokens of the reference text); its head is thrown away."""
    label_weight: float = Field(0.0, ge=0)
    """Weight of a classification loss on the audio encoder's mean state (a row's `label`); its head is thrown away."""
    save_dtype: Dtype = "float32"
    """Number type of the trained weights in the checkpoint; training itself keeps them in float32."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights that is saved; 0 saves the weights as they are."""
    validate_every: Positive = 3000
    save_every: Positive = 1000
    workers: int = Field(1, ge=0)
    seed: int = Field(0, ge=0)
    init: PathText | None = None
    """Checkpoint folder to start from (stage 2 starts from stage 1's weights)."""
    augment: Augment = Augment()
    augment_ramp: int = Field(0, ge=0)
    """Steps over which tone, noise, masks and background grow to full strength; a model that starts from random
    weights first has to hear anything at all."""


class Recipe(Section):
    """One system: everything needed to train it and run it."""

    name: str
    description: str = ""
    checkpoint: PathText | None = None
    """Trained weights to load: our folder format, or a team's `.pth`."""
    audio: Audio = Audio()
    speech_encoder: SpeechEncoder
    audio_encoder: AudioEncoder = AudioEncoder(kind="none")
    connector: Connector = Connector()
    decoder: Decoder
    lora: Lora | None = None
    prompts: Prompts = Prompts()
    generate: Generate = Generate()
    data: Data = Data()
    train: Train = Train()
    _files: tuple[Path, ...] = PrivateAttr(default=())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it was read from: its own and those of its `base` chain; none if it was made otherwise."""
        return self._files

    def read_from(self, files: Iterable[Path]) -> "Recipe":
        """Note the files that it was read from; returns the recipe itself."""
        self._files = tuple(files)
        return self

    def __eq__(self, other: object) -> bool:
        """Whether all values are the same, wherever they were read from."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    @model_validator(mode="after")
    def _tasks_are_asked(self) -> "Recipe":
        unknown = [task for task in self.generate.tasks if task not in self.prompts.tasks]
        if unknown:
            there = ", ".join(self.prompts.tasks)
            raise ValueError(f"generate.tasks: no prompt for {', '.join(unknown)}; prompts.tasks has {there}")
        return self
