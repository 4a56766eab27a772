/* kernels.c - which table of kernels this machine runs; see kernels.h.
 *
 * Decided by cpuid (through the compiler's own reading of it, which also asks the kernel whether
 * the registers are saved), once per forward_new(). */
#include "engine/cpu/kernels.h"

#include <string.h>

static bool machine_has(const struct cpu_kernels *k)
{
#if defined(__x86_64__)
	if (k == &cpu_kernels_avx512)
		return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
		       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
		       __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
	if (k == &cpu_kernels_avx2)
		return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
		       __builtin_cpu_supports("f16c");
#endif
	return k == &cpu_kernels_portable;
}

const struct cpu_kernels *cpu_kernels_find(const char *isa)
{
	static const struct cpu_kernels *const best_first[] = {
		&cpu_kernels_avx512, &cpu_kernels_avx2, &cpu_kernels_portable,
	};

	for (size_t i = 0; i < sizeof(best_first) / sizeof(best_first[0]); i++)
		if ((isa == NULL || strcmp(isa, best_first[i]->isa) == 0) &&
		    machine_has(best_first[i]))
			return best_first[i];
	return NULL;
}

size_t cpu_panel_scratch_bytes(const struct panel_matrix *m)
{
	/* a nibble becomes a byte, scale and minimum f32; nothing else is expanded */
	return m->form != FORM_NIBBLE ? 0u :
	       (size_t)m->n_groups * PANEL_COLS * (m->group_k + 2u * sizeof(float));
}
