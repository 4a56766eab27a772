#!/usr/bin/env python3
"""Writes what train.py learned as one GGUF file: matrices Q8_0, norms F32.

    export.py DIR OUT.gguf        reads DIR/state.npz and DIR/tokenizer.json
"""
import json
import pathlib
import sys

import gguf
import numpy as np

import data
import model
import train

DESCRIPTION = ("A small Llama that kvd's tests and demo run on where no larger model is at hand. "
               "It learned to write from manuals of free software and knows nothing beyond them.")


def add_tokenizer(writer, path):
    bpe = json.loads(path.read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in data.SPECIAL else gguf.TokenType.NORMAL
                            for t in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(data.END_OF_TEXT)
    writer.add_eos_token_id(data.IM_END)
    writer.add_unk_token_id(data.END_OF_TEXT)
    writer.add_pad_token_id(data.END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(data.CHAT_TEMPLATE)
    return len(tokens)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    work, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    c = model.Config()
    weights = model.init(c, 0)
    zeros = lambda: {"w": weights, "m": weights, "v": weights}
    state, step, seconds = train.load(work / "state.npz", zeros())
    weights = state["w"]

    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type("model")
    writer.add_name("kvd-bundled")
    writer.add_description(DESCRIPTION)
    writer.add_author("the kvd authors")
    writer.add_license("cc-by-sa-4.0")
    writer.add_languages(["en"])
    writer.add_vocab_size(c.n_vocab)
    writer.add_context_length(c.ctx_tokens)
    writer.add_embedding_length(c.n_embd)
    writer.add_block_count(c.n_layers)
    writer.add_feed_forward_length(c.n_ff)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.rms_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if add_tokenizer(writer, work / "tokenizer.json") != c.n_vocab:
        sys.exit(f"{work / 'tokenizer.json'}: not {c.n_vocab} tokens: run train.py again")

    q8_0 = gguf.GGMLQuantizationType.Q8_0

    def matrix(name, w):
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(w, np.float32), q8_0),
                          raw_dtype=q8_0)

    matrix("token_embd.weight", weights["embd"])
    for i, layer in enumerate(weights["layers"]):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.asarray(layer["attn_norm"], np.float32))
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", np.asarray(layer["ffn_norm"], np.float32))
        for key, name in model.LAYER_MATRICES.items():
            matrix(f"blk.{i}.{name}.weight", layer[key])
    writer.add_tensor("output_norm.weight", np.asarray(weights["norm"], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{out}: {out.stat().st_size} bytes after {step} steps, {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
