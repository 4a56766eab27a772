"""ptx.py - an interpreter of the PTX that nvcc made, over numpy: all threads of a launch at once.  Tests only.

The second, independent reading of the kernels: it executes the asm text of engine/cuda/port.h itself, with
fragment layouts taken from the PTX manual and not from the fiber emulator.

Threads that stand at the same basic block run it together; the earliest block goes first, so that threads
which parted meet again where the compiler meant them to.  Operations of a warp demand that all of it is
there.  Asynchronous copies are carried out when their thread waits for them, not before.  Every access is
checked against the launch's regions, its shared memory, and its own alignment."""
import re

import numpy as np

SIZES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "b32": 4, "u32": 4, "s32": 4, "f32": 4,
         "b64": 8, "u64": 8, "s64": 8, "f64": 8, "f16": 2, "pred": 1}
DTYPES = {"b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16, "s16": np.int16,
          "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32, "b64": np.uint64,
          "u64": np.uint64, "s64": np.int64, "f64": np.float64, "f16": np.float16, "pred": np.bool_}
CONTAINERS = {"%p": np.bool_, "%rs": np.uint16, "%rd": np.uint64, "%r": np.uint32, "%fd": np.float64, "%f": np.float32}
END = 1 << 30


class Fault(Exception):
    """What the device would refuse, or what a kernel must not do."""


def container(name):
    return CONTAINERS[re.match(r"%[a-z]+", name).group(0)]


class Instruction:
    def __init__(self, text):
        self.text = text
        m = re.fullmatch(r"(?:@(!?)(%p\d+)\s+)?(\S+)\s*(.*)", text, re.S)
        self.negated, self.predicate = m.group(1) == "!", m.group(2)
        self.parts = m.group(3).split(".")
        self.op = self.parts[0]
        self.operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", m.group(4))
        self.type = self.parts[-1]


class Program:
    """Kernels of one PTX text by name: lists of basic blocks."""

    def __init__(self, text):
        text = re.sub(r"//[^\n]*", "", text)
        self.entries = {m.group(1): m for m in
                        re.finditer(r"\.visible \.entry (\w+)\(\s*(.*?)\)(.*?)\{(.*?)\n\}", text, re.S)}
        self.kernels = {}

    def kernel(self, name):
        if name not in self.kernels:
            self.kernels[name] = self.parse(name)
        return self.kernels[name]

    def parse(self, name):
        body = self.entries[name].group(4)
        blocks, labels, now = [], {}, []

        def end_block():
            nonlocal now
            if now:
                blocks.append(now)
                now = []
        body = re.sub(r"\{\s*\n|\n\s*\}\s*\n(?=\s*(?://|$))", "\n", body)
        for line in re.split(r";|\n(?=\s*\$)", body):
            line = " ".join(line.split())
            while True:
                m = re.match(r"(\$\w+):\s*", line)
                if not m:
                    break
                end_block()
                labels[m.group(1)] = len(blocks)
                line = line[m.end():]
            line = line.strip("{} ") if line.strip() in ("{", "}") else line.strip()
            if not line or line.startswith(".") or line.startswith("{ .") or line.startswith("//"):
                continue
            i = Instruction(line)
            now.append(i)
            if i.op in ("bra", "ret", "bar", "barrier", "exit") and not (i.op == "bar" and "warp" in i.parts):
                end_block()
        end_block()
        return blocks, labels


class Memory:
    """Regions at their addresses, laid one after another in one array."""

    def __init__(self, regions):
        regions = sorted(regions, key=lambda r: r["base"])
        self.bases = np.array([r["base"] for r in regions], np.uint64)
        self.ends = np.array([r["base"] + len(r["data"]) for r in regions], np.uint64)
        self.writable = np.array([r["flags"] & 2 != 0 for r in regions], bool)
        self.names = [r["name"] for r in regions]
        starts, total = [], 0
        for r in regions:
            starts.append(total)
            total += (len(r["data"]) + 255) // 256 * 256
        self.starts = np.array(starts, np.uint64)
        self.bytes = np.zeros(total, np.uint8)
        for r, start in zip(regions, starts):
            self.bytes[start:start + len(r["data"])] = np.frombuffer(r["data"], np.uint8)

    def region(self, name):
        i = self.names.index(name)
        start = int(self.starts[i])
        return self.bytes[start:start + int(self.ends[i] - self.bases[i])]

    def place(self, addresses, size, write, text):
        i = np.searchsorted(self.bases, addresses, side="right").astype(np.int64) - 1
        bad = (i < 0) | (addresses + np.uint64(size) > self.ends[i])
        if bad.any():
            raise Fault(f"out of bounds: address {int(addresses[np.argmax(bad)]):#x} in `{text}`")
        if write and not self.writable[i].all():
            raise Fault(f"write to read-only {self.names[i[np.argmin(self.writable[i])]]} in `{text}`")
        return (addresses - self.bases[i] + self.starts[i]).astype(np.int64)


class Launch:
    def __init__(self, program, name, grid, threads, shared_bytes, args, memory):
        self.blocks, self.labels = program.kernel(name)
        self.params, self.memory, self.name = args, memory, name
        self.threads, self.n_ctas = threads, grid[0] * grid[1] * grid[2]
        self.n = self.threads * self.n_ctas
        t = np.arange(self.n, dtype=np.uint32)
        self.cta, tid = t // threads, t % threads
        self.lane = tid % 32
        self.special = {"%tid.x": tid, "%tid.y": t * 0, "%tid.z": t * 0, "%ctaid.x": self.cta % grid[0],
                        "%ctaid.y": self.cta // grid[0] % grid[1], "%ctaid.z": self.cta // (grid[0] * grid[1]),
                        "%ntid.x": t * 0 + np.uint32(threads), "%nctaid.x": t * 0 + np.uint32(grid[0]),
                        "%nctaid.y": t * 0 + np.uint32(grid[1]), "%laneid": self.lane}
        self.shared_bytes = shared_bytes
        self.shared_stride = (shared_bytes + 255) // 256 * 256
        # a NaN for whoever reads what nobody wrote
        self.shared = np.full(max(1, self.n_ctas * self.shared_stride), 0xff, np.uint8)
        self.registers = {}
        self.pc = np.zeros(self.n, np.int32)
        self.waiting = np.zeros(self.n, bool)
        self.group = np.zeros(self.n, np.int64)
        self.copies = []
        self.executed = 0

    # ---- operands ----
    def raw(self, operand, idx):
        if operand in self.special:
            return self.special[operand][idx]
        if operand.startswith("%"):
            if operand not in self.registers:
                self.registers[operand] = np.zeros(self.n, container(operand))
            return self.registers[operand][idx]
        return None

    def read(self, operand, kind, idx):
        dtype = DTYPES[kind]
        value = self.raw(operand, idx)
        if value is not None:
            if value.dtype == dtype:
                return value
            if value.dtype.itemsize == np.dtype(dtype).itemsize:
                return value.view(dtype)
            # a wider register holds it in its low part
            return value.astype({1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[SIZES[kind]]).view(dtype)
        return np.broadcast_to(self.immediate(operand, kind), idx.shape)

    def immediate(self, operand, kind):
        if operand.startswith("0f"):
            return np.array(int(operand[2:], 16), np.uint32).view(np.float32)
        if operand in self.labels or re.match(r"[A-Za-z_$]", operand):
            return np.zeros((), DTYPES[kind])      # the one symbol: shared memory's start
        value = int(operand.rstrip("U"), 0)
        if kind == "pred":
            return np.bool_(value)
        bits = value & (1 << 8 * SIZES[kind]) - 1
        unsigned = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[SIZES[kind]]
        return np.array(bits, unsigned).view(DTYPES[kind])

    def write(self, operand, value, idx):
        if operand == "_":
            return
        dtype = container(operand)
        if operand not in self.registers:
            self.registers[operand] = np.zeros(self.n, dtype)
        if value.dtype != dtype:
            if value.dtype.itemsize == np.dtype(dtype).itemsize:
                value = value.view(dtype)
            elif value.dtype.kind == "i":
                value = value.astype({2: np.int16, 4: np.int32, 8: np.int64}[np.dtype(dtype).itemsize]).view(dtype)
            else:
                value = value.astype(dtype)
        self.registers[operand][idx] = value

    def address(self, operand, idx, space):
        m = re.fullmatch(r"\[\s*([^\s+\]]+)(?:\s*\+\s*(-?\d+))?\s*\]", operand)
        base, offset = m.group(1), int(m.group(2) or 0)
        kind = "u64" if base.startswith("%rd") else "u32"
        value = self.read(base, kind, idx).astype(np.uint64)
        return (value + np.uint64(offset & 0xffffffffffffffff)) if space != "shared" else \
            (value.astype(np.int64) + offset).astype(np.uint64)

    # ---- memory ----
    def place(self, space, addresses, size, idx, write, text):
        if (addresses % np.uint64(size)).any():
            raise Fault(f"misaligned address for {size} bytes in `{text}`")
        if space == "shared":
            if (addresses + np.uint64(size) > self.shared_bytes).any():
                raise Fault(f"outside the {self.shared_bytes} bytes of shared memory in `{text}`")
            return self.shared, (addresses + self.cta[idx].astype(np.uint64) * np.uint64(self.shared_stride)).astype(np.int64)
        return self.memory.bytes, self.memory.place(addresses, size, write, text)

    def load(self, space, addresses, kind, n, idx, text):
        size = SIZES[kind]
        array, at = self.place(space, addresses, size * n, idx, False, text)
        view = array.view(DTYPES[kind])
        at //= size
        return [view[at + i] for i in range(n)]

    def store(self, space, addresses, kind, values, idx, text):
        size = SIZES[kind]
        array, at = self.place(space, addresses, size * len(values), idx, True, text)
        view = array.view(DTYPES[kind])
        at //= size
        for i, value in enumerate(values):
            view[at + i] = value

    # ---- warps ----
    def warps(self, idx, text):
        """idx as (warps, 32); a fault where one is not whole."""
        if len(idx) % 32 or (self.lane[idx].reshape(-1, 32) != np.arange(32)).any():
            raise Fault(f"not all lanes of a warp take part in `{text}`")
        return idx.reshape(-1, 32)

    # ---- running ----
    def run(self):
        while True:
            can = (self.pc != END) & ~self.waiting
            if not can.any():
                if (self.pc == END).all():
                    return
                self.release()
                continue
            at = int(self.pc[can].min())
            idx = np.flatnonzero(can & (self.pc == at))
            self.run_block(at, idx)

    def release(self):
        """A barrier is passed when all of its block's threads wait at it."""
        waits = self.waiting.reshape(self.n_ctas, self.threads)
        whole = waits.all(axis=1)
        if not whole.any():
            raise Fault("threads wait at a barrier that others never reach")
        pc = self.pc.reshape(self.n_ctas, self.threads)
        if (pc[whole] != pc[whole][:, :1]).any():
            raise Fault("threads of one block wait at different barriers")
        waits[whole] = False

    def run_block(self, at, idx):
        block = self.blocks[at]
        with np.errstate(all="ignore"):
            for i in block:
                self.executed += len(idx)
                sub = idx
                if i.predicate and i.op != "bra":
                    p = self.read(i.predicate, "pred", idx)
                    sub = idx[~p if i.negated else p]
                    if len(sub) == 0:
                        continue
                if i.op in ("ret", "exit"):
                    self.pc[sub] = END
                    rest = np.setdiff1d(idx, sub)
                    self.pc[rest] = at + 1
                    return
                if i.op == "bra":
                    target = self.labels[i.operands[0]]
                    if not i.predicate:
                        self.pc[idx] = target
                        return
                    p = self.read(i.predicate, "pred", idx)
                    self.pc[idx] = np.where(~p if i.negated else p, target, at + 1)
                    return
                if i.op in ("bar", "barrier") and "warp" not in i.parts:
                    self.pc[idx] = at + 1
                    self.waiting[idx] = True
                    return
                method = getattr(self, "op_" + i.op, None)
                if method is None:
                    raise Fault(f"instruction not known: `{i.text}`")
                method(i, sub)
        self.pc[idx] = at + 1 if at + 1 < len(self.blocks) else END

    # ---- data movement ----
    def op_ld(self, i, idx):
        space = i.parts[1]
        targets = i.operands[0].strip("{}").replace(" ", "").split(",")
        if space == "param":
            size, data = SIZES[i.type], np.frombuffer(self.params, np.uint8)
            at = self.address(i.operands[1], idx, "param").astype(np.int64)
            if (at + size * len(targets) > len(data)).any() or (at % size).any():
                raise Fault(f"outside the arguments in `{i.text}`")
            for n, target in enumerate(targets):
                value = data[at[:, None] + n * size + np.arange(size)].reshape(-1).view(DTYPES[i.type])
                self.write(target, value, idx)
            return
        values = self.load(space, self.address(i.operands[1], idx, space), i.type, len(targets), idx, i.text)
        for target, value in zip(targets, values):
            self.write(target, value, idx)

    def op_st(self, i, idx):
        space = i.parts[1]
        sources = i.operands[1].strip("{}").replace(" ", "").split(",")
        self.store(space, self.address(i.operands[0], idx, space), i.type,
                   [self.read(s, i.type, idx) for s in sources], idx, i.text)

    def op_mov(self, i, idx):
        target, source = i.operands
        if target.startswith("{"):
            parts = target.strip("{}").replace(" ", "").split(",")
            value, bits = self.read(source, i.type, idx), 8 * SIZES[i.type] // len(parts)
            for n, part in enumerate(parts):
                self.write(part, (value >> value.dtype.type(n * bits)).astype(DTYPES[f"u{bits}"]), idx)
        elif source.startswith("{"):
            parts = source.strip("{}").replace(" ", "").split(",")
            bits = 8 * SIZES[i.type] // len(parts)
            value = np.zeros(len(idx), DTYPES[i.type])
            for n, part in enumerate(parts):
                value |= self.read(part, f"u{bits}", idx).astype(value.dtype) << value.dtype.type(n * bits)
            self.write(target, value, idx)
        else:
            self.write(target, self.read(source, i.type, idx), idx)

    def op_cvta(self, i, idx):
        self.write(i.operands[0], self.read(i.operands[1], "u64", idx), idx)

    def op_cvt(self, i, idx):
        to, source = i.parts[-2], i.type
        if to == "bf16x2":
            high, low = (self.bf16(self.read(o, "f32", idx)) for o in i.operands[1:3])
            return self.write(i.operands[0], high << np.uint32(16) | low, idx)
        value = self.read(i.operands[1], source, idx)
        if source[0] == "f" and to[0] in "us":
            value = np.nan_to_num(np.rint(value.astype(np.float64)) if "rni" in i.parts else
                                  np.trunc(value.astype(np.float64)), nan=0.0)
            info = np.iinfo(DTYPES[to])
            value = np.clip(value, info.min, info.max)
        self.write(i.operands[0], value.astype(DTYPES[to]), idx)

    @staticmethod
    def bf16(x):
        bits = x.view(np.uint32)
        rounded = (bits + np.uint32(0x7fff) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        return np.where(np.isnan(x), np.uint32(0x7fff), rounded)

    def op_selp(self, i, idx):
        a, b = (self.read(o, i.type, idx) for o in i.operands[1:3])
        self.write(i.operands[0], np.where(self.read(i.operands[3], "pred", idx), a, b), idx)

    def op_prmt(self, i, idx):
        a, b, selector = (self.read(o, "u32", idx).astype(np.uint64) for o in i.operands[1:4])
        both, result = a | b << np.uint64(32), np.zeros(len(idx), np.uint64)
        for n in range(4):
            nibble = selector >> np.uint64(4 * n) & np.uint64(15)
            byte = both >> (nibble & np.uint64(7)) * np.uint64(8) & np.uint64(255)
            sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
            result |= np.where(nibble & np.uint64(8), sign, byte) << np.uint64(8 * n)
        self.write(i.operands[0], result.astype(np.uint32), idx)

    def op_bfi(self, i, idx):
        a, b = (self.read(o, "u32", idx).astype(np.uint64) for o in i.operands[1:3])
        at, n = (self.read(o, "u32", idx).astype(np.uint64) & np.uint64(255) for o in i.operands[3:5])
        mask = ((np.uint64(1) << np.minimum(n, 32)) - np.uint64(1)) << np.minimum(at, 32)
        self.write(i.operands[0], (b & ~mask | a << np.minimum(at, 32) & mask).astype(np.uint32), idx)

    # ---- arithmetic ----
    def binary(self, i, idx, f):
        kind = i.type
        a, b = (self.read(o, kind, idx) for o in i.operands[1:3])
        self.write(i.operands[0], f(a, b).astype(DTYPES[kind]), idx)

    def unary(self, i, idx, f):
        self.write(i.operands[0], f(self.read(i.operands[1], i.type, idx)).astype(DTYPES[i.type]), idx)

    def op_add(self, i, idx): self.binary(i, idx, np.add)
    def op_sub(self, i, idx): self.binary(i, idx, np.subtract)
    def op_and(self, i, idx): self.binary(i, idx, np.bitwise_and)
    def op_or(self, i, idx): self.binary(i, idx, np.bitwise_or)
    def op_xor(self, i, idx): self.binary(i, idx, np.bitwise_xor)
    def op_not(self, i, idx): self.unary(i, idx, np.invert)
    def op_neg(self, i, idx): self.unary(i, idx, np.negative)
    def op_abs(self, i, idx): self.unary(i, idx, np.abs)
    def op_min(self, i, idx): self.binary(i, idx, np.fmin if i.type == "f32" else np.minimum)
    def op_max(self, i, idx): self.binary(i, idx, np.fmax if i.type == "f32" else np.maximum)
    def op_sqrt(self, i, idx): self.unary(i, idx, np.sqrt)
    def op_rcp(self, i, idx): self.unary(i, idx, lambda x: np.float32(1) / x)
    def op_rsqrt(self, i, idx): self.unary(i, idx, lambda x: np.float32(1) / np.sqrt(x))
    def op_popc(self, i, idx): self.unary(i, idx, np.bitwise_count)

    def op_ex2(self, i, idx):
        self.unary(i, idx, lambda x: np.where(np.exp2(x) < np.float32(2.0) ** -126, np.float32(0), np.exp2(x)))

    def op_div(self, i, idx):
        self.binary(i, idx, np.divide if i.type == "f32" else np.floor_divide)

    def op_rem(self, i, idx): self.binary(i, idx, np.remainder)

    def op_mul(self, i, idx):
        if "wide" in i.parts:
            wide = np.int64 if i.type == "s32" else np.uint64 if i.type == "u32" else \
                np.uint32 if i.type == "u16" else np.int32
            a, b = (self.read(o, i.type, idx).astype(wide) for o in i.operands[1:3])
            return self.write(i.operands[0], a * b, idx)
        if "hi" in i.parts:
            wide = np.int64 if i.type == "s32" else np.uint64
            a, b = (self.read(o, i.type, idx).astype(wide) for o in i.operands[1:3])
            return self.write(i.operands[0], (a * b >> wide(32)).astype(DTYPES[i.type]), idx)
        self.binary(i, idx, np.multiply)

    def op_mad(self, i, idx):
        a, b, c = (self.read(o, i.type, idx) for o in i.operands[1:4])
        if "wide" in i.parts:
            wide = "s64" if i.type == "s32" else "u64"
            c = self.read(i.operands[3], wide, idx)
            return self.write(i.operands[0], a.astype(DTYPES[wide]) * b.astype(DTYPES[wide]) + c, idx)
        self.write(i.operands[0], a * b + c, idx)

    def op_fma(self, i, idx):
        a, b, c = (self.read(o, "f32", idx).astype(np.float64) for o in i.operands[1:4])
        self.write(i.operands[0], (a * b + c).astype(np.float32), idx)

    def op_dp4a(self, i, idx):
        a, b = (np.ascontiguousarray(self.read(o, "u32", idx)).view(np.int8).reshape(-1, 4).astype(np.int32)
                for o in i.operands[1:3])
        self.write(i.operands[0], (a * b).sum(axis=1, dtype=np.int32) + self.read(i.operands[3], "s32", idx), idx)

    def op_shl(self, i, idx):
        self.shift(i, idx, np.left_shift)

    def op_shr(self, i, idx):
        self.shift(i, idx, np.right_shift)

    def shift(self, i, idx, f):
        value, by = self.read(i.operands[1], i.type, idx), self.read(i.operands[2], "u32", idx)
        bits = 8 * SIZES[i.type]
        if i.type[0] == "s":
            result = f(value, np.minimum(by, bits - 1).astype(value.dtype))
        else:
            result = np.where(by >= bits, value.dtype.type(0), f(value, np.minimum(by, bits - 1).astype(value.dtype)))
        self.write(i.operands[0], result.astype(value.dtype), idx)

    def op_setp(self, i, idx):
        how = i.parts[1]
        a, b = (self.read(o, i.type, idx) for o in i.operands[-2:])
        unordered = how[-1] == "u" and len(how) == 3
        f = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
             "ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
        result = f[how[:2]](a, b)
        if i.type == "f32":
            nan = np.isnan(a) | np.isnan(b)
            result = result | nan if unordered else result & ~nan
        self.write(i.operands[0].split("|")[0], result, idx)

    # ---- warps' operations ----
    def op_bar(self, i, idx):
        self.warps(idx, i.text)

    def op_shfl(self, i, idx):
        w = self.warps(idx, i.text)
        value = self.read(i.operands[1], "u32", idx).reshape(w.shape)
        by = self.read(i.operands[2], "u32", idx).reshape(w.shape)
        lanes = np.arange(32, dtype=np.uint32)
        source = {"bfly": lanes ^ by, "idx": by % 32, "up": np.where(lanes >= by, lanes - by, lanes),
                  "down": np.where(lanes + by < 32, lanes + by, lanes)}[i.parts[2]]
        self.write(i.operands[0].split("|")[0], np.take_along_axis(value, source.astype(np.int64), 1).reshape(-1), idx)

    def fragment(self, operand, w, idx, kind):
        registers = operand.strip("{}").replace(" ", "").split(",")
        return np.stack([self.read(r, kind, idx).reshape(w.shape) for r in registers], axis=2)

    def op_mma(self, i, idx):
        w = self.warps(idx, i.text)
        k = int(re.search(r"m16n8k(\d+)", i.text).group(1))
        a, b = (self.fragment(o, w, idx, "u32") for o in i.operands[1:3])
        group, t = np.arange(32) // 4, np.arange(32) % 4
        if "bf16" in i.parts or "f16" in i.parts:
            def elements(x):
                halves = np.stack([x & np.uint32(0xffff), x >> np.uint32(16)], axis=3).reshape(len(w), 32, -1)
                if "bf16" in i.parts:
                    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
                return halves.astype(np.uint16).view(np.float16).astype(np.float64)
            ea, eb, kind = elements(a), elements(b), "f32"
            place_a = [(group + 8 * (e // 2 % 2), 2 * t + e % 2 + 8 * (e // 4)) for e in range(8)]
            place_b = [(2 * t + e % 2 + 8 * (e // 2), group) for e in range(4)]
        else:
            def elements(x):
                return np.ascontiguousarray(x).view(np.int8).reshape(len(w), 32, -1).astype(np.int64)
            ea, eb, kind = elements(a), elements(b), "s32"
            place_a = [(group + 8 * (e // 4 % 2), 4 * t + e % 4 + 16 * (e // 8)) for e in range(k // 2)]
            place_b = [(4 * t + e % 4 + 16 * (e // 4), group) for e in range(k // 4)]
        left = np.zeros((len(w), 16, k), ea.dtype)
        right = np.zeros((len(w), k, 8), eb.dtype)
        for e, (row, column) in enumerate(place_a):
            left[:, row, column] = ea[:, :, e]
        for e, (row, column) in enumerate(place_b):
            right[:, row, column] = eb[:, :, e]
        product = left @ right
        c = self.fragment(i.operands[3], w, idx, kind)
        for e, target in enumerate(i.operands[0].strip("{}").replace(" ", "").split(",")):
            part = product[:, group + 8 * (e // 2), 2 * t + e % 2]
            total = part + c[:, :, e].astype(part.dtype)
            value = total.astype(np.float32) if kind == "f32" else total.astype(np.int32)
            self.write(target, value.reshape(-1), idx)

    def op_ldmatrix(self, i, idx):
        w = self.warps(idx, i.text)
        addresses = self.address(i.operands[1], idx, "shared").reshape(w.shape)
        rows = self.load("shared", addresses.reshape(-1), "b16", 8, idx, i.text)
        rows = np.stack(rows, axis=1).reshape(len(w), 4, 8, 8)        # matrix, row, element
        if (addresses % np.uint64(16)).any():
            raise Fault(f"misaligned row in `{i.text}`")
        group, t = np.arange(32) // 4, np.arange(32) % 4
        for n, target in enumerate(i.operands[0].strip("{}").replace(" ", "").split(",")):
            m = rows[:, n].transpose(0, 2, 1) if "trans" in i.parts else rows[:, n]
            value = m[:, group, 2 * t].astype(np.uint32) | m[:, group, 2 * t + 1].astype(np.uint32) << np.uint32(16)
            self.write(target, value.reshape(-1), idx)

    # ---- asynchronous copies ----
    def op_cp(self, i, idx):
        if "commit_group" in i.parts:
            self.group[idx] += 1
        elif "wait_group" in i.parts or "wait_all" in i.parts:
            self.copies_finish(idx, int(i.operands[0]) if i.operands else 0)
        else:
            target = self.address(i.operands[0], idx, "shared")
            source = self.address(i.operands[1], idx, "global")
            size = int(i.operands[2])
            valid = self.read(i.operands[3], "u32", idx) if len(i.operands) > 3 else np.full(len(idx), size, np.uint32)
            self.place("shared", target, size, idx, True, i.text)
            used = valid > 0
            if used.any():
                self.place("global", source[used], size, idx[used], False, i.text)
            self.copies.append((idx, self.group[idx].copy(), target, source, size, used, i.text))

    def copies_finish(self, idx, pending):
        waits = np.zeros(self.n, bool)
        waits[idx] = True
        rest = []
        for threads, groups, target, source, size, used, text in self.copies:
            now = waits[threads] & (groups + pending < self.group[threads])
            if now.any():
                full, empty = now & used, now & ~used
                if full.any():
                    self.store("shared", target[full], "b64", self.load("global", source[full], "b64", 2, threads[full], text),
                               threads[full], text)
                if empty.any():
                    zero = np.zeros(int(empty.sum()), np.uint64)
                    self.store("shared", target[empty], "b64", [zero, zero], threads[empty], text)
            if not now.all():
                keep = ~now
                rest.append((threads[keep], groups[keep], target[keep], source[keep], size, used[keep], text))
        self.copies = rest

    def op_griddepcontrol(self, i, idx): pass
    def op_fence(self, i, idx): pass
    def op_membar(self, i, idx): pass


def launch(program, name, grid, threads, shared_bytes, args, regions):
    """Run one launch.  Returns (Memory, thread instructions); raises Fault."""
    memory = Memory(regions)
    run = Launch(program, name, grid, threads, shared_bytes, args, memory)
    run.run()
    return memory, run.executed
