/* kernels_avx2.c - the kernel sources compiled over vec_avx2.h; see kernels.h. */
#include "engine/cpu/kernels.h"

#include <math.h>
#include "engine/cpu/half.h"
#include "engine/cpu/vec_avx2.h"
#include "engine/cpu/rows_body.h"
#include "engine/cpu/matmul_body.h"
#include "engine/cpu/attention_body.h"

const struct cpu_kernels cpu_kernels_avx2 = {
	.isa = "avx2",
#include "engine/cpu/table_body.h"
};
