#!/usr/bin/env python3
"""Float32 reference of the Llama forward pass over a GGUF file, in numpy, written apart from the engine.

    llama_f32.py MODEL.gguf TOKENS.txt            the ten largest logits of the last position
    llama_f32.py MODEL.gguf TOKENS.txt OUT.f32    raw float32 (n_tokens, n_vocab)
    llama_f32.py --kl REFERENCE.f32 OTHER.f32 N_VOCAB   mean KL(reference || other), argmax agreement

Weights are dequantised by the gguf package; K and V stay float32.  TOKENS: decimal ids."""
import sys
import numpy as np


def load(path):
    from gguf import GGUFReader
    from gguf.quants import dequantize
    reader = GGUFReader(path)
    meta = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("tokenizer")}
    weights = {}
    for t in reader.tensors:
        weights[t.name] = dequantize(t.data, t.tensor_type).astype(np.float32)
    return meta, weights


def rms_norm(x, w, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * w


def rotate(x, cosines, sines):
    """x (n, heads, dim): interleaved pairs of the leading 2 * cosines.shape[1] dimensions."""
    n = 2 * cosines.shape[1]
    even, odd = x[..., 0:n:2], x[..., 1:n:2]
    out = x.copy()
    out[..., 0:n:2] = even * cosines[:, None] - odd * sines[:, None]
    out[..., 1:n:2] = even * sines[:, None] + odd * cosines[:, None]
    return out


def forward(meta, w, tokens):
    arch = meta["general.architecture"]
    get = lambda key, default=None: meta.get(arch + "." + key, default)
    heads = get("attention.head_count")
    kv_heads = get("attention.head_count_kv", heads)
    dim = get("attention.key_length", get("embedding_length") // heads)
    rope_dims = get("rope.dimension_count", dim)
    eps = get("attention.layer_norm_rms_epsilon")
    n = len(tokens)
    frequencies = float(get("rope.freq_base", 10000.0)) ** (-np.arange(0, rope_dims, 2) / rope_dims)
    frequencies /= float(get("rope.scaling.factor", 1.0) or 1.0)
    if "rope_freqs.weight" in w:
        frequencies = frequencies / w["rope_freqs.weight"].astype(np.float64)
    angles = np.arange(n)[:, None] * frequencies
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    mask = np.triu(np.full((n, n), -np.inf, np.float32), 1)
    x = w["token_embd.weight"][tokens]
    for layer in range(get("block_count")):
        p = f"blk.{layer}."
        h = rms_norm(x, w[p + "attn_norm.weight"], eps)
        q = rotate((h @ w[p + "attn_q.weight"].T).reshape(n, heads, dim), cosines, sines)
        k = rotate((h @ w[p + "attn_k.weight"].T).reshape(n, kv_heads, dim), cosines, sines)
        v = (h @ w[p + "attn_v.weight"].T).reshape(n, kv_heads, dim)
        out = np.empty((n, heads, dim), np.float32)
        for head in range(heads):
            g = head // (heads // kv_heads)
            scores = q[:, head] @ k[:, g].T / np.sqrt(dim) + mask
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = scores / scores.sum(axis=1, keepdims=True) @ v[:, g]
        x = x + out.reshape(n, -1) @ w[p + "attn_output.weight"].T
        h = rms_norm(x, w[p + "ffn_norm.weight"], eps)
        gate = h @ w[p + "ffn_gate.weight"].T
        up = h @ w[p + "ffn_up.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "ffn_down.weight"].T
    x = rms_norm(x, w["output_norm.weight"], eps)
    return x @ w.get("output.weight", w["token_embd.weight"]).T


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def kl(reference, other, n_vocab):
    a = np.fromfile(reference, np.float32).reshape(-1, n_vocab)
    b = np.fromfile(other, np.float32).reshape(-1, n_vocab)
    n = min(len(a), len(b))
    total, same, values = 0.0, 0, []
    for i in range(0, n, 64):
        p, q = log_softmax(a[i:i + 64]), log_softmax(b[i:i + 64])
        values.append((np.exp(p) * (p - q)).sum(axis=1))
        same += int((a[i:i + 64].argmax(1) == b[i:i + 64].argmax(1))[: n - i].sum())
    values = np.concatenate(values)
    print(f"positions {n} mean_kl {values.mean():.3e} median {np.median(values):.3e} "
          f"max {values.max():.3e} same_argmax {same / n:.4f}")


def main():
    if len(sys.argv) == 5 and sys.argv[1] == "--kl":
        return kl(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    tokens = [int(t) for t in open(sys.argv[2]).read().split()]
    meta, weights = load(sys.argv[1])
    logits = forward(meta, weights, tokens)
    if len(sys.argv) == 4:
        logits.astype("<f4").tofile(sys.argv[3])
    for i in np.argsort(-logits[-1])[:10]:
        print(f"{i} {logits[-1, i]:.5f}")


if __name__ == "__main__":
    main()
