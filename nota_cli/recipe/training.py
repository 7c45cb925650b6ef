"""The sections of a recipe that say what it is trained, validated and tested on, and how it is trained."""

from typing import Literal

from pydantic import Field, model_validator

from nota_cli.recipe.section import Dtype, PathText, Positive, Probability, Section


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
    shuffle_buffer: int = Field(0, ge=0)
    """Rows are read as they lie, each once an epoch: shards (`.tar`) in random order, and of their rows so many at a
    time shuffled, so that disks and network storage are read front to back. 0 draws any row at any time."""

    @model_validator(mode="after")
    def _reads_in_one_way(self) -> "Source":
        if self.shuffle_buffer and (self.join > 1 or self.mix_same_label):
            raise ValueError(
                "`shuffle_buffer` reads rows as they lie, and `join` and `mix_same_label` add others from anywhere; "
                "leave out one of the two"
            )
        return self


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
    calibration: list[Source] = []
    """What `nota quantize` draws its clips from, every task that shall survive among them; `train` if empty."""


class Distill(Section):
    """A teacher whose probabilities for the tokens of the answers the student is trained towards (Hinton et al. 2015).

    The decoder's loss becomes (1 - `weight`) x cross-entropy + `weight` x divergence from the teacher.
    """

    teacher: PathText
    """A recipe with a checkpoint, or a checkpoint folder, of SALMONN's family and with the student's vocabulary."""
    weight: Probability = 0.5
    temperature: float = Field(2.0, gt=0)
    """What the logits of both are divided by; the divergence is multiplied by its square."""
    states_weight: float = Field(0.0, ge=0)
    """Weight of the squared difference between the student's and the teacher's hidden states, relative to the
    teacher's: each encoder's output and the connector's embeddings. Both take the same audio and have the same
    widths."""
    top_k: int = Field(0, ge=0)
    """Of each token the teacher's so many most likely entries, all others as one; 0: the whole vocabulary."""
    cache: PathText | None = None
    """Folder where the teacher's answers are kept, so that it is asked once about each clip. Takes clips that are not
    changed at random."""


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
    """The gradient's norm over all that is trained is cut to this."""
    adaptive_clip: float = Field(0.0, ge=0)
    """Before that, each row of a weight's gradient is cut to this share of the row's own norm (AGC, Brock et al. 2021;
    0.01 is usual); 0 does not."""
    gradient_checkpointing: bool = False
    """Layers keep their inputs alone and are run again in the backward pass: less memory, about a third more time."""
    autocast: bool = True
    """bfloat16 autocast in the forward pass; not on a processor that only emulates bfloat16."""
    decoder_weight: float = Field(1.0, ge=0)
    """Weight of the decoder's cross-entropy. 0 teaches the connector by `alignment_weight` alone, and the decoder is
    never run: many times faster."""
    alignment_weight: float = Field(0.0, ge=0)
    """Weight of a CTC loss that moves the connector's output towards the decoder's embeddings of the spoken tokens."""
    alignment_tasks: list[Literal["asr", "aac"]] = ["asr"]
    """The tasks whose texts that loss asks for: `aac` too where clips are so few that the decoder alone learns their
    names by heart instead of how they sound."""
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
    keep: Positive = 1
    """States of an unfinished run that are kept: the newest, and so many less one of those before it."""
    tracker: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = "none"
    """Where the figures of `metrics.jsonl` go as well; each but `none` is a package of its own to install."""
    best: Literal["", "wer", "wer_as_written", "cider_d", "validation_loss", "right_captions"] = ""
    """Keep the checkpoint that is best by this figure of the validation, in the folder `best` of the checkpoint."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What several processes keep: each the whole model (`ddp`), or a part of every layer (`fsdp`, FSDP2)."""
    timeout_minutes: float = Field(10.0, gt=0)
    """How long a process waits for another one, or for a batch that is loaded, before the run ends with an error."""
    workers: int = Field(1, ge=0)
    cache: PathText | None = None
    """Folder where the states of frozen encoders are kept, so that each clip is encoded once. Takes clips that are not
    changed at random: no `augment`, `join`, `crop_seconds`, `background` or `mix_same_label`."""
    buckets: int = Field(0, ge=0)
    """So many batches are drawn together and sorted by length, so that a batch's clips are alike in length and little
    of it is padding; 0 draws every batch alone."""
    batch_seconds: float | None = Field(None, gt=0)
    """With `buckets`: a batch has as many clips as fit into so many seconds, padding included, not `batch_size`."""
    max_skipped_steps: int = Field(3, ge=0)
    """Steps whose loss or gradient is not finite are skipped, their files named; one more than this ends the run."""
    distill: Distill | None = None
    """Train towards a teacher's probabilities as well."""
    seed: int = Field(0, ge=0)
    init: PathText | None = None
    """Checkpoint folder to start from (stage 2 starts from stage 1's weights)."""
    augment: Augment = Augment()
    augment_ramp: int = Field(0, ge=0)
    """Steps over which tone, noise, masks and background grow to full strength; a model that starts from random
    weights first has to hear anything at all."""

    @model_validator(mode="after")
    def _settings_go_together(self) -> "Train":
        if self.batch_seconds is not None and not self.buckets:
            raise ValueError("`batch_seconds` cuts batches out of clips sorted by length; set `buckets` too, say to 64")
        if self.distill is not None and self.decoder_weight == 0:
            raise ValueError(
                "`distill` is a loss of the decoder's, which `decoder_weight` 0 never runs; set it above 0"
            )
        return self


class StageQuantize(Section):
    """What becomes of the decoder that a stage trained: GPTQ, as `nota quantize` makes it."""

    bits: Literal[2, 3, 4, 8] = 4
    group_size: Positive = 32
    clips: Positive = 256
    """Calibration clips, drawn from the stage's training data."""
