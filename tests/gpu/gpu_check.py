#!/usr/bin/env python3
"""gpu_check.py - `make gpu-check`: ask this machine's GPU what kvd relies on, test kvd on it, measure.  No network.

Needs what the Makefile built (build/), no compiler: a carried tree will do.  Writes build/gpu-report.md and
build/gpu.json; within 8 minutes, parts that find no time left say so.  Exits 1 if a part failed; where there is no
device every part says `skipped: no CUDA device: WHY`, and the exit is 0.
  --double     on the driver's double, small: shows that this program works, and nothing about a GPU
  --rounds N   killed writers (200)"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, "build")
TESTS = os.path.join(BUILD, "tests")
LIMIT_S = 470
DOUBLE = "on the driver's double: no figure of this report is a GPU's"
# Of the integration tests those first whose subject is memory that processes share.
FIRST = ["test_sharing", "test_kill", "test_identical", "test_restart", "test_adopt", "test_elastic", "test_storm"]

begun = time.monotonic()
parts = []


def left():
    return LIMIT_S - (time.monotonic() - begun)


def run(argv, limit, env):
    """(status, output): status None is a program that ran out of its time, and was killed with its children."""
    # A file, not a pipe: what a killed program leaves behind would keep a pipe open.
    with tempfile.TemporaryFile("w+", errors="replace") as out:
        child = subprocess.Popen(argv, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out,
                                 stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = child.wait(timeout=max(limit, 1))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, 9)
            child.wait()
            status = None
        out.seek(0)
        return status, out.read()


def part(name, verdict, sentence, data=None, seconds=0.0):
    parts.append({"part": name, "verdict": verdict, "sentence": sentence, "data": data, "seconds": round(seconds, 1)})
    print(f"{name:28} {verdict:8} {sentence}", flush=True)


def probe(name, argv, env, judge, limit=60):
    """Run a probe that prints one JSON object; judge(data) is (verdict, sentence)."""
    if left() < 5:
        return part(name, "not run", "no time left")
    start = time.monotonic()
    status, out = run([os.path.join(TESTS, argv[0])] + argv[1:], min(limit, left()), env)
    took = time.monotonic() - start
    lines = [line for line in out.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    data = None
    for line in lines:
        if line.startswith("{"):
            try:
                data = json.loads(line)
            except ValueError:
                return part(name, "fail", f"its answer is not JSON: {line[:120]}", None, took)
    if last.startswith("skipped: "):
        return part(name, "skipped", last, None, took)
    if status != 0 or data is None:
        return part(name, "fail", f"ran longer than {limit} s" if status is None else f"status {status}: {last[:200]}", data, took)
    verdict, sentence = judge(data)
    part(name, verdict, sentence, data, took)
    return data


def program(name, argv, env, limit):
    """Run a Check program, or any whose exit status is its answer."""
    if left() < 5:
        return part(name, "not run", "no time left")
    start = time.monotonic()
    limit = min(limit, left())
    status, out = run(argv, limit, env)
    took = time.monotonic() - start
    sums = re.findall(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)$", out, re.M)
    checks, bad = sum(int(s[0]) for s in sums), sum(int(s[1]) + int(s[2]) for s in sums)
    said = [line for line in out.splitlines() if re.search(r":[FE]:|^ERROR|ERROR SUMMARY|: .*Error", line)][:4]
    skips = [line for line in out.splitlines() if line.startswith("skipped: ")]
    data = {"checks": checks, "failed": bad, "skipped": skips, "said": said}
    if status is None:
        return part(name, "not done", f"not finished within {limit:.0f} s", data, took)
    if status != 0 or bad:
        return part(name, "fail", f"{bad} of {checks} checks, status {status}: {' / '.join(said)[:300]}", data, took)
    if not checks and skips:
        return part(name, "skipped", skips[0], data, took)
    part(name, "pass", (f"{checks} checks" if checks else "exit 0") + (f"; {skips[0]}" if skips else ""), data, took)


# ---- what each answer means ----

def judge_facts(d):
    return "measured", (f"{d['device']}, compute capability {d['capability']}, driver of CUDA {d['driver'] // 1000}."
                        f"{d['driver'] % 1000 // 10}, {d['total_bytes'] / 2**30:.1f} GiB, granularity "
                        f"{d['granularity_bytes'] >> 10} KiB")


def judge_control(d):
    ok = d["changed_after_pidfd"] == d["rounds"] > 0
    return ("pass" if ok else "fail",
            f"with a second writer alive {d['changed_after_pidfd']} of {d['rounds']} rounds say `changed after pidfd`")


def judge_quiet(d):
    nvml = d["listed_alive"] == d["rounds"] and d["unlisted_seen"] == d["rounds"]
    asked = (f"after NVML's list {d['changed_after_unlisted']}" if nvml else
             f"NVML listed only {d['listed_alive']} of the writers while alive and is no evidence here")
    text = (f"{d['rounds']} rounds: changed after hang-up {d['changed_after_hangup']}, after pidfd "
            f"{d['changed_after_pidfd']} (about then: {d['changed_about_pidfd']}), {asked}; pidfd after "
            f"{d['pidfd_usec'].get('p50')} us (most {d['pidfd_usec'].get('max')}), listed then {d['listed_at_pidfd']}")
    bad = d["changed_after_unlisted"] if nvml else d["changed_after_pidfd"]
    return ("pass" if d["rounds"] and not bad else "fail"), text


def judge_verbs(d):
    return "measured", "; ".join(
        f"{row['bytes'] >> 20} MiB: " + " ".join(f"{k[:-5]} {v}" for k, v in row.items() if k != "bytes")
        for row in d["rows"]) + " (us)"


def yes(key, text, need):
    """A question of yes or no: does kvd need yes (True), or does it only want to know (None)?"""
    def judge(d):
        verdict = "measured" if need is None else "pass" if d[key] == need else "fail"
        return verdict, f"{text}: {'yes' if d[key] else 'no'}"
    return judge


def judge_scrub(d):
    # kvd scrubs by itself whatever the driver does; foreign words are worth knowing.
    return "measured", (f"{d['words_of_the_other_process']} words of the other process, {d['words_not_zero']} not zero, "
                        f"in {d['created_bytes'] >> 20} MiB")


def judge_unmap(d):
    return "measured", (f"cuMemUnmap: {d['name']} after {d['took_usec']} us, the kernel: {d['kernel_name']}")


def judge_read(d):
    return "measured", f"{d['gigabytes_per_second']} GB/s (p50 {d['msec_p50']} ms, {d['msec_least']} to {d['msec_most']})"


def judge_attend(ceiling):
    def judge(d):
        share = 100 * d["gigabytes_per_second"] / ceiling if ceiling else 0
        return "measured", (f"{d['sequences']} sequences of {d['tokens']} tokens: {d['gigabytes_per_second']} GB/s, "
                            f"{share:.1f} % of the read ceiling (90 asked for); distance {d['distance']}")
    return judge


LESSONS = [
    ("(b) exporter killed", ["exporter"], yes("lives_on", "an importer's mapping lives on", True)),
    ("(c) descriptor held", ["fd"], yes("descriptor_keeps_memory", "a descriptor alone keeps the memory", None)),
    ("(d) upgrade to writing", ["upgrade"], yes("upgraded", "an importer may take writing for itself", None)),
    ("(e) write to read-only", ["readonly"], yes("only_the_writer_fails", "only the writer fails, no word changes", True)),
    ("(f) freed memory", ["scrub"], judge_scrub),
    ("(g) unmap under a kernel", ["unmap"], judge_unmap),
    ("(h) cuInit only", ["nocontext"], yes("works", "create, export, release without a context", True)),
]


def verbs_of_four(env):
    """(a) by four processes at a time: the slowest median of each verb."""
    name = "(a) verbs, 4 processes"
    start = time.monotonic()
    children = [subprocess.Popen([os.path.join(TESTS, "gpu_lessons"), "verbs"], env=env, stdout=subprocess.PIPE,
                                 text=True) for _ in range(4)]
    rows = []
    for child in children:
        try:
            out, _ = child.communicate(timeout=60)
            rows.append(json.loads(out)["rows"])
        except (subprocess.TimeoutExpired, ValueError):
            child.kill()
            child.wait()
    if len(rows) < 4 or not min(map(len, rows)):
        return part(name, "fail", f"only {len(rows)} of 4 answered", rows)
    slowest = [{k: max(r[i][k] for r in rows) for k in rows[0][i]} for i in range(min(map(len, rows)))]
    part(name, "measured", judge_verbs({"rows": slowest})[1], slowest, time.monotonic() - start)


def sanitizer(env):
    tool = shutil.which("compute-sanitizer") or next(
        (p for p in ["/usr/local/cuda/bin/compute-sanitizer"] if os.access(p, os.X_OK)), None)
    bench = [os.path.join(TESTS, "gpu_bench"), "attend", "small"]
    for what, argv in [("memcheck", bench), ("racecheck", bench),
                       ("memcheck", [os.path.join(TESTS, "test_cuda_forward")])]:
        name = f"{what} {os.path.basename(argv[0])}"
        if env.get("FAKECUDA_DIR"):
            part(name, "skipped", "skipped: compute-sanitizer watches a device, and this is the double")
        elif not tool:
            part(name, "skipped", "skipped: compute-sanitizer is not installed")
        else:
            program(name, [tool, "--tool", what, "--error-exitcode", "9"] + argv, env, 45)


def integration(env, double):
    found = sorted(f[:-2] for f in os.listdir(os.path.join(ROOT, "tests/integration"))
                   if f.startswith("test_") and f.endswith(".c"))
    names = [n for n in FIRST if n in found] + [n for n in found if n not in FIRST]
    # Emulated kernels are slow: one program shows that this part works, `make check-cuda` runs all.
    for name in ["test_limits"] if double else names:
        path = os.path.join(TESTS, name)
        if not os.access(path, os.X_OK):
            part(name, "not run", "not built")
        else:
            program(name, [path], env, 40 if double else 90)


def everything(args, double_dir):
    env = {k: v for k, v in os.environ.items()
           if not k.startswith("FAKECUDA_") and k not in ("KVD_LIBCUDA", "KVD_LIBNVML", "KVD_TEST_DRIVER")}
    bench_env = tests_env = env
    if args.double:
        fake = os.path.join(TESTS, "fakecuda")
        env = dict(env, KVD_LIBCUDA=f"{fake}/libcuda.so.1", KVD_LIBNVML=f"{fake}/libnvidia-ml.so.1",
                   FAKECUDA_DIR=double_dir, FAKECUDA_KERNELS=f"{fake}/libprobes.so")
        bench_env = dict(env, FAKECUDA_KERNELS=f"{fake}/libkernels.so")
    tests_env = dict(tests_env, KVD_TEST_DEVICE="cuda", CK_TIMEOUT_MULTIPLIER="20", KVD_TEST_KILLS="20",
                     KVD_TEST_CHAOS="20", **({} if args.double else {"KVD_TEST_DRIVER": "real"}))
    small = ["small"] if args.double else []

    probe("driver and device", ["gpu_lessons", "facts"], env, judge_facts)
    card = parts[0]["data"]
    why = parts[0]["sentence"] if not card else None
    if why:
        for name in (["dead writer, control", "dead writer", "(a) verbs", "(a) verbs, busy device", "(a) verbs, 4 processes"]
                     + [l[0] for l in LESSONS] + ["(i) MPS", "test_cuda_forward", "test_cuda_engine", "compute-sanitizer",
                                                  "read ceiling", "decode attention", "integration tests"]):
            part(name, parts[0]["verdict"], why)
        return
    probe("dead writer, control", ["gpu_quiet", "3", "30", "control"], env, judge_control)
    probe("dead writer", ["gpu_quiet", str(args.rounds), "120"], env, judge_quiet, 150)
    probe("(a) verbs", ["gpu_lessons", "verbs"], env, judge_verbs)
    probe("(a) verbs, busy device", ["gpu_lessons", "verbs", "busy"], env, judge_verbs)
    verbs_of_four(env)
    for name, argv, judge in LESSONS:
        probe(name, ["gpu_lessons"] + argv, env, judge)
    part("(i) MPS", "skipped", "skipped: starting MPS would change the machine; not asked")
    for name in ["test_cuda_forward", "test_cuda_engine"]:
        program(name, [os.path.join(TESTS, name)], tests_env, 100)
    read = probe("read ceiling", ["gpu_bench", "read"] + small, env, judge_read)
    ceiling = read["gigabytes_per_second"] if read else 0
    probe("decode attention", ["gpu_bench", "attend"] + small, bench_env, judge_attend(ceiling))
    probe("read ceiling, again", ["gpu_bench", "read"] + small, env, judge_read)
    sanitizer(bench_env)
    integration(tests_env, args.double)


def write_report(double):
    counts = {v: sum(p["verdict"] == v for p in parts) for v in dict.fromkeys(p["verdict"] for p in parts)}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    total = ", ".join(f"{n} {v}" for v, n in counts.items())
    with open(os.path.join(BUILD, "gpu.json"), "w") as f:
        json.dump({"double": double, "note": DOUBLE if double else "", "commit": commit or None, "parts": parts}, f, indent=1)
        f.write("\n")
    with open(os.path.join(BUILD, "gpu-report.md"), "w") as f:
        f.write("# What this machine's GPU said\n\n")
        if double:
            f.write(f"**{DOUBLE}.**\n\n")
        f.write(f"Commit {commit or 'unknown'}, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, "
                f"{time.monotonic() - begun:.0f} s: {total}.\n\n| part | verdict | what was found | s |\n|---|---|---|---:|\n")
        for p in parts:
            f.write(f"| {p['part']} | {p['verdict']} | {p['sentence'].replace('|', '/')} | {p['seconds']} |\n")
        f.write("\nAll numbers: build/gpu.json.  `dead writer`: memory that a killed process's kernel was writing, copied without "
                "end by another process; a change counts as after an event only if the earlier of two copies that differ "
                "began after it.\n")
    print(f"{total}; build/gpu-report.md")
    return counts.get("fail", 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--double", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    args = parser.parse_args()
    args.rounds = args.rounds or (10 if args.double else 200)
    os.makedirs(BUILD, exist_ok=True)
    if not os.access(os.path.join(TESTS, "gpu_lessons"), os.X_OK):
        part("driver and device", "skipped", "skipped: no CUDA device: the probes are not built (no nvcc where `make` ran)")
    else:
        with tempfile.TemporaryDirectory(prefix="kvd-gpu-check-", dir="/dev/shm" if args.double else None) as place:
            everything(args, place)
    return 1 if write_report(args.double) else 0


if __name__ == "__main__":
    sys.exit(main())
