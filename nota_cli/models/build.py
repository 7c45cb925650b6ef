"""Recipe to `AudioLM`; what is trainable is decided here and nowhere else."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import WhisperConfig

from nota_cli.errors import RecipeError
from nota_cli.hub import local_path, weights_of
from nota_cli.models.adapter import adopt, read_config
from nota_cli.models.checkpoint import load_checkpoint
from nota_cli.models.decoders.decoder import load_decoder, refuse_unknown
from nota_cli.models.encoders.beats import BeatsConfig, BeatsEncoder, load_beats
from nota_cli.models.encoders.ced import CedConfig, CedEncoder, load_ced
from nota_cli.models.encoders.eat import EatConfig, EatEncoder, load_eat
from nota_cli.models.encoders.whisper import WhisperEncoder, load_whisper_encoder
from nota_cli.models.families.salmonn import AudioLM
from nota_cli.models.inference_lora import needs_peft, put_lora
from nota_cli.models.inventory import Part, inventory
from nota_cli.models.memory import memory_explained
from nota_cli.quantization.weight_only import CPU_KERNELS, fast_int4pack, quantize_linears, repack_gptq
from nota_cli.recipe.load import own_decoder
from nota_cli.recipe.schema import AudioEncoder, Decoder, Encoder, LoadFormat, Recipe, SpeechEncoder


def build(
    recipe: Recipe,
    device: str = "cpu",
    *,
    trainable: bool = False,
    load_format: LoadFormat = "auto",
    allow_missing: bool = False,
    pack: bool = True,
    lean: bool = False,
) -> AudioLM:
    """The one builder that training, inference and measuring share.

    Parts with a `path` get their published weights, parts with a `config` random ones; then the recipe's checkpoint,
    if it has one, is loaded over them; its decoder takes the place of one with random weights.

    Args:
        recipe: the system.
        device: where to put it. "meta", with dummy weights, builds the shapes and allocates nothing.
        trainable: leave gradients on for the parts that the recipe trains; otherwise the model is frozen, in eval mode.
        load_format: "dummy" gives every part random weights at its true size, quantized as the recipe says; nothing
            is downloaded and no checkpoint read.
        allow_missing: go on though the checkpoint lacks weights or has more than the model takes.
        pack: unless `trainable`, hold encoders as their `quantization` says and GPTQ layers as the CPU multiplies them
            fastest; off for a model that weights are still loaded into, or that is saved.
        lean: the caller hands the model to `prepare_to_run` next, so that adapters and GPTQ layers may be loaded in a
            form that is not trained or saved, without PEFT and gptqmodel, whose imports take seconds.

    Raises:
        CheckpointError: weights are missing or do not fit.
        RecipeError: the recipe asks for what cannot be made, such as training a quantized encoder.
        NotaError: memory does not do; the message has what each part needs, and what there is.
    """

    def parts() -> list[Part]:
        return inventory(_build(recipe, "meta", False, True, False, False, False))

    with memory_explained(parts, device, recipe.name), weights_of(recipe):
        dummy, packs = load_format == "dummy", pack and not trainable
        return _build(recipe, device, trainable, dummy, allow_missing, packs, lean and packs)


def _build(
    recipe: Recipe, device: str, trainable: bool, dummy: bool, allow_missing: bool, pack: bool, lean: bool
) -> AudioLM:
    """As `build`; runs into the end of memory without an explanation."""
    load_format: LoadFormat = "dummy" if dummy else "auto"
    cpu_kernel = _cpu_kernel(recipe.decoder, device)
    checkpoint = None if recipe.checkpoint is None or dummy else local_path(recipe.checkpoint, kind="checkpoint")
    if checkpoint is not None:
        decoder_spec = own_decoder(recipe.decoder, checkpoint)
        recipe = recipe.model_copy(update={"decoder": decoder_spec})
    adapter = None
    if checkpoint is not None and recipe.lora is not None:
        adapter = read_config(checkpoint / "adapter")
        recipe = recipe if adapter is None else adopt(recipe, adapter)
    lean = lean and not needs_peft(recipe, adapter)
    repacked = cpu_kernel is not None and pack and device == "cpu"
    kernel = recipe.decoder.kernel if cpu_kernel is None else cpu_kernel if lean and repacked and not dummy else "auto"
    loadable = recipe.decoder.model_copy(update={"kernel": kernel})
    decoder = load_decoder(loadable, device, trainable=trainable, load_format=load_format)
    speech = _speech_encoder(recipe.speech_encoder, device, dummy, pack)
    audio = _audio_encoder(recipe.audio_encoder, device, dummy, pack)
    with torch.device("meta") if device == "meta" else nullcontext():
        model = AudioLM(recipe, speech, audio, decoder)
    if recipe.lora is not None and not (lean and put_lora(decoder, recipe, adapter)):
        decoder.add_lora(recipe.lora, adapter)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint, allow_missing=allow_missing)
    # Decoders are loaded to their device; bitsandbytes' refuse to be moved as a whole.
    for part in (model.speech_encoder, model.audio_encoder, model.connector):
        if part is not None:
            part.to(device)
    model.eval().requires_grad_(False)
    if trainable:
        _set_trainable(model)
    if pack and not dummy:
        quantize_linears(model.speech_encoder, recipe.speech_encoder.quantization)
        if model.audio_encoder is not None:
            quantize_linears(model.audio_encoder, recipe.audio_encoder.quantization)
    if cpu_kernel is not None and repacked and repack_gptq(decoder.model, cpu_kernel):
        decoder.kernel = cpu_kernel
    return model


def _cpu_kernel(spec: Decoder, device: str) -> str | None:
    """Which of `CPU_KERNELS` the decoder's GPTQ layers shall run on, if on any of them."""
    if spec.kernel in CPU_KERNELS:
        if device not in ("cpu", "meta"):
            raise RecipeError(f"decoder.kernel: {spec.kernel} is for the CPU, and this is {device}; set it to auto")
        return spec.kernel
    if spec.quantization != "gptq" or spec.kernel != "auto" or device != "cpu":
        return None
    return "int4pack" if spec.dtype == "bfloat16" and fast_int4pack() else "blockwise"


def _set_trainable(model: AudioLM) -> None:
    """Turn gradients on for what the recipe trains, off for the rest."""
    recipe = model.recipe
    for name, spec in (("speech_encoder", recipe.speech_encoder), ("audio_encoder", recipe.audio_encoder)):
        if spec.train and spec.quantization != "none":
            raise RecipeError(f"{name}: {spec.quantization} weights cannot be trained; set its quantization to none")
    switches = [
        (model.speech_encoder, recipe.speech_encoder.train),
        (model.audio_encoder, recipe.audio_encoder.train),
        (model.connector, recipe.connector.train),
        (model.decoder, recipe.decoder.train),
    ]
    for part, on in switches:
        if part is not None and on:
            part.requires_grad_(True)
    # Whisper's positions are a fixed table of sines.
    model.speech_encoder.embed_positions.requires_grad_(False)
    for name, parameter in model.decoder.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)


def train_mode(model: AudioLM) -> None:
    """Dropout on in the parts that are trained, off in the frozen ones."""
    model.eval()
    for part in (model.speech_encoder, model.audio_encoder, model.connector, model.decoder):
        if part is not None and any(parameter.requires_grad for parameter in part.parameters()):
            part.train()


def _speech_encoder(spec: SpeechEncoder, device: str, dummy: bool, pack: bool) -> nn.Module:
    if spec.config is not None:
        refuse_unknown("speech_encoder.config", spec.config, WhisperConfig().to_dict())
    return _encoder(
        spec,
        _random_whisper,
        lambda path: load_whisper_encoder(path, getattr(torch, spec.dtype)),
        device,
        dummy,
        pack,
    )


def _random_whisper(values: dict) -> WhisperEncoder:
    try:
        return WhisperEncoder(WhisperConfig(**values))
    except StrictDataclassError as error:
        raise RecipeError(f"speech_encoder.config: {error}") from error


def _audio_encoder(spec: AudioEncoder, device: str, dummy: bool, pack: bool) -> nn.Module | None:
    if spec.kind == "none":
        return None
    ced = {"scaling": spec.scaling, "token_order": spec.token_order}
    makers: dict[str, tuple[Callable[[dict], nn.Module], Callable[[Path], nn.Module]]] = {
        "beats": (lambda values: BeatsEncoder(BeatsConfig.from_dict(values)), load_beats),
        "ced": (
            lambda values: CedEncoder(CedConfig.from_dict(values), **ced),
            lambda path: load_ced(path, spec.heads, **ced),
        ),
        "eat": (lambda values: EatEncoder(EatConfig.from_dict(values)), load_eat),
    }
    random, load = makers[spec.kind]
    return _encoder(spec, random, load, device, dummy, pack)


def _encoder(
    spec: Encoder,
    random: Callable[[dict], nn.Module],
    load: Callable[[Path], nn.Module],
    device: str,
    dummy: bool,
    pack: bool,
) -> nn.Module:
    """An encoder from its file, at random from the recipe's `config`, or with dummy weights of its true size."""
    dtype = getattr(torch, spec.dtype)
    if dummy:
        from nota_cli.models.architectures import architecture
        from nota_cli.quantization.dummy import dummy_init

        if spec.path is not None and Path(spec.path).is_file():  # it tells its own shape
            encoder = load(Path(spec.path)).to("meta")
        else:
            values = spec.config if spec.config is not None else architecture(spec.path, spec.kind)["config"]
            with torch.device("meta"):
                encoder = random(values)
        if pack:  # before there is memory for it
            quantize_linears(encoder, spec.quantization)
        return dummy_init(encoder, device, dtype)
    encoder = load(local_path(spec.path)) if spec.path is not None else random(spec.config or {})
    return encoder.to(dtype)
