#!/usr/bin/env python3
"""make bench: our engine against llama.cpp on the same file, machine, threads, in the same run.

Each round runs ours, then the peer; the figures are medians over the rounds, so that a machine whose
speed drifts treats both alike.  A table goes to the terminal, the rows to build/bench.json (fields:
interface.md, "make").  The peer is PyPI's llama-cpp-python, built from source under build/peer for this
machine's instruction set; without it the rows have no peer.
"""
import argparse, json, os, statistics, subprocess, sys

ROWS = ["prefill-512", "prefill-2048", "decode@0", "decode@2048", "batch-16", "batch-16-shared-2000"]
PEER = "llama-cpp-python==0.3.35"


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def peer_python():
    """Make the peer once; None where it cannot be had."""
    python = "build/peer/bin/python"
    if not os.path.exists("build/peer/ok"):
        print("bench: building the peer (some minutes, once)", file=sys.stderr)
        try:
            run(sys.executable, "-m", "venv", "build/peer")
            run(python, "-m", "pip", "install", "-q", "numpy", "gguf", PEER)
            open("build/peer/ok", "w").close()
        except subprocess.CalledProcessError as e:
            print(f"bench: no peer: {e.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            return None
    return python


def ours(model, threads):
    out = run("build/tests/bench_forward", model, str(threads), "best", *ROWS)
    return {f[0]: float(f[1]) for f in (line.split() for line in out.splitlines()) if f and f[0] in ROWS}


def streamed_bytes(model):
    """Bytes a decode step must read: all tensors (the tied embedding is the head)."""
    import_path = "import sys, gguf; r = gguf.GGUFReader(sys.argv[1]); print(sum(int(t.n_bytes) for t in r.tensors))"
    return int(run("build/peer/bin/python", "-c", import_path, model))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--model", action="append", default=[], help="NAME=FILE")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--rounds", type=int, default=3)
    o = a.parse_args()
    models = dict(m.split("=", 1) for m in o.model)
    if not models:
        models["smollm2-135m-q4_1"] = run("tests/fetch_model.sh").strip().splitlines()[-1]
    python = peer_python()
    result = []
    for name, path in models.items():
        mine, theirs = {}, {}
        for _ in range(o.rounds):
            for row, value in ours(path, o.threads).items():
                mine.setdefault(row, []).append(value)
            if python:
                out = run(python, "tests/bench/peer_llama.py", path, "--threads", str(o.threads))
                for row, value in json.loads(out.strip().splitlines()[-1]).items():
                    theirs.setdefault(row, []).append(value)
        bandwidth = float(run("build/tests/bench_limit", str(o.threads)))
        for row in ROWS:
            if row not in mine:
                continue
            value = statistics.median(mine[row])
            peer = statistics.median(theirs[row]) if row in theirs else None
            entry = {"name": f"{name}/{row}", "value": value, "unit": "tokens/s", "better": "higher",
                     "peer": PEER if peer else None, "peer_value": peer, "ratio": value / peer if peer else None,
                     "limit": None, "limit_value": None, "of_limit": None, "cmd": "make bench"}
            if row == "decode@0" and python:
                limit = bandwidth * 1e9 / streamed_bytes(path)
                entry.update(limit=f"read bandwidth {bandwidth:.1f} GB/s", limit_value=limit, of_limit=value / limit)
            result.append(entry)
            print(f"{entry['name']:44} {value:9.1f} t/s   peer {peer or 0:9.1f}   ratio {entry['ratio'] or 0:6.2f}"
                  + (f"   {100 * entry['of_limit']:.0f} % of {entry['limit']}" if entry["limit"] else ""), flush=True)
    json.dump(result, open("build/bench.json", "w"), indent=1)
    print("rows in build/bench.json")


main()
