#!/usr/bin/env python3
"""What llama.cpp does on this machine, through the C API that llama-cpp-python wraps.

    peer_llama.py MODEL.gguf [--threads 2] [--repeat 1]

Prints one JSON object {name: tokens per second}: prefill-512, prefill-2048, decode@0, decode@2048,
batch-16 (16 sequences, 64-token prompts), batch-16-shared-2000 (16 sequences over one 2,000-token
prompt, copied by reference).  f16 KV, flash attention on: its fastest setting on a CPU.
"""
import argparse, json, os, statistics, sys, time
import llama_cpp as L


class Peer:
    def __init__(self, path, threads, n_ctx, n_seq):
        L.llama_backend_init()
        self.model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
        p = L.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = n_ctx, 2048, 512, n_seq
        p.n_threads = p.n_threads_batch = threads
        p.flash_attn_type = 1
        p.kv_unified = True
        self.ctx = L.llama_init_from_model(self.model, p)
        self.vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))
        self.batch = L.llama_batch_init(2048, 0, 1)

    def decode(self, rows):
        """rows: (token, pos, seq, want)"""
        b = self.batch
        b.n_tokens = len(rows)
        for i, (token, pos, seq, want) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, pos, 1, want
            b.seq_id[i][0] = seq
        if L.llama_decode(self.ctx, b) != 0:
            sys.exit("llama_decode failed")
        L.llama_synchronize(self.ctx)

    def clear(self):
        L.llama_memory_clear(L.llama_get_memory(self.ctx), True)

    def token(self, i):
        return (i * 7919 + 13) % (self.vocab - 100) + 50

    def prefill(self, n, seq=0, start=0):
        for at in range(0, n, 512):
            rows = [(self.token(start + i), start + i, seq, i == n - 1) for i in range(at, min(n, at + 512))]
            self.decode(rows)

    def steps(self, seqs, start, n):
        for i in range(n):
            self.decode([(self.token(start + i + 3 * s), start + i, s, True) for s in range(seqs)])


clock = time.perf_counter


def timed(f):
    start = clock()
    f()
    return clock() - start


def main():
    a = argparse.ArgumentParser()
    a.add_argument("model")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--repeat", type=int, default=1)
    o = a.parse_args()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)        # it logs every tensor
    peer = Peer(o.model, o.threads, 4096, 16)
    peer.prefill(512)
    rows = {}
    global clock
    if o.threads == 1:
        clock = time.process_time       # as bench_forward does: other load does not count
    def add(name, tokens, seconds):
        rows.setdefault(name, []).append(tokens / seconds)
    for _ in range(o.repeat):
        peer.clear()
        add("prefill-512", 512, timed(lambda: peer.prefill(512)))
        peer.clear()
        add("prefill-2048", 2048, timed(lambda: peer.prefill(2048)))
        add("decode@2048", 48, timed(lambda: peer.steps(1, 2048, 48)))
        peer.clear()
        peer.prefill(1)
        add("decode@0", 96, timed(lambda: peer.steps(1, 1, 96)))
        peer.clear()
        for s in range(16):
            peer.prefill(64, s)
        add("batch-16", 16 * 32, timed(lambda: peer.steps(16, 64, 32)))
        peer.clear()
        peer.prefill(2000)
        for s in range(1, 16):
            L.llama_memory_seq_cp(L.llama_get_memory(peer.ctx), 0, s, -1, -1)
        add("batch-16-shared-2000", 16 * 16, timed(lambda: peer.steps(16, 2000, 16)))
    print(json.dumps({name: statistics.median(v) for name, v in rows.items()}))


main()
