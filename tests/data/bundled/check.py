#!/usr/bin/env python3
"""Checks a written model file by what it does, not by what wrote it: reads the GGUF back,
dequantises it, and runs the forward pass of model.py on it.

    check.py FILE.gguf bits DIR               held-out bits per byte (DIR holds corpus.jsonl),
                                              and, where DIR/state.npz is there, before Q8_0
    check.py FILE.gguf tokens TEXT            token ids of a text file, by the file's own vocabulary,
                                              in the format "id id id"; fails where decoding them
                                              does not give the text back
    check.py FILE.gguf write PROMPT [SEED]    goes on with a prompt: greedy, or sampled at
                                              temperature 0.8, top-p 0.9, where a seed is given
    check.py FILE.gguf chat QUESTION [SEED] [SYSTEM.txt]
"""
import pathlib
import sys

import gguf
import jax
import jinja2
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

import data
import model
import train

N_NEW_TOKENS_MAX = 160


class File:
    """A model file: config, weights (f32), tokenizer and chat template."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        get = lambda key: reader.fields[key].contents()
        self.config = model.Config(
            n_vocab=get("llama.vocab_size"), n_embd=get("llama.embedding_length"),
            n_layers=get("llama.block_count"), n_heads=get("llama.attention.head_count"),
            n_kv_heads=get("llama.attention.head_count_kv"),
            head_dim=get("llama.attention.key_length"), n_ff=get("llama.feed_forward_length"),
            ctx_tokens=get("llama.context_length"), rope_base=get("llama.rope.freq_base"),
            rms_eps=get("llama.attention.layer_norm_rms_epsilon"))
        tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
        self.weights = {
            "embd": tensors["token_embd.weight"], "norm": tensors["output_norm.weight"],
            "layers": [{**{k: tensors[f"blk.{i}.{n}.weight"]
                           for k, n in model.LAYER_MATRICES.items()},
                        "attn_norm": tensors[f"blk.{i}.attn_norm.weight"],
                        "ffn_norm": tensors[f"blk.{i}.ffn_norm.weight"]}
                       for i in range(self.config.n_layers)]}
        tokens, types = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type")
        merges = [tuple(m.split(" ")) for m in get("tokenizer.ggml.merges")]
        self.tok = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
        self.tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
        self.tok.decoder = decoders.ByteLevel()
        self.tok.add_special_tokens([t for t, kind in zip(tokens, types)
                                     if kind == gguf.TokenType.CONTROL])
        self.template, self.eos = get("tokenizer.chat_template"), get("tokenizer.ggml.eos_token_id")
        self.logits_at = jax.jit(lambda w, ids, at: model.logits(self.config, w, ids)[0, at])

    def next_logits(self, ids):
        """Logits after ids; lengths are padded to powers of two so that few shapes compile."""
        padded = np.zeros((1, max(64, 1 << (len(ids) - 1).bit_length())), np.int32)
        padded[0, :len(ids)] = ids
        return np.asarray(self.logits_at(self.weights, padded, len(ids) - 1), np.float64)

    def write(self, ids, seed, n_new_max=N_NEW_TOKENS_MAX):
        rng, new = np.random.default_rng(seed), []
        while len(new) < n_new_max:
            z = self.next_logits(ids + new)
            if seed is None:
                choice = int(np.argmax(z))
            else:
                p = np.exp((z - z.max()) / 0.8)
                order = np.argsort(-p)
                kept = order[:int(np.searchsorted(np.cumsum(p[order]), 0.9 * p.sum())) + 1]
                choice = int(rng.choice(kept, p=p[kept] / p[kept].sum()))
            if choice in (self.eos, data.END_OF_TEXT):
                break
            new.append(choice)
        return new

    def chat_ids(self, question, system):
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        text = jinja2.Template(self.template).render(messages=messages, add_generation_prompt=True)
        return self.tok.encode(text).ids


def bits(file, work):
    _, held_out = data.load_corpus(work / "corpus.jsonl")
    loss_sum = train.make_loss_sum(file.config)
    of = lambda w: train.bits_per_byte(lambda t, n: loss_sum(w, t, n), file.tok, held_out)
    print(f"held-out bits per byte: {of(file.weights):.4f} as the file stores the weights")
    if (work / "state.npz").exists():
        state, _, _ = train.load(work / "state.npz", {k: file.weights for k in "wmv"})
        print(f"held-out bits per byte: {of(state['w']):.4f} before they were rounded to Q8_0")


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    file, verb, what, more = File(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
    seed = int(more[0]) if more and more[0] != "greedy" else None
    if verb == "bits":
        bits(file, pathlib.Path(what))
    elif verb == "tokens":
        text = pathlib.Path(what).read_text()
        ids = file.tok.encode(text).ids
        if file.tok.decode(ids, skip_special_tokens=False) != text:
            sys.exit(f"{what}: decoding the ids does not give the text back")
        print(*ids)
    elif verb == "write":
        print(what + file.tok.decode(file.write(file.tok.encode(what).ids, seed)))
    elif verb == "chat":
        system = pathlib.Path(more[1]).read_text() if len(more) > 1 else None
        ids = file.chat_ids(what, system)
        new = file.write(ids, seed)
        print(f"[{len(ids)} prompt tokens] {file.tok.decode(new)}")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
