"""replay.py - recorded launches (cases.h): reading them, and comparing two emulators' results.

Results must lie within a tolerance of one another; what may only be read must be untouched."""
import json

import numpy as np

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
