/* kernels_avx512.c - the kernel sources compiled over vec_avx512.h; see kernels.h. */
#include "engine/cpu/kernels.h"

#include <math.h>
#include "engine/cpu/half.h"
#include "engine/cpu/vec_avx512.h"
#include "engine/cpu/rows_body.h"
#include "engine/cpu/matmul_body.h"
#include "engine/cpu/attention_body.h"

const struct cpu_kernels cpu_kernels_avx512 = {
	.isa = "avx512",
#include "engine/cpu/table_body.h"
};
