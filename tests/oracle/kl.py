#!/usr/bin/env python3
"""Mean KL divergence of our logits to a float32 reference made outside this repository.

The reference is llama.cpp (PyPI llama-cpp-python, version pinned below) running the same model with
every tensor dequantised to float32 by the `gguf` package and a float32 KV cache.  The peer is the
same llama.cpp on the quantised file as it is.  Both are test oracles, never used at run time.

    tests/oracle/kl.py MODEL.gguf TEXT [--kvengine build/bin/kvengine] [--tokens 640]
                       [--golden OUT.bin]        writes the distilled reference tests/unit reads
"""
import argparse, hashlib, json, os, subprocess, sys, tempfile
import numpy as np

PINNED = "0.3.35"


def dequantised(path, out):
    import gguf
    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, arch)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=sub)
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def peer_logits(path, ids, f32):
    import llama_cpp
    assert llama_cpp.__version__ == PINNED, f"llama-cpp-python {llama_cpp.__version__}, pinned {PINNED}"
    kv = 0 if f32 else 1            # ggml type of the KV cache: F32 or F16
    llm = llama_cpp.Llama(path, n_ctx=len(ids) + 8, n_batch=512, logits_all=True, n_threads=2,
                          n_threads_batch=2, type_k=kv, type_v=kv, flash_attn=not f32, verbose=False)
    llm.eval(ids)
    return np.array(llm.scores[: len(ids)], dtype=np.float64)


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def kl(reference, other):
    p, q = log_softmax(reference), log_softmax(other)
    return (np.exp(p) * (p - q)).sum(axis=1)


def write_golden(path, ids, reference, top=32):
    """u32 n, u32 top; then per position: i32 token, (top) i32 ids, (top) f32 log-probabilities."""
    lp = log_softmax(reference)
    with open(path, "wb") as f:
        np.array([len(ids), top], np.uint32).tofile(f)
        for i, row in enumerate(lp):
            best = np.argsort(-row, kind="stable")[:top]
            np.array([ids[i]], np.int32).tofile(f)
            best.astype(np.int32).tofile(f)
            row[best].astype(np.float32).tofile(f)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("model")
    a.add_argument("text")
    a.add_argument("--kvengine", default="build/bin/kvengine")
    a.add_argument("--tokens", type=int, default=640)
    a.add_argument("--golden")
    o = a.parse_args()
    import llama_cpp
    vocab = llama_cpp.Llama(o.model, vocab_only=True, verbose=False)
    ids = vocab.tokenize(open(o.text, "rb").read(), add_bos=False, special=False)[: o.tokens]
    with tempfile.TemporaryDirectory() as work:
        f32 = os.path.join(work, "f32.gguf")
        dequantised(o.model, f32)
        reference = peer_logits(f32, ids, True)
        os.unlink(f32)
        peer = peer_logits(o.model, ids, False)
        if o.golden:
            write_golden(o.golden, ids, reference)
        result = {"tokens": len(ids), "reference_sha256": hashlib.sha256(reference.astype(np.float32).tobytes()).hexdigest(),
                  "peer_kl": float(kl(reference, peer).mean())}
        if os.path.exists(o.kvengine):
            tokens, out = os.path.join(work, "tokens"), os.path.join(work, "logits")
            open(tokens, "w").write(" ".join(map(str, ids)))
            subprocess.run([o.kvengine, "--eval", o.model, "--tokens", tokens, "--logits-out", out, "--json"],
                           check=True, stdout=subprocess.DEVNULL)
            ours = np.fromfile(out, np.float32).reshape(len(ids), -1).astype(np.float64)
            d = kl(reference, ours)
            result.update(kl=float(d.mean()), kl_p99=float(np.quantile(d, .99)),
                          ratio=float(d.mean() / result["peer_kl"]),
                          same_top1=float((reference.argmax(1) == ours.argmax(1)).mean()))
        print(json.dumps(result, indent=1))


main()
