/* kernels_emulated.c - the avx512 path's kernel sources over an emulation of its dot products.
 *
 * Lets any machine run what the avx512 path computes: same sources, same order, vpdpbusd and
 * vdpbf16ps in plain C.  Slow; for tests only. */
#include "tests/lib/kernels_emulated.h"

#include <math.h>
#define VEC_EMULATE_BF16_DOT 1
#include "engine/cpu/half.h"
#include "engine/cpu/vec_portable.h"
#include "engine/cpu/rows_body.h"
#include "engine/cpu/matmul_body.h"
#include "engine/cpu/attention_body.h"

const struct cpu_kernels cpu_kernels_emulated = {
	.isa = "avx512-emulated",
#include "engine/cpu/table_body.h"
};
