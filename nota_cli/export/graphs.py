"""A SALMONN-family model as graphs: one clip through the encoders and the connector, a batch through the decoder."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from nota_cli.generation.kv_cache import cache_name
from nota_cli.models.decoders.decoder import Decoder
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.quantization.weight_only import PackedLinear

FRAMES_OF_30_S = 3_000


@dataclass(frozen=True)
class Graph:
    """What `torch.onnx.export` needs to know of a part.

    Attributes:
        name: of the file, without suffix.
        module: takes `inputs` in this order.
        inputs: names and examples.
        outputs: their names.
        dynamic: for each input the axes whose size is free, with a name and the least and the greatest size.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Any]
    outputs: list[str]
    dynamic: dict[str, Any]


class _States(nn.Module):
    """An encoder over one clip at its own length: no padding, so no mask."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor) -> Tensor:
        states: Tensor = self.encoder(features)[0]
        return states


class _Connector(nn.Module):
    """Both streams, padded to the same length that fills the windows, to the decoder's embeddings."""

    def __init__(self, model: Salmonn) -> None:
        super().__init__()
        self.connector = model.connector
        self.scale = model.decoder.audio_scale

    def forward(
        self,
        real: Tensor,
        speech: Tensor,
        speech_mask: Tensor,
        audio: Tensor | None = None,
        audio_mask: Tensor | None = None,
    ) -> Tensor:
        connector = self.connector
        states = connector.normed_speech(speech) * speech_mask.unsqueeze(-1)
        streams = [(speech, speech_mask)]
        if audio is not None and audio_mask is not None:
            states = torch.cat([states, connector.normed_audio(audio) * audio_mask.unsqueeze(-1)], dim=-1)
            streams.append((audio, audio_mask))
        embeds = connector.query_windows(states, real)[0]
        if connector.summary is not None:
            embeds = torch.cat([connector.summary(streams), embeds], dim=1)
        return embeds * self.scale


class _Decoder(nn.Module):
    """Prefill and step: the logits of the last place, and all keys and values, the new ones last."""

    def __init__(self, model: nn.Module, layers: int, sliding: bool) -> None:
        super().__init__()
        self.model, self.layers, self.sliding = model, layers, sliding

    def forward(self, embeds: Tensor, positions: Tensor, masks: list[Tensor], past: list[Tensor]) -> list[Tensor]:
        cache = DynamicCache()
        for layer in range(self.layers):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        mask: Any = masks[0]
        if self.sliding:
            mask = {"full_attention": masks[0], "sliding_attention": masks[1]}
        output: Any = self.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{cache_name(): cache},
        )
        present = [tensor for layer in getattr(output, cache_name()).layers for tensor in (layer.keys, layer.values)]
        return [output.logits[:, -1], *present]


def graphs_of(model: Salmonn) -> list[Graph]:
    """The parts of a model whose linear layers are plain and in float32 (`plain_linears`)."""
    clip = model.recipe.audio.pad == "clip"
    dim = torch.export.Dim
    frames = 200 if clip else FRAMES_OF_30_S
    speech: Any = model.speech_encoder
    mel_axis = {2: dim("mel_frames", min=2, max=FRAMES_OF_30_S)} if clip else {}
    parts = [
        Graph(
            "speech_encoder",
            _States(speech),
            {"features": torch.randn(1, speech.config.num_mel_bins, frames)},
            ["states"],
            {"features": mel_axis},
        )
    ]
    length = 10 * model.connector.stride + model.connector.window
    joined = dim("states", min=model.connector.window, max=100_000)
    # Tensors of their own: torch takes one that comes twice for one input.
    real, speech_mask, audio_mask = (torch.ones(1, length).bool() for _ in range(3))
    inputs = {"real": real, "speech": torch.randn(1, length, speech.output_dim), "speech_mask": speech_mask}
    if model.audio_encoder is not None:
        audio: Any = model.audio_encoder
        bins = audio.config.mel_bins if hasattr(audio.config, "mel_bins") else getattr(audio.config, "n_mels", 128)
        fbank_axis = {1: dim("bank_frames", min=16, max=longest_bank(audio))}
        parts.append(
            Graph(
                "audio_encoder",
                _States(audio),
                {"features": torch.randn(1, 208, bins)},
                ["states"],
                {"features": fbank_axis},
            )
        )
        inputs |= {"audio": torch.randn(1, length, audio.output_dim), "audio_mask": audio_mask}
    parts.append(Graph("connector", _Connector(model), inputs, ["embeds"], {name: {1: joined} for name in inputs}))
    return [*parts, _decoder_graph(model)]


def longest_bank(encoder: Any) -> int:
    """Frames of the longest clip that an audio encoder takes in one piece: 30 s, less where CED's table is shorter."""
    return min(FRAMES_OF_30_S + 1, getattr(encoder.config, "target_length", FRAMES_OF_30_S + 1))


def slides(config: Any) -> bool:
    """Whether layers of a decoder look at a window of the last tokens alone."""
    return "sliding_attention" in (getattr(config, "layer_types", None) or ())


def cache_shape(config: Any) -> tuple[int, int, int]:
    """Layers, heads of keys and values, and width of a head."""
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(config.num_hidden_layers), int(getattr(config, "num_key_value_heads", None) or heads), int(width)


def is_output_layer(decoder: Decoder) -> bool:
    """Whether the decoder's output layer has the weights of its token table."""
    table, head = decoder.base.get_input_embeddings(), decoder.base.get_output_embeddings()
    return bool(head is not None and head.weight.data_ptr() == table.weight.data_ptr())


def token_scale(decoder: Decoder) -> float:
    """What the decoder multiplies the rows of its token table by."""
    return float(getattr(decoder.base.get_input_embeddings(), "embed_scale", 1.0))


def _decoder_graph(model: Salmonn) -> Graph:
    base = model.decoder.base
    layers, heads, width = cache_shape(base.config)
    sliding = slides(base.config)
    batch, length, known = 2, 5, 3
    dim = torch.export.Dim
    rows, new = dim("batch", min=1, max=4096), dim("tokens", min=1, max=100_000)
    old, both = dim("known", min=0, max=100_000), dim("all_tokens", min=1, max=200_000)
    masks = [torch.zeros(batch, 1, length, known + length) for _ in range(2 if sliding else 1)]
    past = [torch.randn(batch, heads, known, width) for _ in range(2 * layers)]
    inputs = {
        "embeds": torch.randn(batch, length, model.decoder.width),
        "positions": torch.arange(known, known + length).expand(batch, -1).contiguous(),
        "masks": masks,
        "past": past,
    }
    dynamic = {
        "embeds": {0: rows, 1: new},
        "positions": {0: rows, 1: new},
        "masks": [{0: rows, 2: new, 3: both} for _ in masks],
        "past": [{0: rows, 2: old} for _ in past],
    }
    outputs = ["logits", *(f"present_{index}" for index in range(2 * layers))]
    return Graph("decoder", _Decoder(base, layers, sliding).eval(), inputs, outputs, dynamic)


@torch.no_grad()
def plain_linears(module: nn.Module) -> None:
    """Put a plain layer in the place of each quantized or adapted linear one.

    Its weights are what the layer does to the unit vectors; a packed one says its own, which takes no product of two
    large matrices. Each layer that is replaced is let go at once, so that memory holds one of them twice, not all.
    """
    replaced: list[str] = []
    for name in [name for name, layer in module.named_modules() if _special(layer)]:
        if any(name.startswith(f"{outer}.") for outer in replaced):
            continue
        replaced.append(name)
        layer: Any = module.get_submodule(name)
        if isinstance(layer, PackedLinear):
            weight, zero = layer.dequantize(), layer.bias
        else:
            inside = _inner(layer)
            zero = layer(torch.zeros(1, inside))[0]
            weight = (layer(torch.eye(inside)) - zero).T.contiguous()
        linear = nn.Linear(weight.size(1), weight.size(0), bias=False, device="meta")
        linear.weight = nn.Parameter(weight)
        if zero is not None and zero.any():
            linear.register_parameter("bias", nn.Parameter(zero))
        module.set_submodule(name, linear.eval().requires_grad_(False))


def _special(layer: nn.Module) -> bool:
    """Whether a layer is linear and not torch's own."""
    if type(layer) is nn.Linear or isinstance(layer, nn.Embedding):
        return False
    return hasattr(layer, "lora_A") or (hasattr(layer, "in_features") and hasattr(layer, "out_features"))


def _inner(layer: Any) -> int:
    """Inputs of a linear layer, adapted or not."""
    while not hasattr(layer, "in_features"):
        layer = layer.base_layer
    return int(layer.in_features)
