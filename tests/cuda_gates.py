#!/usr/bin/env python3
"""cuda_gates.py - what the compiler made of the kernels: gates on shape, not on speed.  Needs nvcc, no device.

Sources   no inline asm and no shared variable outside port.h, no launches by <<<>>>, nothing of the CUDA
          runtime in what we link
ptxas     registers and blocks on a multiprocessor within tests/cuda_emulator/budgets.txt, no stack frame, no spill
PTX       16-byte loads, mma.sync, cp.async, ldmatrix in the kernels that are built on them; no local memory, no call
SASS      the same in the machine code: LDG of 128 bits, HMMA or IMMA, LDGSTS, LDSM; no LDL, no STL
builds    with KVD_CUDA_LONG: ptxas for sm_86, 89, 100, 120, too, spills being errors

Each gate is also tried on something that it must refuse.  --budgets writes the budgets anew, --table prints
what docs/numbers.md has.  Prints Check's closing line, or `skipped: why`."""
import glob
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
KEPT = os.path.join(ROOT, "build/obj/engine/cuda/kept")
BUDGETS = os.path.join(ROOT, "tests/cuda_emulator/budgets.txt")
NVCC = next((p for p in (os.environ.get("NVCC"), "/usr/local/cuda/bin/nvcc", shutil.which("nvcc")) if p and os.path.exists(p)), None)
# per multiprocessor: warps, bytes of shared memory, blocks
LIMITS = {80: (64, 164 << 10, 32), 86: (48, 100 << 10, 16), 89: (48, 100 << 10, 24), 90: (64, 228 << 10, 32),
          100: (64, 228 << 10, 32), 120: (48, 100 << 10, 24)}
checks, failures = 0, []


def check(ok, text):
    global checks
    checks += 1
    if not ok:
        failures.append(text)
        print(f"cuda_gates.py:F: {text}")


def threads_of(kernel):
    return 128 if kernel.startswith(("kvd_attend", "kvd_merge")) else 256


def shared_of(kernel):
    """Dynamic shared memory of a launch, as args.h computes it."""
    m = re.fullmatch(r"kvd_attend_(unit|stream)_(\d+)", kernel)
    if m:
        dim = int(m.group(2))
        queries = 16 if m.group(1) == "unit" or dim > 128 else 64
        return (256 + 2 * queries) * (dim + 8) * 2
    m = re.fullmatch(r"kvd_product_\w+_(\d+)", kernel)
    return 9216 * int(m.group(1)) if m else 32 if kernel == "kvd_norm" else 0


def blocks_of(kernel, arch, registers):
    """Blocks that fit on a multiprocessor at once; registers are given out per warp in 256s."""
    warps_max, shared_max, blocks_max = LIMITS[arch]
    warps = threads_of(kernel) // 32
    by_registers = 65536 // ((registers * 32 + 255) // 256 * 256) // 4 * 4 // warps
    shared = (shared_of(kernel) + 1024 + 127) // 128 * 128
    return min(blocks_max, warps_max // warps, by_registers, shared_max // shared)


# ---- sources ----
SOURCE_RULES = [
    (r"\basm\b", "inline asm outside port.h", "	asm volatile(\"\");"),
    (r"__shared__", "a shared variable outside PORT_SHARED", "extern __shared__ float x[];"),
    (r"<<<", "a launch of the CUDA runtime", "f<<<1, 2>>>();"),
    (r"#include\s*[<\"]cuda_runtime|\bcuda[A-Z]\w+\s*\(", "the CUDA runtime", "cudaMalloc(&p, 1);"),
]


def source_breaches(text):
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.S)
    return [what for pattern, what, _ in SOURCE_RULES if re.search(pattern, text)]


def gate_sources():
    for path in sorted(glob.glob(os.path.join(ROOT, "engine/cuda/*.c*")) + glob.glob(os.path.join(ROOT, "engine/cuda/*.h"))):
        if os.path.basename(path) == "port.h":
            continue
        with open(path) as f:
            found = source_breaches(f.read())
        check(not found, f"{os.path.relpath(path, ROOT)}: {', '.join(found)}")
    for _, what, sample in SOURCE_RULES:
        check(what in source_breaches(sample), f"the gate against {what} lets `{sample}` pass")


def runtime_symbols(nm):
    return sorted(set(re.findall(r"\b[Uu]\s+_*(cuda[A-Z]\w+)", nm)))


def gate_linked():
    for path in glob.glob(os.path.join(ROOT, "build/lib/*.so*")) + glob.glob(os.path.join(ROOT, "build/bin/*")):
        nm = subprocess.run(["nm", "-D", path], capture_output=True, text=True).stdout
        check(not runtime_symbols(nm), f"{os.path.relpath(path, ROOT)} wants {', '.join(runtime_symbols(nm))}")
        needed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout
        check(not re.search(r"NEEDED.*lib(cuda|cublas|nv)", needed), f"{os.path.relpath(path, ROOT)} is linked with CUDA")
    check(runtime_symbols("                 U cudaMalloc\n") == ["cudaMalloc"], "the gate against the runtime's symbols finds none")


# ---- ptxas ----
def resources(log):
    """(kernel, arch) -> registers, bytes of stack and spills."""
    found = {}
    for m in re.finditer(r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?Function properties for \w+\s*"
                         r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\s*"
                         r"ptxas info\s*: Used (\d+) registers", log, re.S):
        found[m.group(1), int(m.group(2))] = (int(m.group(6)), sum(int(m.group(i)) for i in (3, 4, 5)))
    return found


def budgets_read():
    with open(BUDGETS) as f:
        rows = [line.split() for line in f if line.strip() and not line.startswith("#")]
    return {(k, int(a)): (int(r), int(b)) for k, a, r, b in rows}


def gate_ptxas(found):
    budgets = budgets_read()
    check(set(found) == set(budgets), "budgets.txt and the kernels differ: "
          + ", ".join(f"{k} sm_{a}" for k, a in sorted(set(found) ^ set(budgets))))
    for (kernel, arch), (registers, lost) in sorted(found.items()):
        most, least = budgets.get((kernel, arch), (0, 99))
        blocks = blocks_of(kernel, arch, registers)
        check(registers <= most and blocks >= least and lost == 0,
              f"{kernel} sm_{arch}: {registers} registers (at most {most}), {blocks} blocks (at least {least}), {lost} bytes of stack and spills")
    sample = resources("ptxas info    : Compiling entry function 'f' for 'sm_80'\nptxas info    : Function properties for f\n"
                       "    8 bytes stack frame, 4 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 24 registers, x\n")
    check(sample == {("f", 80): (24, 12)}, "ptxas' report is read wrongly")


# ---- PTX and SASS: what must be in a kernel ----
def wanted(kernel):
    """Names of what the kernel is built on."""
    if kernel.startswith("kvd_product_floats"):
        return {"load16", "hmma"}
    if kernel.startswith("kvd_product"):
        return {"load16", "imma"}
    if kernel.startswith("kvd_attend"):
        return {"hmma", "copy16", "ldmatrix"}
    return set()


PTX_FORMS = {"load16": r"ld\.global\.nc\.L1::no_allocate\.v4\.u32", "hmma": r"mma\.sync\S*\.bf16\.bf16\.f32",
             "imma": r"mma\.sync\S*\.s8\.s8\.s32", "copy16": r"cp\.async\.cg\.shared\.global \[[^\]]*\], \[[^\]]*\], 16",
             "ldmatrix": r"ldmatrix\.sync\.aligned\.m8n8\.x4"}


def ptx_kernels(text):
    return {m.group(1): m.group(2) for m in re.finditer(r"\.visible \.entry (\w+)\(.*?\)(.*?\n\})", text, re.S)}


def ptx_lacks(kernel, body):
    lacks = [form for form in sorted(wanted(kernel)) if not re.search(PTX_FORMS[form], body)]
    return lacks + [f"has {what}" for what in ("local", "call") if re.search(rf"\.{what}\b|^\s*{what}\b", body, re.M)]


def gate_ptx():
    paths = glob.glob(os.path.join(KEPT, "*.ptx"))
    check(bool(paths), f"no PTX in {KEPT}")
    for path in paths:
        with open(path) as f:
            for kernel, body in ptx_kernels(f.read()).items():
                lacks = ptx_lacks(kernel, body)
                check(not lacks, f"{os.path.basename(path)}: {kernel}: {', '.join(lacks)}")
    check(len(ptx_lacks("kvd_product_q4_0_1", "	ld.local.u32 %r1, [%rd1];\n}")) == 3, "the gate on PTX lets a bare kernel pass")


# opcode: bits 0 to 11 of an instruction of 16 bytes; loads' and stores' width: bits 73 to 75 (6: 128 bits)
SASS = {0x981: "LDG", 0x381: "LDG", 0x986: "STG", 0x386: "STG", 0x983: "LDL", 0x383: "LDL", 0x987: "STL", 0x387: "STL",
        0x23c: "HMMA", 0x237: "IMMA", 0x83b: "LDSM", 0xfae: "LDGSTS"}


def sass_kernels(cubin):
    """Kernel -> counts of the instructions that the gates ask for; from the ELF's .text.NAME sections."""
    found = {}
    offset, entry, n, names = struct.unpack_from("<Q", cubin, 40)[0], *struct.unpack_from("<HHH", cubin, 58)
    sections = [struct.unpack_from("<IIQQQQ", cubin, offset + i * entry) for i in range(n)]
    strings = sections[names][4]
    for name, _, _, _, at, size in sections:
        text = cubin[strings + name:cubin.index(b"\0", strings + name)].decode()
        if not text.startswith(".text."):
            continue
        counts = found.setdefault(text[6:], {})
        for i in range(at, at + size, 16):
            low, high = struct.unpack_from("<QQ", cubin, i)
            what = SASS.get(low & 0xfff)
            if what in ("LDG", "STG"):
                what += {4: "32", 5: "64", 6: "128"}.get(high >> 9 & 7, "8")
            if what:
                counts[what] = counts.get(what, 0) + 1
    return found


SASS_FORMS = {"load16": "LDG128", "hmma": "HMMA", "imma": "IMMA", "copy16": "LDGSTS", "ldmatrix": "LDSM"}


def sass_lacks(kernel, counts):
    return [SASS_FORMS[f] for f in sorted(wanted(kernel)) if not counts.get(SASS_FORMS[f])] + \
        [f"has {w}" for w in ("LDL", "STL") if counts.get(w)]


def gate_sass():
    seen = 0
    for path in glob.glob(os.path.join(KEPT, "*.cubin")):
        with open(path, "rb") as f:
            for kernel, counts in sass_kernels(f.read()).items():
                seen += 1
                lacks = sass_lacks(kernel, counts)
                check(not lacks, f"{os.path.basename(path)}: {kernel}: {', '.join(lacks)}; it has {counts}")
    check(seen > 0, f"no cubins in {KEPT}")
    check(sass_lacks("kvd_attend_unit_64", {"STL": 1, "HMMA": 3}) == ["LDGSTS", "LDSM", "has STL"], "the gate on SASS lets a bare kernel pass")


def gate_calibration():
    """The reader against a kernel whose instructions are known."""
    with tempfile.TemporaryDirectory() as d:
        source = os.path.join(d, "known.cu")
        with open(source, "w") as f:
            f.write('extern "C" __global__ void spills(float *p, int i) { float a[64]; for (int k = 0; k < 64; k++) a[(k * i) % 64] = p[k];'
                    ' p[0] = a[(i + 1) % 64] + a[i % 64]; }\nextern "C" __global__ void wide(uint4 *p) { p[threadIdx.x] = p[threadIdx.x + 32]; }\n')
        for arch in (80, 90):
            out = os.path.join(d, "known.cubin")
            subprocess.run([NVCC, f"-arch=sm_{arch}", "-cubin", "-o", out, source], check=True, capture_output=True)
            with open(out, "rb") as f:
                found = sass_kernels(f.read())
            check(found["wide"].get("LDG128") == 1 and found["wide"].get("STG128") == 1 and not found["wide"].get("LDL"),
                  f"sm_{arch}: the reader sees {found['wide']} in one 16-byte load and store")
            check(found["spills"].get("LDL", 0) > 0 and found["spills"].get("STL", 0) > 0,
                  f"sm_{arch}: the reader sees no local memory: {found['spills']}")


def gate_builds():
    """The other devices, from the PTX that is there."""
    ptxas = os.path.join(os.path.dirname(NVCC), "ptxas")
    for arch in (86, 89, 100, 120):
        base = 80 if arch < 90 else 90
        for path in sorted(glob.glob(os.path.join(KEPT, f"*.compute_{base}.ptx"))):
            done = subprocess.run([ptxas, f"-arch=sm_{arch}", "-Werror", "-warn-spills", "-warn-lmem-usage", "-o", "/dev/null", path],
                                  capture_output=True, text=True)
            check(done.returncode == 0, f"{os.path.basename(path)} for sm_{arch}: {done.stderr.strip()[:300]}")


def main():
    gate_sources()
    if not NVCC:
        print("skipped: no nvcc: the gates on PTX, SASS and resources need the kernels compiled")
    else:
        log = "".join(open(p).read() for p in glob.glob(os.path.join(KEPT, "*.log")))
        found = resources(log)
        if "--table" in sys.argv:
            print("| kernel | sm_80 registers | blocks/SM | sm_90 registers | blocks/SM |\n|---|---|---|---|---|")
            for kernel in sorted({k for k, _ in found}):
                print(f"| {kernel} | " + " | ".join(f"{found[kernel, a][0]} | {blocks_of(kernel, a, found[kernel, a][0])}" for a in (80, 90)) + " |")
            return 0
        if "--budgets" in sys.argv:
            with open(BUDGETS, "w") as f:
                f.write("# kernel, architecture, most registers of a thread, fewest blocks on a multiprocessor (toolkit 13.0)\n"
                        "# written by tests/cuda_gates.py --budgets from ptxas' report; a change here is a decision\n")
                for (kernel, arch), (registers, _) in sorted(found.items()):
                    # registers are given out in eights: within them a change costs nothing
                    f.write(f"{kernel} {arch} {min(255, (registers + 7) // 8 * 8)} {blocks_of(kernel, arch, registers)}\n")
        gate_linked()
        gate_ptxas(found)
        gate_ptx()
        gate_sass()
        gate_calibration()
        if os.environ.get("KVD_CUDA_LONG"):
            gate_builds()
    print(f"{100 * (checks - len(failures)) // checks}%: Checks: {checks}, Failures: {len(failures)}, Errors: 0")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
