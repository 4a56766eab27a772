#!/usr/bin/env python3
"""Spill and fetch of pages in GB/s, against what the device gives in the same run.

    tests/bench/spill.py [--dir DIR] [--mib N] [--rounds N]

The limit is fio (io_uring, O_DIRECT, the same block size, 32 at once, one job, over written blocks) where it is
installed, else the raw
loop of build/tests/bench_spill, which does the same.  Medians over the rounds; each round runs the limit beside
ours.  Rows are added to build/bench.json (fields: interface.md, "make")."""
import argparse, json, os, shutil, statistics, subprocess, tempfile

PAGES = {"smollm2-135m": 368640, "7b": 2 << 20}


def slot_bytes(page_bytes):
    return (page_bytes + 64 + 4095) // 4096 * 4096


def fio(directory, way, block, mib):
    """GB/s, or None where fio or the file system cannot do it."""
    if not shutil.which("fio"):
        return None
    size = (mib << 20) // block * block
    with tempfile.TemporaryDirectory(dir=directory) as d:
        command = ["fio", "--name=x", f"--directory={d}", f"--rw={way}", f"--bs={block}", f"--size={size}",
                   "--iodepth=32", "--direct=1", "--output-format=json", "--overwrite=1"]
        for engine in ("io_uring", "libaio"):
            if way == "read":  # what is read must have been written
                subprocess.run([w.replace("--rw=read", "--rw=write") for w in command] + [f"--ioengine={engine}"],
                               capture_output=True)
            r = subprocess.run(command + [f"--ioengine={engine}"], capture_output=True, text=True)
            if r.returncode == 0:
                out = r.stdout[r.stdout.index("{"):]
                return json.loads(out)["jobs"][0][way]["bw_bytes"] / 1e9
    return None


def ours(directory, page_bytes, mib):
    out = subprocess.run(["build/tests/bench_spill", directory, str(page_bytes), str(mib), "1"], check=True,
                         capture_output=True, text=True).stdout.split()
    return {out[i]: float(out[i + 1]) for i in range(2, 14, 2)}, " ".join(out[out.index("engine") + 1:])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--dir", default="build")
    a.add_argument("--mib", type=int, default=512)
    a.add_argument("--rounds", type=int, default=3)
    o = a.parse_args()
    rows = []
    for name, page_bytes in PAGES.items():
        got, limits, engine = {}, {"write": [], "read": []}, ""
        for _ in range(o.rounds):
            values, engine = ours(o.dir, page_bytes, o.mib)
            for key, value in values.items():
                got.setdefault(key, []).append(value)
            for way in limits:
                value = fio(o.dir, way, slot_bytes(page_bytes), o.mib)
                if value:
                    limits[way].append(value)
        for row, way, raw in (("spill", "write", "raw-write"), ("fetch", "read", "raw-read")):
            value = statistics.median(got[row])
            with_fio = len(limits[way]) == o.rounds
            limit = statistics.median(limits[way] if with_fio else got[raw])
            what = f"fio {way}, same block size, depth 32" if with_fio else f"plain {way} loop, same block size, depth 32"
            rows.append({"name": f"spill/{name}-{page_bytes}/{row}", "value": value, "unit": "GB/s", "better": "higher",
                         "peer": "the same engine without cipher and checks", "peer_value": statistics.median(got[raw]),
                         "ratio": value / statistics.median(got[raw]), "limit": what, "limit_value": limit,
                         "of_limit": value / limit, "cmd": "tests/bench/spill.py"})
            print(f"{rows[-1]['name']:34} {value:6.2f} GB/s   raw {rows[-1]['peer_value']:6.2f}   {what} {limit:6.2f}"
                  f"   {100 * value / limit:.0f} %   ({engine})", flush=True)
        for row in ("seal", "unseal"):
            rows.append({"name": f"spill/{name}-{page_bytes}/{row}", "value": statistics.median(got[row]), "unit": "GB/s",
                         "better": "higher", "peer": None, "peer_value": None, "ratio": None, "limit": None,
                         "limit_value": None, "of_limit": None, "cmd": "tests/bench/spill.py"})
            print(f"{rows[-1]['name']:34} {rows[-1]['value']:6.2f} GB/s   AES-256-GCM alone, one thread")
    path = "build/bench.json"
    have = json.load(open(path)) if os.path.exists(path) else []
    names = {r["name"] for r in rows}
    json.dump([r for r in have if r["name"] not in names] + rows, open(path, "w"), indent=1)
    print(f"rows added to {path}")


main()
