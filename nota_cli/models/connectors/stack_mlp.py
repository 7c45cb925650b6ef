"""Neighbouring states stacked and projected, which is Ultravox's way from sound to decoder embeddings.

Layers are named as in Ultravox's published files of version 0.5 and later, where the second norm stands before the
last layer. It has no attention: a window becomes one embedding by two matrix products.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from nota_cli.errors import RecipeError
from nota_cli.models.connectors.base import Connector
from nota_cli.recipe.schema import Connector as ConnectorSpec

NORM_EPS = 1e-6
NORM_START = 0.4
"""What the weights of both norms are before training: the embeddings begin about as small as those of tokens are."""


class StackMlp(Connector):
    """`stack` states side by side, RMSNorm, SwiGLU, RMSNorm, and a linear layer to the decoder's width.

    Args:
        spec: `stack`, and `hidden_size`: outputs of the first layer, of which the second half gates the first.
        speech_width: width of the speech encoder's states.
        audio_width: width of the audio encoder's states, which stand beside those of speech; None without one.
        decoder_width: width of the decoder's embeddings.

    Raises:
        RecipeError: the first layer's outputs do not split in halves.
    """

    keeps_rest = True

    def __init__(self, spec: ConnectorSpec, speech_width: int, audio_width: int | None, decoder_width: int) -> None:
        super().__init__(spec.stack, spec.stack)
        if spec.hidden_size % 2:
            raise RecipeError(f"connector: hidden_size {spec.hidden_size} is odd; stack_mlp splits it in two halves")
        stacked = spec.stack * (speech_width + (audio_width or 0))
        self.ln_pre = nn.RMSNorm(stacked, eps=NORM_EPS)
        self.linear_1 = nn.Linear(stacked, spec.hidden_size, bias=False)
        self.ln_mid = nn.RMSNorm(spec.hidden_size // 2, eps=NORM_EPS)
        self.linear_2 = nn.Linear(spec.hidden_size // 2, decoder_width, bias=False)
        for norm in (self.ln_pre, self.ln_mid):
            nn.init.constant_(norm.weight, NORM_START)

    def embed(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """As every connector's: one embedding a window; zeros stand for states that are not real."""
        values, gates = self.linear_1(self.ln_pre(windows.flatten(1))).chunk(2, dim=-1)
        gated = (values * F.silu(gates)).to(self.ln_mid.weight.dtype)  # under autocast a linear layer gives another
        embeds: Tensor = self.linear_2(self.ln_mid(gated)).unsqueeze(1)
        return embeds


CONNECTOR = StackMlp
