"""Recipes of SALMONN's family to models; what is trainable is decided here and nowhere else."""

from contextlib import nullcontext

import torch

from nota_cli.errors import RecipeError
from nota_cli.hub import local_path
from nota_cli.models.adapter import adopt, read_config
from nota_cli.models.checkpoint import load_checkpoint
from nota_cli.models.compute import choose_compute
from nota_cli.models.decoders.decoder import load_decoder
from nota_cli.models.encoders.base import encoder_entry
from nota_cli.models.encoders.build import build_encoder
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.models.inference_lora import needs_peft, prepare_to_run, put_lora
from nota_cli.models.purpose import Purpose
from nota_cli.quantization.weight_only import CPU_KERNELS, fast_int4pack, quantize_linears, repack_gptq
from nota_cli.recipe.load import own_decoder
from nota_cli.recipe.schema import Connector, Decoder, Encoder, Recipe
from nota_cli.recipe.section import LoadFormat


def build(
    recipe: Recipe,
    device: str,
    purpose: Purpose,
    *,
    load_format: LoadFormat = "auto",
    allow_missing: bool = False,
) -> Salmonn:
    """As `nota_cli.models.build.build`; runs into the end of memory without an explanation.

    Parts with a `path` get their published weights, parts with a `config` random ones; then the recipe's checkpoint,
    if it has one, is loaded over them; its decoder takes the place of one with random weights.
    """
    dummy, pack = load_format == "dummy", purpose in ("run", "inspect")
    cpu_kernel = _cpu_kernel(recipe.decoder, device)
    checkpoint = None if recipe.checkpoint is None or dummy else local_path(recipe.checkpoint, kind="checkpoint")
    if checkpoint is not None:
        decoder_spec = own_decoder(recipe.decoder, checkpoint)
        recipe = recipe.model_copy(update={"decoder": decoder_spec})
    adapter = None
    if checkpoint is not None and recipe.lora is not None:
        adapter = read_config(checkpoint / "adapter")
        recipe = recipe if adapter is None else adopt(recipe, adapter)
    # A model that only runs takes adapters and GPTQ layers in a form without PEFT and gptqmodel, which load slowly.
    lean = purpose == "run" and not needs_peft(recipe, adapter)
    repacked = cpu_kernel is not None and pack and device == "cpu"
    kernel = recipe.decoder.kernel if cpu_kernel is None else cpu_kernel if lean and repacked and not dummy else "auto"
    loadable = recipe.decoder.model_copy(update={"kernel": kernel})
    decoder = load_decoder(loadable, device, trainable=purpose == "train", load_format=load_format)
    speech = build_encoder(recipe.speech_encoder, device, dummy=dummy, pack=pack)
    audio = None
    if recipe.audio_encoder.kind != "none":
        audio = build_encoder(recipe.audio_encoder, device, dummy=dummy, pack=pack)
    with torch.device("meta") if device == "meta" else nullcontext():
        model = Salmonn(recipe, speech, audio, decoder)
    if recipe.lora is not None and not (lean and put_lora(decoder, recipe, adapter)):
        decoder.add_lora(recipe.lora, adapter)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint, allow_missing=allow_missing)
    # Decoders are loaded to their device; bitsandbytes' refuse to be moved as a whole.
    for part in (model.speech_encoder, model.audio_encoder, model.connector):
        if part is not None:
            part.to(device)
    model.eval().requires_grad_(False)
    if purpose == "train":
        _set_trainable(model)
    if pack and not dummy:
        quantize_linears(model.speech_encoder, recipe.speech_encoder.quantization)
        if model.audio_encoder is not None:
            quantize_linears(model.audio_encoder, recipe.audio_encoder.quantization)
    if pack:
        quantize_linears(model.connector, recipe.connector.quantization)
    if cpu_kernel is not None and repacked and repack_gptq(decoder.model, cpu_kernel):
        decoder.kernel = cpu_kernel
    if purpose == "run":
        prepare_to_run(model)
        model.compute = choose_compute(model, device)
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


def _set_trainable(model: Salmonn) -> None:
    """Turn gradients on for what the recipe trains, off for the rest."""
    recipe = model.recipe
    specs: dict[str, Encoder | Connector] = {
        "speech_encoder": recipe.speech_encoder,
        "audio_encoder": recipe.audio_encoder,
        "connector": recipe.connector,
    }
    for name, spec in specs.items():
        if spec.train and spec.quantization != "none":
            raise RecipeError(f"{name}: {spec.quantization} weights cannot be trained; set its quantization to none")
    switches = [
        (model.speech_encoder, recipe.speech_encoder.train),
        (model.audio_encoder, recipe.audio_encoder.train),
        (model.connector.summary if recipe.connector.train == "summary" else model.connector, recipe.connector.train),
        (model.decoder, recipe.decoder.train),
    ]
    for part, on in switches:
        if part is not None and on:
            part.requires_grad_(True)
    for name in encoder_entry(recipe.speech_encoder.kind).fixed:
        model.speech_encoder.get_submodule(name).requires_grad_(False)
    for name, parameter in model.decoder.named_parameters():
        if "lora_" in name and recipe.lora is not None:
            parameter.requires_grad_(recipe.lora.train)


def train_mode(model: Salmonn) -> None:
    """Dropout on in the parts that are trained, off in the frozen ones."""
    model.eval()
    for part in (model.speech_encoder, model.audio_encoder, model.connector, model.decoder):
        if part is not None and any(parameter.requires_grad for parameter in part.parameters()):
            part.train()
