#!/usr/bin/python3
"""test_mutants.py - faults planted into copies of the real kernels; the kernels' own tests must find each.

A mutant is a text of one .cu file and what it becomes.  The copy is compiled for the checked emulator, linked
with everything else as it is, and the file's test program runs: it must fail, by a report or by a value.
A text that no longer occurs exactly as often as it should is a failure, so that the list follows the kernels.
Usage: test_mutants.py [SUBSTRING]   g++ alone; the short list without KVD_CUDA_LONG."""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CHECKED = os.path.join(ROOT, "build/emulator/checked")
ATTENTION, PRODUCT, ROWS = "attention", "product", "rows"
# file, what is wrong, text, replacement, in the short list
MUTANTS = [
    (ATTENTION, "no barrier between the scores and their readers", "port_copy_wait<0>();\n\t__syncthreads();\n\n\tfloat all",
     "port_copy_wait<0>();\n\n\tfloat all", True),
    (ATTENTION, "scores over keys that are still read", "keys + warp * 32u * (D + PAD), s);\n\t__syncthreads();\n",
     "keys + warp * 32u * (D + PAD), s);\n", False),
    (ATTENTION, "no barrier before the next item uses the buffers",
     "attend_item<D>(a, items[i], blockIdx.y, (bf16_bits *)shared);\n\t\t__syncthreads();",
     "attend_item<D>(a, items[i], blockIdx.y, (bf16_bits *)shared);", False),
    (ATTENTION, "a group too few waited for", "float s[4][4];\n\tport_copy_wait<1>();", "float s[4][4];\n\tport_copy_wait<2>();", False),
    (ATTENTION, "values not waited for", "weigh(s, visible, &unit_state, &weights);\n\t\tport_copy_wait<1>();",
     "weigh(s, visible, &unit_state, &weights);", False),
    (ATTENTION, "the next keys over those that are read",
     "keys, s);\n\t\t__syncthreads();\n\t\tif (unit + 1u < n_units)", "keys, s);\n\t\tif (unit + 1u < n_units)", False),
    (ATTENTION, "one key too many", "if (i * 8u + t * 2u + e >= visible[pair])", "if (i * 8u + t * 2u + e > visible[pair])", False),
    (ATTENTION, "the last key left out", "p.visible = a.rows[p.row].pos + 1u - item.unit", "p.visible = a.rows[p.row].pos - item.unit", False),
    (ATTENTION, "wrong lane in the maximum", "fmaxf(largest, port_shuffle_xor_f32(largest, 2))",
     "fmaxf(largest, port_shuffle_xor_f32(largest, 4))", False),
    (ATTENTION, "wrong lane in the sum", "sum += port_shuffle_xor_f32(sum, 2);", "sum += port_shuffle_xor_f32(sum, 8);", False),
    (ATTENTION, "fragments of K swapped", "port_mma_bf16(s[i], high, k[0], k[1]);", "port_mma_bf16(s[i], high, k[1], k[0]);", False),
    (ATTENTION, "V not transposed", "port_ldmatrix_x4_transposed(v,", "port_ldmatrix_x4(v,", False),
    (ATTENTION, "rows of shared matrices not aligned", "#define PAD ((int)KVD_HEAD_PAD)", "#define PAD 4", False),
    (ATTENTION, "units merged without the older one's factor", "return fmaf(before, j.keep, unit * j.take);",
     "return fmaf(before, 1.0f, unit * j.take);", False),
    (ATTENTION, "the V heads read as K", "unit, a.n_kv_heads + kv_head, n_keys);", "unit, kv_head, n_keys);", False),
    (ATTENTION, "the query's low term left out", "port_mma_bf16(s[i + 1], low, k[2], k[3]);", "", False),
    (PRODUCT, "no barrier before the slices are added", "\t__syncthreads();\n\tfor (uint32_t i = threadIdx.x; i < NT",
     "\tfor (uint32_t i = threadIdx.x; i < NT", False),
    (PRODUCT, "rows past the last written", "if (row >= n_rows || output >= a.n_out)", "if (output >= a.n_out)", False),
    (PRODUCT, "an output past the last written", "if (row >= n_rows || output >= a.n_out)",
     "if (row >= n_rows || output > a.n_out)", False),
    (PRODUCT, "a slice left out", "slice < KVD_K_SLICES; slice++)\n\t\t\tsum", "slice < KVD_K_SLICES - 1u; slice++)\n\t\t\tsum", False),
    (PRODUCT, "halves of a word of activations swapped", "const uint32_t b0 = i ? high.z : high.x, b1 = i ? high.w : high.y;",
     "const uint32_t b1 = i ? high.z : high.x, b0 = i ? high.w : high.y;", False),
    (PRODUCT, "a row's scale for another", "acc[e] = fmaf(dot, d * rounded, acc[e]);",
     "acc[e] = fmaf(dot, F::scale(w, group, half, 1 - e / 2) * rounded, acc[e]);", False),
    (PRODUCT, "activations read before the earlier kernel ended", "\tport_grid_wait();\n\tport_grid_launch_dependents();\n\tconst uint32_t n_rows = a.of_wanted",
     "\tconst uint32_t n_rows = a.of_wanted", False),
    (ROWS, "no barrier in the norm's sum", "sums[warp] = sum;\n\t__syncthreads();", "sums[warp] = sum;", True),
    (ROWS, "a warp's sum left out", "for (uint32_t w = 1; w < ROW_THREADS / 32u; w++)", "for (uint32_t w = 2; w < ROW_THREADS / 32u; w++)", False),
    (ROWS, "pairs turned the wrong way", "*x0 = fmaf(first, c, *x1 * -s);", "*x0 = fmaf(first, c, *x1 * s);", False),
    (ROWS, "the gate's weight behind the end", "if (i < a.n) {\n\t\tfloat g = gate[i];", "if (i <= a.n) {\n\t\tfloat g = gate[i];", True),
    (ROWS, "rows past the last", "\tif (row >= a.step->n_rows)\n\t\treturn;\n\tconst struct kvd_step_row r = a.rows[row];\n\tconst float *x",
     "\tconst struct kvd_step_row r = a.rows[row];\n\tconst float *x", False),
]


def flags():
    """The compiler's options, as rules.mk has them."""
    done = subprocess.run(["make", "-s", "--no-print-directory", "emulator-flags"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def objects(stem):
    """What the test of a .cu file is linked from."""
    cc = ["machine", "collective", "copies", "report", "shadow", "kernels", "cases", f"test_kernels_{stem}"]
    return [os.path.join(CHECKED, f"{c}.o") for c in cc] + \
        [os.path.join(ROOT, "build/obj", o) for o in ("engine/cuda/layout.o", "engine/cpu/formats.o")]


def main():
    checks, failed = 0, 0
    options = flags()
    libraries = subprocess.run(["pkg-config", "--libs", "check"], capture_output=True, text=True).stdout.split()
    for stem, what, old, new, short in MUTANTS:
        if len(sys.argv) > 1 and sys.argv[1] not in what or len(sys.argv) == 1 and not short and not os.environ.get("KVD_CUDA_LONG"):
            continue
        checks += 1
        with open(os.path.join(ROOT, f"engine/cuda/{stem}.cu")) as f:
            text = f.read()
        if old not in text:
            print(f"test_mutants.py:F: `{what}` no longer applies to {stem}.cu")
            failed += 1
            continue
        with tempfile.TemporaryDirectory() as d:
            source, program = os.path.join(d, f"{stem}.cu"), os.path.join(d, "test")
            with open(source, "w") as f:
                f.write(text.replace(old, new))
            others = [os.path.join(CHECKED, f"engine/cuda/{s}.o") for s in (ATTENTION, PRODUCT, ROWS) if s != stem]
            subprocess.run(["g++", "-x", "c++", *options, "-w", "-O1", "-c", "-o", f"{program}.o", source], cwd=ROOT, check=True)
            subprocess.run(["gcc", "-o", program, f"{program}.o", *others, *objects(stem), *libraries, "-lm", "-lpthread", "-ldl"],
                           cwd=ROOT, check=True)
            done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=500)
        first = re.search(r":[FE]:(.*)", done.stdout)
        if done.returncode == 0 or not first:
            print(f"test_mutants.py:F: {stem}.cu: {what}: nothing found")
            failed += 1
        else:
            print(f"{stem}.cu: {what}: {first.group(1)[:160]}")
    print(f"{100 * (checks - failed) // max(checks, 1)}%: Checks: {checks}, Failures: {failed}, Errors: 0")
    return failed > 0 or checks == 0


if __name__ == "__main__":
    sys.exit(main())
