"""The YAML configs of SALMONN, of the organisers and of the teams, which share one layout, turned into recipes."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from nota_cli.errors import RecipeError, listing
from nota_cli.files import refuse_lfs_pointer
from nota_cli.parsing import decode, parse_json, parse_yaml
from nota_cli.recipe.encoders import ENCODERS
from nota_cli.recipe.schema import Recipe

Stage = Literal[1, 2]

# The teams' names for keys of the organisers, and the organisers' own variants.
SYNONYMS = {
    r"model_S\.(.+)": r"model.\1",  # the student of a distillation
    r"model\.gemma_path": "model.llama_path",
    r"model\.(speech_|freeze_speech_)gemma(_proj.*)": r"model.\1llama\2",
    r"datasets\.test_(asr|aac|qa)_path": r"datasets.test_ann_path_\1",
    r"datasets\.test_ann_path_test": "datasets.test_ann_path",
}
EVERY_LAYER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# What no recipe says, whatever its value: pattern of keys, and why. Values stay out of the notes: some are secrets.
WITHOUT_EFFECT = [
    (r"model\.token|wandb\.key", "secrets are not written into recipes; log in: `hf auth login`, or HF_TOKEN=..."),
    (r"model\.(multi_prompt|prompt_path)", "nota trains with one prompt a task; theirs drew one of several"),
    (r"model\.max_txt_len", "nota does not cut reference texts"),
    (r"model\.only_preprocessor", "for their efficiency script; nota measures by `nota efficiency`"),
    (r"model\.(low_resource|device_8bit)", "nota has no 8-bit decoder; it has 4-bit ones: decoder.quantization"),
    (r"model\.bnb_4bit_(quant_type|use_double_quant)", "4-bit is always nf4 with double quantization"),
    (r"model\.canary_path|datasets\.\w+_manifest_path", "for NVIDIA Canary as speech encoder, which nota has not"),
    (r"model_T\..+|datasets\.whisper_path2|run\.device2", "the teacher of a distillation; nota has the student alone"),
    (r"model\.(distillation|is_output_saved)", "nota does not distil"),
    (r"datasets\.augmentation\..+", "see train.augment for what nota has"),
    (r"(run\.optims\.optims|datasets\.(train|valid)_ann_path)_\d(\..+)?", "of the other stage; a recipe is one"),
    (r"generate\.min_length", "an answer may be empty; nota warns about such rows"),
    (r"generate\.(temperature|top_[kp])", "of draws; this recipe searches, see generate.sample"),
    (r"run\.(evaluate|valid_scoring)", "`nota train`, `nota infer` and `nota score` are commands of their own"),
    (r"run\.log_freq", "nota logs at steps of its own"),
    (r"run\.(output_dir|output_dir\..+|exp_name)", "nota writes where --out says"),
    (r"run\.(device|gpu|use_distributed|world_size|dist_url)", "--device, or `accelerate launch` for several"),
    (r"run\.(use_wandb|wandb_\w+)|wandb\..+|project_name", "nota keeps a log file of its own"),
]
SECTIONS = ("datasets", "datasets.augmentation", "run", "run.optims", "generate")  # may be there and empty


@dataclass(frozen=True)
class Imported:
    """What became of a config."""

    values: dict[str, Any]
    """A recipe that `Recipe.model_validate` accepts."""
    notes: list[str]
    """Keys without effect in nota or in their own code, and what else is not as it was; each with the reason."""
    unknown: list[str]


def import_config(file: Path, *, stage: Stage = 2) -> Imported:
    """Turn a training or evaluation config into a recipe; every key is used, noted or reported as unknown.

    Args:
        file: YAML with the section `model`, and any of `datasets`, `run` and `generate`. Files that it names are looked
            for beside it and beside the folders above it.
        stage: which one, where one file describes two (NLP-07).

    Raises:
        RecipeError: not such a file; a value of the wrong kind; or a system that nota cannot build.
    """
    config = _Config(file, _read(file), stage)
    values = _present(
        name=re.sub(r"[^\w.-]+", "-", file.stem),
        description=f"Imported from {file.name}",
        checkpoint=config.path("model.ckpt"),
        speech_encoder=_speech_encoder(config),
        audio_encoder=_audio_encoder(config),
        connector=_connector(config),
        decoder=_decoder(config),
        lora=_lora(config),
        prompts=_prompts(config),
        generate=_generate(config),
        data=_data(config),
        train=_train(config),
    )
    unknown = config.sort_the_rest()
    try:
        Recipe.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise RecipeError(f"{file} makes no recipe that nota can run:\n{listing(problems)}") from None
    return Imported(values, [f"{', '.join(keys)}: {reason}" for reason, keys in config.notes.items()], unknown)


@dataclass
class _Config:
    """The leaves of the YAML by their dotted keys, and which of them were looked at."""

    file: Path
    content: dict[str, Any]
    stage: Stage
    leaves: dict[str, Any] = field(init=False)
    original: dict[str, str] = field(init=False)
    used: set[str] = field(default_factory=set)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        flat = {key: value for key, value in _flatten(self.content) if value or key not in SECTIONS}
        self.original = {key: key for key in flat}
        of_stage = {rf"run\.optims\.optims_{self.stage}\.(.+)": r"run.optims.\1"}
        of_stage[rf"(datasets\.(?:train|valid)_ann_path)_{self.stage}"] = r"\1"
        for pattern, known in {**SYNONYMS, **of_stage}.items():
            for key in list(self.original):
                name = re.sub(rf"^{pattern}$", known, key)
                if name != key and name not in self.original:  # else both are there, and this one is reported
                    self.original[name] = self.original.pop(key)
        self.leaves = {name: flat[key] for name, key in self.original.items()}

    def note(self, reason: str, *keys: str) -> None:
        there = self.notes.setdefault(reason, [])
        given = [self.original[key] for key in keys if key in self.original]
        there += [key for key in given or keys if key not in there]

    def value(self, key: str) -> Any:
        """The value, from here on counted as used; empty ones are as good as none."""
        self.used.add(key)
        value = self.leaves.get(key)
        return None if isinstance(value, (str, dict)) and not (value and str(value).strip()) else value

    def text(self, key: str) -> str | None:
        value = self.value(key)
        if isinstance(value, (list, dict)):
            raise self.wrong(key, value, "a text")
        return None if value is None else str(value)

    def number(self, key: str) -> float | None:
        """YAML takes 1e-6, which has no point, for a string."""
        value = self.value(key)
        if value is None:
            return None
        try:
            if isinstance(value, bool):
                raise ValueError
            return float(value)
        except (TypeError, ValueError):
            raise self.wrong(key, value, "a number") from None

    def whole(self, key: str) -> int | None:
        value = self.number(key)
        if value is not None and not value.is_integer():
            raise self.wrong(key, value, "a whole number")
        return None if value is None else int(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.value(key)
        word = str(value).lower()
        if value is None:
            return default
        if word not in ("true", "false", "yes", "no", "on", "off"):
            raise self.wrong(key, value, "true or false")
        return word in ("true", "yes", "on")

    def path(self, key: str) -> str | None:
        """A path or hub id; a file that lies near the config is named in full, as the recipe will lie elsewhere."""
        value = self.text(key)
        if value is None:
            return None
        near = self.near(value)
        if near is None and value.startswith(".."):
            self.note("relative to where their script ran, and nothing lies there; give it with --set", key)
        return str(near) if near is not None else os.path.normpath(value) if value.startswith("./") else value

    def needed_path(self, key: str) -> str:
        value = self.path(key)
        if value is None:
            raise RecipeError(f"{self.file}: {key} is missing or empty")
        return value

    def near(self, path: str) -> Path | None:
        """Their scripts were run from the config's folder or from one above it."""
        folder = self.file.absolute().parent
        places = [place / path for place in (folder, *folder.parents)]
        return next((Path(os.path.normpath(place)) for place in places if place.exists()), None)

    def wrong(self, key: str, value: object, kind: str) -> RecipeError:
        return RecipeError(f"{self.file}: {self.original[key]} is {value!r}, not {kind}")

    def sort_the_rest(self) -> list[str]:
        """Note the keys that have no effect; return those that are unknown."""
        unknown = []
        for key in (key for key in self.leaves if key not in self.used):
            reason = next((why for pattern, why in WITHOUT_EFFECT if re.fullmatch(pattern, key)), None)
            if reason is None:
                unknown.append(self.original[key])
            else:
                self.note(reason, key)
        return unknown


def _read(file: Path) -> dict[str, Any]:
    refuse_lfs_pointer(file, error=RecipeError)
    try:
        content = parse_yaml(decode(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or not any(isinstance(content.get(key), dict) for key in ("model", "model_S")):
        raise RecipeError(f"{file} has no section `model`: not a config of SALMONN, the organisers or a team")
    return content


def _flatten(node: dict[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in node.items():
        inner = _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else []
        leaves += inner or [(f"{prefix}{key}", value)]
    return leaves


def _present(**values: Any) -> dict[str, Any]:
    """What the config is silent on keeps the recipe's own default."""
    return {key: value for key, value in values.items() if value is not None}


def _speech_encoder(config: _Config) -> dict[str, Any]:
    path = config.needed_path("model.whisper_path")
    if path.endswith(".pt"):
        config.note("OpenAI's own format, which nota does not read: name a Hugging Face folder", "model.whisper_path")
    if config.path("datasets.whisper_path") not in (None, path):
        config.note("nota takes the log-mel's settings from the speech encoder itself", "datasets.whisper_path")
    return {"path": path, "train": not config.flag("model.freeze_whisper", True)}


def _audio_encoder(config: _Config) -> dict[str, Any]:
    path, frozen = config.path("model.beats_path"), config.flag("model.freeze_beats", True)
    if path is None:
        return {"kind": "none"}
    values = {"kind": "beats", "path": path, "train": not frozen}
    # Trials kept the key and changed what it names.
    for name, kind in ENCODERS.items():
        if kind.file_name is not None and re.search(kind.file_name, Path(path).name.lower()):
            config.note(kind.import_note, "model.beats_path") if kind.import_note else None
            return values | {"kind": name, **kind.as_imported}
    return values


def _connector(config: _Config) -> dict[str, Any]:
    if not config.flag("model.use_speech_Qformer", True):
        raise RecipeError(f"{config.file}: model.use_speech_Qformer is false, and there is no other connector")
    window, stride = config.number("model.second_per_window"), config.number("model.second_stride")
    if not config.flag("model.window_level_Qformer", True):
        window = stride = 30.0  # one window over all that Whisper gives for 30 s
        config.note("model.window_level_Qformer is false", "model.second_per_window", "model.second_stride")
    keys = ("model.freeze_speech_QFormer", "model.freeze_speech_llama_proj")
    frozen = {config.flag(key, False) for key in keys}
    if len(frozen) > 1:
        config.note("nota trains Q-Former and projection together or neither; this recipe trains them", *keys)
    if config.text("model.speech_llama_proj_model") is not None:
        config.note("weights to start from: `nota train --init`", "model.speech_llama_proj_model")
    queries = config.whole("model.num_speech_query_token")
    return _present(queries=queries, window_seconds=window, stride_seconds=stride, train=False in frozen)


def _decoder(config: _Config) -> dict[str, Any]:
    path = config.needed_path("model.llama_path")
    name = path.lower()
    by_name = "gptq" if "gptq" in name else "nf4" if re.search("bnb[-_]?4bit|nf4", name) else "none"
    quantization = _stored_quantization(Path(path)) or by_name
    if any([config.flag(key, False) for key in ("model.qlora", "model.load_in_4bit")]) and quantization == "none":
        quantization = "nf4"
    dtype = config.text("model.bnb_4bit_compute_dtype") or ("bfloat16" if quantization == "nf4" else "float16")
    values = {"path": path, "quantization": quantization, "dtype": dtype.removeprefix("torch."), "pad_token": "[PAD]"}
    if re.search(r"(^|[/_-])qwen", name) and "distill" not in name:
        config.note("Qwen's tokenizer names no first token; theirs began with <|im_start|>", "model.llama_path")
        values["bos_token"] = "<|im_start|>"
    return values


def _stored_quantization(folder: Path) -> str | None:
    """What a folder's own config.json says; None for a hub id, whose name has to tell."""
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config") or {}
    except (OSError, ValueError):
        return None
    return {"gptq": "gptq", "bitsandbytes": "nf4"}.get(str(stored.get("quant_method")), "none")


def _lora(config: _Config) -> dict[str, Any] | None:
    rank, alpha = config.whole("model.lora_rank"), config.whole("model.lora_alpha")
    values = _present(rank=rank, alpha=alpha, dropout=config.number("model.lora_dropout"))
    if not config.flag("model.lora", True):
        if not config.flag("model.qlora", False):
            config.note("model.lora is false", *(f"model.lora_{key}" for key in values))
            return None
        config.note("model.qlora switches the adapters on all the same", "model.lora")
    if "model.qlora" in config.original:
        config.note("whatever CV-16's key says, their code adapts all seven linear layers", "model.qlora")
        values["targets"] = EVERY_LAYER
    return values


def _prompts(config: _Config) -> dict[str, Any]:
    ends = [config.text(key) for key in ("generate.end_sym", "model.end_sym")]
    if None not in ends and ends[0] != ends[1]:
        config.note("answers are cut at generate.end_sym, which differs; it is what the recipe has", "model.end_sym")
    template = config.text("model.prompt_template")
    return _present(template=template, end_symbol=ends[0] or ends[1], tasks=_tasks(config))


def _tasks(config: _Config) -> dict[str, str] | None:
    key = "model.test_prompt_path"
    named = config.text(key)
    file = config.near(named) if named is not None else None
    if file is None:
        if named is not None:
            config.note("not found from the config's folder upwards; the recipe has SALMONN's prompts", key)
        return None
    try:
        prompts = parse_json(decode(file.read_bytes()))
        choices = {str(task): [prompt] if isinstance(prompt, str) else list(prompt) for task, prompt in prompts.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RecipeError(f"{config.file}: {key} is {file}, which is not JSON of a prompt a task: {error}") from error
    fit = {task: [one for one in some if str(one).count("<SpeechHere>") == 1] for task, some in choices.items()}
    if left := [task for task, some in fit.items() if not some]:
        config.note(f"no prompt with exactly one <SpeechHere> for {', '.join(left)}", key)
    if several := [task for task, some in fit.items() if len(some) > 1]:
        config.note(f"of several prompts the first is taken for {', '.join(several)}", key)
    return {task: str(some[0]) for task, some in fit.items() if some}


def _generate(config: _Config) -> dict[str, Any]:
    sample, beams = config.flag("generate.do_sample", False), config.whole("generate.num_beams")
    drawn: dict[str, Any] = {"sample": True, "top_k": 50} if sample and beams == 1 else {}  # 50: transformers' own
    drawn |= _present(**{key: config.number(f"generate.{key}") for key in ("temperature", "top_p", "top_k") if drawn})
    if sample and not drawn:
        config.note("theirs drew along beams; nota draws with generate.beams=1 alone", "generate.do_sample")
    return drawn | _present(
        beams=beams,
        max_new_tokens=config.whole("generate.max_new_tokens"),
        repetition_penalty=config.number("generate.repetition_penalty"),
        length_penalty=config.number("generate.length_penalty"),
        batch_size=config.whole("run.batch_size_eval"),
    )


def _data(config: _Config) -> dict[str, Any]:
    root = config.path("datasets.prefix")

    def source(key: str) -> dict[str, str] | None:
        annotation = config.path(f"datasets.{key}")
        return None if annotation is None else {"annotation": annotation, "audio_root": root or "/"}

    train, validation, one = (source(f"{split}_ann_path") for split in ("train", "valid", "test"))
    test = {task: source(f"test_ann_path_{task}") for task in ("asr", "aac", "qa")}
    if one is not None:
        words = re.split("[^a-z]+", Path(one["annotation"]).stem.lower())
        said = [task for task in test if task in words]
        if not said:
            config.note("does not say for which task; the recipe has it for asr and aac", "datasets.test_ann_path")
        test |= dict.fromkeys(said or ["asr", "aac"], one)
    if root is None and any((train, validation, *test.values())):
        config.note("not given: annotations have to name audio by absolute paths", "datasets.prefix")
    return _present(train=train and [train], validation=validation and [validation], test=_present(**test))


def _train(config: _Config) -> dict[str, Any]:
    batch, share = config.whole("run.batch_size_train"), config.whole("run.accum_grad_iters") or 1
    epochs, iterations = config.whole("run.optims.max_epoch"), config.whole("run.iters_per_epoch")
    warmup = config.whole("run.optims.warmup_steps")
    if config.flag("run.epoch_based", False):
        keys = ("run.epoch_based", "run.optims.max_epoch", "run.iters_per_epoch", "run.valid_freq")
        config.note("epochs end with the data; set train.steps to epochs x rows / batch size", *keys)
        epochs = iterations = None
    if batch and str(config.leaves.get("run.use_distributed")).lower() == "true":
        config.note("train.batch_size is of all processes together, theirs of each", "run.batch_size_train")
    noise = "datasets.augmentation.AddGaussianNoise"
    augment = config.number(f"{noise}.p") if config.flag(f"{noise}.use", False) else None
    if augment is not None:
        config.note("taken as train.augment.noise, whose noise is 5 to 35 dB below the clip", f"{noise}.p")
    # Theirs counts batches, nota steps of the optimizer.
    times = {"steps": epochs, "validate_every": config.whole("run.valid_freq") or 1, "save_every": 1}
    return _present(
        **{key: max(1, iterations * many // share) for key, many in times.items() if iterations and many},
        warmup_steps=None if warmup is None else warmup // share,
        batch_size=batch,
        accumulation=share if share > 1 else None,
        learning_rate=config.number("run.optims.init_lr"),
        minimum_rate=config.number("run.optims.min_lr"),
        warmup_rate=config.number("run.optims.warmup_start_lr"),
        weight_decay=config.number("run.optims.weight_decay"),
        beta2=config.number("run.optims.beta2"),
        autocast=config.flag("run.amp", True),
        workers=config.whole("run.num_workers"),
        seed=config.whole("run.seed"),
        augment=None if augment is None else {"noise": augment},
    )
