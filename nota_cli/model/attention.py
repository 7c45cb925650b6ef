"""Which of transformers' attention implementations a decoder takes."""


def default_attention(config: object) -> str:
    """Gemma 2 caps its attention scores, which the fused kernels leave out without a word."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
