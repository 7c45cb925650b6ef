"""Another system's YAML config, key by key: which keys were read, which have no effect in nota, which are unknown."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nota_cli.errors import RecipeError
from nota_cli.files import refuse_lfs_pointer
from nota_cli.parsing import decode, parse_yaml

Stage = Literal[1, 2]

# The teams' names for keys of the organisers, and the organisers' own variants.
SYNONYMS = {
    r"model_S\.(.+)": r"model.\1",  # the student of a distillation
    r"model\.gemma_path": "model.llama_path",
    r"model\.(speech_|freeze_speech_)gemma(_proj.*)": r"model.\1llama\2",
    r"datasets\.test_(asr|aac|qa)_path": r"datasets.test_ann_path_\1",
    r"datasets\.test_ann_path_test": "datasets.test_ann_path",
}

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


@dataclass
class Config:
    """The leaves of the YAML by their dotted keys, and which of them were looked at.

    Attributes:
        file: the config, for messages; files that it names are looked for beside it and above it.
        content: the YAML.
        stage: which one counts, where the file describes two.
        leaves: value by key, the key as the organisers spell it.
        original: the file's own spelling of each key.
        used: keys whose value was asked for.
        notes: keys by the reason why they have no effect, or another one.
    """

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
        """Report keys, as the file spells them, with a reason."""
        noted = self.notes.setdefault(reason, [])
        given = [self.original[key] for key in keys if key in self.original]
        noted += [key for key in given or keys if key not in noted]

    def value(self, key: str) -> Any:
        """The value, from here on counted as used; empty ones are as good as none."""
        self.used.add(key)
        value = self.leaves.get(key)
        return None if isinstance(value, (str, dict)) and not (value and str(value).strip()) else value

    def text(self, key: str) -> str | None:
        """The value as text.

        Raises:
            RecipeError: it is a list or a mapping.
        """
        value = self.value(key)
        if isinstance(value, (list, dict)):
            raise self._wrong(key, value, "a text")
        return None if value is None else str(value)

    def number(self, key: str) -> float | None:
        """The value as a number; YAML takes 1e-6, which has no point, for a string.

        Raises:
            RecipeError: it is no number.
        """
        value = self.value(key)
        if value is None:
            return None
        try:
            if isinstance(value, bool):
                raise ValueError
            return float(value)
        except (TypeError, ValueError):
            raise self._wrong(key, value, "a number") from None

    def whole(self, key: str) -> int | None:
        """The value as a whole number.

        Raises:
            RecipeError: it is none.
        """
        value = self.number(key)
        if value is not None and not value.is_integer():
            raise self._wrong(key, value, "a whole number")
        return None if value is None else int(value)

    def flag(self, key: str, default: bool) -> bool:
        """The value as true or false.

        Raises:
            RecipeError: it is neither.
        """
        value = self.value(key)
        word = str(value).lower()
        if value is None:
            return default
        if word not in ("true", "false", "yes", "no", "on", "off"):
            raise self._wrong(key, value, "true or false")
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
        """As `path`, of a key that every config has.

        Raises:
            RecipeError: it is missing or empty.
        """
        value = self.path(key)
        if value is None:
            raise RecipeError(f"{self.file}: {key} is missing or empty")
        return value

    def near(self, path: str) -> Path | None:
        """A file by a relative path: their scripts were run from the config's folder or from one above it."""
        folder = self.file.absolute().parent
        candidates = [parent / path for parent in (folder, *folder.parents)]
        return next((Path(os.path.normpath(candidate)) for candidate in candidates if candidate.exists()), None)

    def _wrong(self, key: str, value: object, kind: str) -> RecipeError:
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


def read_config(file: Path, stage: Stage) -> Config:
    """A config file, no key of it read yet.

    Raises:
        RecipeError: no such file, no YAML, or no section `model`.
    """
    refuse_lfs_pointer(file, error=RecipeError)
    try:
        content = parse_yaml(decode(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{file} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict) or not any(isinstance(content.get(key), dict) for key in ("model", "model_S")):
        raise RecipeError(f"{file} has no section `model`: not a config of SALMONN, the organisers or a team")
    return Config(file, content, stage)


def _flatten(node: dict[Any, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in node.items():
        inner = _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else []
        leaves += inner or [(f"{prefix}{key}", value)]
    return leaves
