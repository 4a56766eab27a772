#!/usr/bin/env python3
"""make bench, the memory core and the daemon: page operations, adoption, verbs; rows appended to build/bench.json.

Each ratio compares two figures of one run of this script: the core with a bare random walk over the same bytes
(bench_core), a verb with the floor of its kind under the same pinning (bench_verb), and the core with the
block pool of vLLM's KVCacheManager on the same load (peer_vllm.py, where KVD_VLLM_PYTHON names a Python that
has vllm; its wheels are several GB, so that nothing here fetches them).

    tests/bench/core.py [FRAMES...]     default 10^4 10^5 10^6; 10^7 needs 6 GiB and some minutes
"""
import json, os, statistics, subprocess, sys

SIZES = [int(a) for a in sys.argv[1:]] or [10_000, 100_000, 1_000_000]
ROUNDS = 3


def run(*command):
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def row(name, value, unit, better, peer=None, peer_value=None, limit=None, limit_value=None):
    ahead = None
    if peer_value:
        ahead = value / peer_value if better == "higher" else peer_value / value
    of_limit = (value / limit_value if better == "higher" else limit_value / value) if limit_value else None
    print(f"{name:34} {value:14,.2f} {unit:14}" + (f" peer {peer_value:12,.0f}  ratio {ahead:6.2f}" if ahead else "")
          + (f" limit {limit_value:10,.2f} ({limit})  {100 * of_limit:.0f} %" if of_limit else ""), flush=True)
    return {"name": name, "value": value, "unit": unit, "better": better, "peer": peer, "peer_value": peer_value,
            "ratio": ahead, "limit": limit, "limit_value": limit_value, "of_limit": of_limit,
            "cmd": "tests/bench/core.py"}


def core_rows(frames):
    python = os.environ.get("KVD_VLLM_PYTHON")
    mine, theirs = [], []
    for _ in range(ROUNDS):                        # in turns: a machine that drifts treats both alike
        mine += run("build/tests/bench_core", "ops", str(frames), "1")
        if python and frames <= 1_000_000:
            theirs += run(python, "tests/bench/peer_vllm.py", str(frames), "1")
    steps = run("build/tests/bench_core_steps", "ops", str(frames), "0.5")[0]
    ops = statistics.median(r["ops_per_second"] for r in mine)
    peer = statistics.median(r["ops_per_second"] for r in theirs) if theirs else None
    walk = statistics.median(r["walk_ns"] for r in mine)
    yield row(f"core/page-ops@{frames}", ops, "ops/s", "higher", theirs[0]["peer"] if theirs else None, peer)
    yield row(f"core/ns-per-op@{frames}", 1e9 / ops, "ns", "lower", limit="random walk over the lines it stores to",
              limit_value=walk * steps["lines_per_op"])
    yield row(f"core/stores-per-op@{frames}", steps["stores_per_op"], "stores", "lower")
    yield row(f"core/book-bytes-per-frame@{frames}", statistics.median(r["bytes_per_frame"] for r in mine), "bytes",
              "lower", limit="64 and 64 for token ids", limit_value=128.0)


def adoption_row(frames):
    best = min(r["adopt_ms"] for r in run("build/tests/bench_core", "adopt", str(frames), "64"))
    target = {1_000_000: 300.0, 10_000_000: 3000.0}.get(frames)
    return row(f"core/adopt@{frames}", best, "ms", "lower", limit="target" if target else None, limit_value=target)


def verb_rows():
    times = {r["name"]: r for r in run("build/tests/bench_verb")}
    for verb, floor in (("socket", "socket"), ("futex", "futex"), ("half", "half"), ("spin", "spin")):
        if verb == "futex" and "verb-futex" not in times:  # the kernel's io_uring waits for no word
            continue
        for p in ("p50_usec", "p99_usec"):
            yield row(f"verb/{verb}-{p[:3]}", times[f"verb-{verb}"][p], "usec", "lower",
                      limit=f"floor-{floor}, two processes without kvd", limit_value=times[f"floor-{floor}"][p])


def main():
    rows = []
    for frames in SIZES:
        rows += core_rows(frames)
        rows.append(adoption_row(frames))
    rows += verb_rows()
    print("load average " + " ".join(f"{x:.1f}" for x in os.getloadavg()) + " (rows are only as good as it is low)")
    try:
        with open("build/bench.json") as f:
            old = [r for r in json.load(f) if r["name"] not in {n["name"] for n in rows}]
    except FileNotFoundError:
        old = []
    with open("build/bench.json", "w") as f:
        json.dump(old + rows, f, indent=1)


main()
