#!/usr/bin/env python3
"""replay.py - launches that the fiber emulator recorded, once more through the PTX that nvcc made.

Usage: replay.py PTX_DIR CASE_DIR   (cases.h says what a case is)
For each case: both emulators' results within a tolerance of one another, bytes outside them untouched.
Prints Check's closing line.  Skipped where there is no numpy."""
import json
import os
import re
import sys
import time

try:
    import numpy as np
except ImportError:
    print("skipped: no numpy for the PTX interpreter (apt-get install python3-numpy)")
    sys.exit(0)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ptx

TOLERANCE = 2e-5       # of a region's largest magnitude: orders of f32 sums, 2^x


def read_case(path):
    with open(path, "rb") as f:
        case = json.loads(f.readline())
        for key in ("before", "after"):
            for region in case["regions"]:
                region[key] = f.read(region["bytes"])
    return case


def numbers(name, data):
    """A region's bytes as what they stand for."""
    if name == "window":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    if "bytes" in name or "wide" in name and "scales" not in name:
        return np.frombuffer(data, np.int8).astype(np.float32)
    return np.frombuffer(data[:len(data) // 4 * 4], np.float32)


def bf16_pairs(data):
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def compare(case, memory):
    """Returns a sentence about the first difference, or None."""
    after = {r["name"]: r["after"] for r in case["regions"]}
    for r in case["regions"]:
        name, got = r["name"], memory.region(r["name"]).tobytes()
        if got == r["after"]:
            continue
        if not r["flags"] & 2:
            return f"{name} was changed"
        if name.endswith("_high") or name.endswith("_low"):
            stem = name.rsplit("_", 1)[0]
            read = bf16_pairs if "wide" not in name else lambda d: np.frombuffer(d, np.int8).astype(np.float32)
            scale = 1 if "wide" not in name else 256
            a, b = (scale * read(x[0]) + read(x[1]) for x in (
                (memory.region(stem + "_high").tobytes(), memory.region(stem + "_low").tobytes()),
                (after[stem + "_high"], after[stem + "_low"])))
            slack = 0 if "wide" not in name else 1
        else:
            a, b = numbers(name, got), numbers(name, r["after"])
            slack = 1 if "bytes" in name else 0
        finite = np.isfinite(b)
        if (np.isfinite(a) != finite).any():
            return f"{name}: a number against none"
        largest = np.abs(b[finite]).max() if finite.any() else 0
        off = np.abs(np.where(finite, a - b, 0))
        if off.max() > TOLERANCE * largest + slack:
            return f"{name}[{int(off.argmax())}]: {a[off.argmax()]:g} against {b[off.argmax()]:g}"
    return None


def program_of(directory, kernel, cache={}):
    if not cache:
        for name in os.listdir(directory):
            if name.endswith(".ptx"):
                with open(os.path.join(directory, name)) as f:
                    program = ptx.Program(f.read())
                cache.update({k: program for k in program.entries})
    return cache[kernel]


def replay(directory, case):
    regions = [dict(name=r["name"], base=r["base"], flags=r["flags"], data=r["before"]) for r in case["regions"]]
    return ptx.launch(program_of(directory, case["kernel"]), case["kernel"], case["grid"], case["threads"],
                      case["shared"], bytes.fromhex(case["args"]), regions)


def main():
    directory, cases = sys.argv[1], sys.argv[2]
    checks = failed = instructions = 0
    kernels = set()
    began = time.monotonic()
    for name in sorted(os.listdir(cases)):
        case = read_case(os.path.join(cases, name))
        kernels.add(case["kernel"])
        checks += 1
        try:
            memory, n = replay(directory, case)
            instructions += n
            wrong = compare(case, memory)
        except ptx.Fault as fault:
            wrong = str(fault)
        if wrong:
            failed += 1
            print(f"replay.py:F: {name}: {wrong}")
    took = time.monotonic() - began
    print(f"{checks} launches of {len(kernels)} kernels, {instructions / 1e6:.1f} M thread instructions, {took:.1f} s")
    if checks == 0:
        print("replay.py:F: no cases")
        checks = failed = 1
    print(f"{100 * (checks - failed) // checks}%: Checks: {checks}, Failures: {failed}, Errors: 0")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
