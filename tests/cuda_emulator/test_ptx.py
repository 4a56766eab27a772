#!/usr/bin/python3
"""test_ptx.py - the kernels' PTX, as nvcc made it, interpreted: planted faults first, then every real kernel.

Planted: planted.cu compiled with port.h as it is, and with copies of it in which one operand, lane or
option is wrong.  The fiber emulator cannot see those, for it has its own body of port.h; here each must
change a result or be refused.
Real: the launches that the fiber emulator recorded (one per kernel; all with KVD_CUDA_LONG) must give the
same numbers.  Skipped, with the reason, where nvcc or numpy is missing."""
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NVCC = next((p for p in (os.environ.get("NVCC"), "/usr/local/cuda/bin/nvcc", shutil.which("nvcc")) if p and os.path.exists(p)), None)
if not NVCC:
    print("skipped: no nvcc, so that there is no PTX to interpret")
    sys.exit(0)
try:
    import numpy as np
except ImportError:
    print("skipped: no numpy for the PTX interpreter (apt-get install python3-numpy)")
    sys.exit(0)
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import ptx
import replay

KEPT = os.path.join(ROOT, "build/obj/engine/cuda/kept")
checks, failures = 0, []


def check(ok, text):
    global checks
    checks += 1
    if not ok:
        failures.append(text)
        print(f"test_ptx.py:F: {text}")


# ---- planted faults ----
# What is wrong in port.h, as (text, replacement), and the planted kernel whose result must change.
MUTANTS = {
    "mma's registers of a swapped": ("{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\"\n\t\t     : \"+f\"",
                                     "{%4, %6, %5, %7}, {%8, %9}, {%0, %1, %2, %3};\"\n\t\t     : \"+f\"", "planted_mma"),
    "mma's registers of b swapped": ("{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\"\n\t\t     : \"+f\"",
                                     "{%4, %5, %6, %7}, {%9, %8}, {%0, %1, %2, %3};\"\n\t\t     : \"+f\"", "planted_mma"),
    "mma's sum swapped": ("{%8, %9}, {%0, %1, %2, %3};\"\n\t\t     : \"+f\"",
                          "{%8, %9}, {%0, %1, %2, %3};\"\n\t\t     : \"+f\"(c[2]), \"+f\"(c[1]), \"+f\"(c[0]), \"+f\"(c[3])\n\t\t     : "
                          "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"r\"(b0), \"r\"(b1));\n\treturn;\n\tasm volatile(\"\"\n\t\t     : \"+f\"",
                          "planted_mma"),
    "bf16 halves swapped": ('"f"(high), "f"(low)', '"f"(low), "f"(high)', "planted_mma"),
    "ldmatrix transposed": ("ldmatrix.sync.aligned.m8n8.x4.shared", "ldmatrix.sync.aligned.m8n8.x4.trans.shared", "planted_matrix"),
    "ldmatrix's registers swapped": ('"=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])', '"=r"(r[1]), "=r"(r[0]), "=r"(r[2]), "=r"(r[3])',
                                     "planted_matrix"),
    "shuffle up for butterfly": ("shfl.sync.bfly.b32 %0, %1, %2, 0x1f", "shfl.sync.up.b32 %0, %1, %2, 0x0", "planted_wrong_lane"),
    "copy without zeros": ("valid ? 16 : 0", "16", "planted_copy"),
    "no wait": ('asm volatile("cp.async.wait_group %0;" :: "n"(pending) : "memory");', "", "planted_copy"),
    "no commit": ('asm volatile("cp.async.commit_group;" ::: "memory");', "", "planted_copy"),
}
BROKEN = [("planted_copy", 2), ("planted_copy", 3), ("planted_ended", 1), ("planted_ended", 2), ("planted_lanes", 1),
          ("planted_lanes", 2), ("planted_bounds", 2), ("planted_bounds", 3), ("planted_sum", 1), ("planted_sum", 2),
          ("planted_wrong_lane", 1), ("planted_alignment", 1), ("planted_matrix", 1), ("planted_matrix", 3),
          ("planted_mma", 1), ("planted_unset", 1)]
CLEAN = ["planted_barrier", "planted_reuse", "planted_copy", "planted_sites", "planted_ended", "planted_lanes",
         "planted_bounds", "planted_sum", "planted_wrong_lane", "planted_alignment", "planted_unset", "planted_matrix",
         "planted_mma"]
NUMBERS = np.array([((i * 37 + 11) % 239) * 0.0625 + 0.5 for i in range(256)], np.float32)


def compile_planted(directory, port=None):
    """planted.cu to PTX, with another port.h first on the path."""
    include = []
    if port is not None:
        os.makedirs(os.path.join(directory, "engine/cuda"), exist_ok=True)
        with open(os.path.join(directory, "engine/cuda/port.h"), "w") as f:
            f.write(port)
        include = ["-I", directory]
    out = os.path.join(directory, "planted.ptx")
    subprocess.run([NVCC, "-std=c++17", "-O3", "-fmad=false", *include, "-I", ROOT, "-arch=compute_80", "-ptx", "-o", out,
                    os.path.join(ROOT, "tests/cuda_emulator/planted.cu")], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    with open(out) as f:
        return ptx.Program(f.read())


def run_planted(program, kernel, broken):
    """The 256 results; raises ptx.Fault."""
    base = 0x10000
    args = struct.pack("<QQII", base, base + 4096, 256, broken)
    regions = [dict(name="in", base=base, flags=1, data=NUMBERS.tobytes()),
               dict(name="out", base=base + 4096, flags=3, data=np.full(256, -1, np.float32).tobytes())]
    memory, _ = ptx.launch(program, kernel, [2, 1, 1], 64, 2048, args, regions)
    return memory.region("out").view(np.float32).copy()


def expected_mma():
    a = np.array([[NUMBERS[(16 * i + k) % 128 + (i // 8 if k % 2 == 0 else 0)] for k in range(16)] for i in range(16)], np.float64)
    b = np.array([[NUMBERS[128 + 8 * k + j] for j in range(8)] for k in range(16)], np.float64)
    return (a @ b).reshape(-1)


def planted(directory):
    program = compile_planted(directory)
    right = {}
    for kernel in CLEAN:
        try:
            right[kernel] = run_planted(program, kernel, 0)
            check(True, "")
        except ptx.Fault as fault:
            check(False, f"{kernel}, clean: {fault}")
    check(np.abs(right["planted_mma"][:128] - expected_mma()).max() < 0.01, "planted_mma: not the product of its matrices")
    warp = NUMBERS[:128].reshape(4, 32).astype(np.float64).sum(axis=1)
    check(np.abs(right["planted_wrong_lane"][:128] - np.repeat(warp, 32)).max() < 0.01, "planted_wrong_lane: not the sum")
    check((right["planted_barrier"][:64] == NUMBERS[63::-1]).all(), "planted_barrier: not reversed")

    def caught(program, kernel, broken, what):
        try:
            with np.errstate(all="ignore"):
                check(not np.array_equal(run_planted(program, kernel, broken), right[kernel]), f"{what}: {kernel} gives the right result")
        except ptx.Fault:
            check(True, "")
    for kernel, broken in BROKEN:
        caught(program, kernel, broken, f"fault {broken}")
    with open(os.path.join(ROOT, "engine/cuda/port.h")) as f:
        port = f.read()
    # mutants share compilations where their kernels differ
    for what, (old, new, kernel) in MUTANTS.items():
        if old not in port:
            check(False, f"mutant `{what}` no longer applies to port.h")
            continue
        sub = os.path.join(directory, re.sub(r"\W", "_", what))
        os.makedirs(sub)
        caught(compile_planted(sub, port.replace(old, new, 1)), kernel, 0, what)


# ---- real kernels ----
def real(directory):
    tests = sorted(t for t in os.listdir(os.path.join(ROOT, "build/tests")) if re.fullmatch(r"test_cuda_kernels_\w+", t))
    check(bool(tests), "no test_cuda_kernels_* is built")
    for t in tests:
        done = subprocess.run([os.path.join(ROOT, "build/tests", t)], env={**os.environ, "KVD_CUDA_RECORD": directory},
                              stdout=subprocess.DEVNULL)
        check(done.returncode == 0, f"{t} failed")
    cases = {}
    for name in sorted(os.listdir(directory)):
        cases.setdefault(name.split("-")[0], []).append(os.path.join(directory, name))
    programs = {}
    for name in os.listdir(KEPT) if os.path.isdir(KEPT) else []:
        if name.endswith(".compute_80.ptx"):
            with open(os.path.join(KEPT, name)) as f:
                program = ptx.Program(f.read())
            programs.update({k: program for k in program.entries})
    check(bool(programs), f"no PTX in {KEPT}: rebuild with rm build/obj/engine/cuda/*.fatbin; make cuda")
    instructions, ran = 0, set()
    for kernel, paths in cases.items():
        if kernel not in programs:
            check(False, f"{kernel} is in no PTX")
            continue
        paths.sort(key=os.path.getsize)
        for path in paths if os.environ.get("KVD_CUDA_LONG") else paths[:1]:
            case = replay.read_case(path)
            regions = [dict(name=r["name"], base=r["base"], flags=r["flags"], data=r["before"]) for r in case["regions"]]
            try:
                memory, n = ptx.launch(programs[kernel], kernel, case["grid"], case["threads"], case["shared"],
                                       bytes.fromhex(case["args"]), regions)
                instructions += n
                wrong = replay.compare(case, memory)
            except ptx.Fault as fault:
                wrong = str(fault)
            ran.add(kernel)
            check(not wrong, f"{os.path.basename(path)}: {wrong}")
    if os.environ.get("KVD_CUDA_LONG"):
        check(not set(programs) - ran, f"never launched by a test: {', '.join(sorted(set(programs) - ran))}")
    print(f"{len(ran)} of {len(programs)} kernels interpreted, {instructions / 1e6:.0f} M thread instructions")


with tempfile.TemporaryDirectory() as top:
    for part in ("planted", "cases"):
        os.mkdir(os.path.join(top, part))
    planted(os.path.join(top, "planted"))
    real(os.path.join(top, "cases"))
print(f"{100 * (checks - len(failures)) // checks}%: Checks: {checks}, Failures: {len(failures)}, Errors: 0")
sys.exit(bool(failures))
