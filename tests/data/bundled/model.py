"""The bundled model's forward pass in JAX, as training and the check of the written file use it.

Architecture: GGUF "llama": pre-norm RMSNorm, rotary embedding over interleaved pairs (2i, 2i+1),
grouped-query attention, SwiGLU, tied embeddings, no biases.  Weights are kept as the file stores
them: W is (n_out, n_in) and computes y = x W^T.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    n_vocab: int = 3072
    n_embd: int = 256
    n_layers: int = 5
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    n_ff: int = 640
    ctx_tokens: int = 4096
    rope_base: float = 10000.0
    rms_eps: float = 1e-5


# Name of a layer's matrix here -> its name in the file.
LAYER_MATRICES = {"wq": "attn_q", "wk": "attn_k", "wv": "attn_v", "wo": "attn_output",
                  "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}


def init(config, seed):
    rng = np.random.default_rng(seed)

    def matrix(n_out, n_in, gain=1.0):
        return (rng.standard_normal((n_out, n_in)) * gain / np.sqrt(n_in)).astype(np.float32)

    c = config
    q_rows, kv_rows = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
    out_gain = 0.5 / np.sqrt(2 * c.n_layers)
    layers = [{
        "attn_norm": np.ones(c.n_embd, np.float32),
        "wq": matrix(q_rows, c.n_embd), "wk": matrix(kv_rows, c.n_embd),
        "wv": matrix(kv_rows, c.n_embd), "wo": matrix(c.n_embd, q_rows, out_gain),
        "ffn_norm": np.ones(c.n_embd, np.float32),
        "gate": matrix(c.n_ff, c.n_embd), "up": matrix(c.n_ff, c.n_embd),
        "down": matrix(c.n_embd, c.n_ff, out_gain),
    } for _ in range(c.n_layers)]
    return {"embd": (rng.standard_normal((c.n_vocab, c.n_embd)) * 0.05).astype(np.float32),
            "norm": np.ones(c.n_embd, np.float32), "layers": layers}


def rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope(x, cos, sin):
    """x (batch, tokens, heads, head_dim): rotate each pair (2i, 2i+1) by its position's angle."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def hidden(config, weights, tokens):
    """tokens (batch, n) -> (batch, n, n_embd), after the last norm."""
    c = config
    n_batch, n = tokens.shape
    angle = (jnp.arange(n)[:, None] *
             c.rope_base ** (-jnp.arange(0, c.head_dim, 2) / c.head_dim)[None, :])
    cos, sin = jnp.cos(angle)[None, :, None, :], jnp.sin(angle)[None, :, None, :]
    group = c.n_heads // c.n_kv_heads
    causal = jnp.tril(jnp.ones((n, n), bool))
    x = weights["embd"][tokens]
    for layer in weights["layers"]:
        a = rms_norm(x, layer["attn_norm"], c.rms_eps)
        q = rope((a @ layer["wq"].T).reshape(n_batch, n, c.n_heads, c.head_dim), cos, sin)
        k = rope((a @ layer["wk"].T).reshape(n_batch, n, c.n_kv_heads, c.head_dim), cos, sin)
        v = (a @ layer["wv"].T).reshape(n_batch, n, c.n_kv_heads, c.head_dim)
        # Heads of one group lie beside each other: query head h reads key head h / group.
        q = q.reshape(n_batch, n, c.n_kv_heads, group, c.head_dim).transpose(0, 2, 3, 1, 4)
        q = q.reshape(n_batch * c.n_kv_heads, group * n, c.head_dim) * (c.head_dim ** -0.5)
        k = k.transpose(0, 2, 3, 1).reshape(n_batch * c.n_kv_heads, c.head_dim, n)
        v = v.transpose(0, 2, 1, 3).reshape(n_batch * c.n_kv_heads, n, c.head_dim)
        scores = (q @ k).reshape(-1, group, n, n)
        scores = jnp.where(causal, scores, -1e30)
        p = jax.nn.softmax(scores, axis=-1).reshape(-1, group * n, n)
        y = (p @ v).reshape(n_batch, c.n_kv_heads * group, n, c.head_dim)
        y = y.transpose(0, 2, 1, 3).reshape(n_batch, n, c.n_heads * c.head_dim)
        x = x + y @ layer["wo"].T
        f = rms_norm(x, layer["ffn_norm"], c.rms_eps)
        x = x + (jax.nn.silu(f @ layer["gate"].T) * (f @ layer["up"].T)) @ layer["down"].T
    return rms_norm(x, weights["norm"], c.rms_eps)


def logits(config, weights, tokens):
    return hidden(config, weights, tokens) @ weights["embd"].T


def loss(config, weights, tokens):
    """Mean nats per token of tokens[:, 1:] given what comes before."""
    z = logits(config, weights, tokens[:, :-1])
    picked = jnp.take_along_axis(z, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(z, axis=-1) - picked)
