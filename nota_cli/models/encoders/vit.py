"""What the vision-transformer encoders (CED, EAT) share; weight names are timm's, which both published."""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Plain self-attention; queries, keys and values from one projection."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool, attention_dropout: float, dropout: float):
        super().__init__()
        self.heads, self.attention_dropout, self.dropout = heads, attention_dropout, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """States `[B, S, D]` to the same; the mask, True where a key is seen, broadcasts to `[B, heads, S, S]`."""
        query, key, value = self.qkv(states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.attention_dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, dropout_p=dropout)
        return F.dropout(self.proj(out.transpose(1, 2).flatten(2)), p=self.dropout, training=self.training)


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States `[B, S, D]` to the same."""
        hidden = F.dropout(F.gelu(self.fc1(states)), p=self.dropout, training=self.training)
        return F.dropout(self.fc2(hidden), p=self.dropout, training=self.training)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training now and then a row goes without the branch `[B, S, D]`."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        """The branch, rows of it zeroed and the others made as much larger."""
        if not self.training or self.probability == 0.0:
            return branch
        return branch * F.dropout(branch.new_ones(len(branch), 1, 1), p=self.probability)
