"""What a recipe says, section by section, of what another system's config says."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nota_cli.errors import RecipeError, listing
from nota_cli.parsing import decode, parse_json
from nota_cli.recipe.encoders import ENCODERS
from nota_cli.recipe.importer.reader import Config, Stage, read_config
from nota_cli.recipe.schema import Recipe

EVERY_LAYER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


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
    config = read_config(file, stage)
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


def _present(**values: Any) -> dict[str, Any]:
    """What the config is silent on keeps the recipe's own default."""
    return {key: value for key, value in values.items() if value is not None}


def _speech_encoder(config: Config) -> dict[str, Any]:
    path = config.needed_path("model.whisper_path")
    if path.endswith(".pt"):
        config.note("OpenAI's own format, which nota does not read: name a Hugging Face folder", "model.whisper_path")
    if config.path("datasets.whisper_path") not in (None, path):
        config.note("nota takes the log-mel's settings from the speech encoder itself", "datasets.whisper_path")
    return {"path": path, "train": not config.flag("model.freeze_whisper", True)}


def _audio_encoder(config: Config) -> dict[str, Any]:
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


def _connector(config: Config) -> dict[str, Any]:
    if not config.flag("model.use_speech_Qformer", True):
        raise RecipeError(f"{config.file}: model.use_speech_Qformer is false, and nota has no connector of its kind")
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


def _decoder(config: Config) -> dict[str, Any]:
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


def _lora(config: Config) -> dict[str, Any] | None:
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


def _prompts(config: Config) -> dict[str, Any]:
    ends = [config.text(key) for key in ("generate.end_sym", "model.end_sym")]
    if None not in ends and ends[0] != ends[1]:
        config.note("answers are cut at generate.end_sym, which differs; it is what the recipe has", "model.end_sym")
    template = config.text("model.prompt_template")
    return _present(template=template, end_symbol=ends[0] or ends[1], tasks=_tasks(config))


def _tasks(config: Config) -> dict[str, str] | None:
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


def _generate(config: Config) -> dict[str, Any]:
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


def _data(config: Config) -> dict[str, Any]:
    root = config.path("datasets.prefix")

    def source(key: str) -> dict[str, str] | None:
        annotation = config.path(f"datasets.{key}")
        return None if annotation is None else {"annotation": annotation, "audio_root": root or "/"}

    train, validation, one = (source(f"{split}_ann_path") for split in ("train", "valid", "test"))
    test = {task: source(f"test_ann_path_{task}") for task in ("asr", "aac", "qa")}
    if one is not None:
        words = re.split("[^a-z]+", Path(one["annotation"]).stem.lower())
        tasks = [task for task in test if task in words]
        if not tasks:
            config.note("does not say for which task; the recipe has it for asr and aac", "datasets.test_ann_path")
        test |= dict.fromkeys(tasks or ["asr", "aac"], one)
    if root is None and any((train, validation, *test.values())):
        config.note("not given: annotations have to name audio by absolute paths", "datasets.prefix")
    return _present(train=train and [train], validation=validation and [validation], test=_present(**test))


def _train(config: Config) -> dict[str, Any]:
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
