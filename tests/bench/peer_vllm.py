#!/usr/bin/env python3
"""Page operations per second of vLLM's KV cache manager (block pool and prefix cache), as PyPI ships it.

    peer_vllm.py BLOCKS [SECONDS]

The load and the counting are those of tests/tools/bench_core.c: in turns a new request of 64 blocks (32 at
once, 32 one at a time) and one that comes again; 16 + 16 are open at any time; an operation is one
block allocated, cached (sealed), found and held, or let go.  Requests and their block hashes are made
outside of the time, which favours vLLM: kvd's core hashes inside it.  Prints one JSON object; time is the
thread's processor time.
"""
import json, random, sys, time

import vllm
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import xxhash_cbor
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request
import torch

BLOCK, PAGES, PROMPT, OPEN = 16, 64, 32, 16


class Load:
    def __init__(self, blocks):
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=64, dtype=torch.bfloat16)
        config = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[],
                               kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
        self.manager = KVCacheManager(config, max_model_len=PAGES * BLOCK + 1, scheduler_block_size=BLOCK,
                                      hash_block_size=BLOCK, enable_caching=True)
        init_none_hash(xxhash_cbor)
        self.hasher = get_request_block_hasher(BLOCK, xxhash_cbor)
        self.params = SamplingParams(max_tokens=1)
        self.next, self.ids, self.ops, self.hits, self.lookups, self.seconds = 0, 0, 0, 0, 0, 0.0

    def request(self, sequence):
        rng = random.Random(sequence)
        self.ids += 1
        tokens = [rng.getrandbits(16) for _ in range(PAGES * BLOCK + 1)]
        return Request(str(self.ids), tokens, self.params, None, block_hasher=self.hasher)

    def open_new(self, request):
        m = self.manager
        m.get_computed_blocks(request)
        if m.allocate_slots(request, PROMPT * BLOCK) is None:
            sys.exit("no room")
        request.num_computed_tokens = PROMPT * BLOCK
        for _ in range(PROMPT, PAGES):
            if m.allocate_slots(request, BLOCK) is None:
                sys.exit("no room")
            request.num_computed_tokens += BLOCK
        self.ops += 2 * PAGES

    def open_again(self, request):
        m = self.manager
        blocks, computed = m.get_computed_blocks(request)[:2]
        # hold what was found; the one token left needs a block of its own
        if m.allocate_slots(request, 1, computed, blocks) is None:
            sys.exit("no room")
        self.lookups += PAGES
        self.hits += computed // BLOCK
        self.ops += computed // BLOCK
        return computed // BLOCK

    def close(self, request, pages):
        self.manager.free(request)
        self.ops += pages

    def fill(self, n):
        while self.next < n:
            request = self.request(self.next)
            self.open_new(request)
            self.close(request, PAGES)
            self.next += 1

    def round(self):
        new = [self.request(self.next + i) for i in range(OPEN)]
        known = [random.randrange(len(self.known)) for _ in range(OPEN)]
        old = [self.request(self.known[k]) for k in known]
        start = time.thread_time()
        for i in range(OPEN):
            self.open_new(new[i])
            old[i].pages = self.open_again(old[i])
        for i in range(OPEN):
            self.close(new[i], PAGES)
            self.close(old[i], old[i].pages)
        self.seconds += time.thread_time() - start
        for i in range(OPEN):  # what is no longer there comes again no more: the latest one does instead
            if old[i].pages < PAGES:
                self.known[known[i]] = self.next + i
        self.next += OPEN


def main():
    blocks = int(sys.argv[1])
    limit = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    random.seed(1)
    load = Load(blocks)
    load.fill(blocks // PAGES)
    sequences = blocks // PAGES
    load.known = [sequences - 1 - i for i in range(sequences * 3 // 4)]
    for _ in range(min(4 * sequences // OPEN, 2048)):
        load.round()
    load.ops = load.hits = load.lookups = 0
    load.seconds = 0.0
    while load.seconds < limit:
        load.round()
    print(json.dumps({"peer": f"vllm {vllm.__version__}", "frames": blocks, "ops": load.ops, "seconds": load.seconds,
                      "ops_per_second": load.ops / load.seconds,
                      "hit_percent": 100 * load.hits / load.lookups}))


main()
