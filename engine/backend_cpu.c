/* backend_cpu.c - forward.h behind the compute seam; a run is a struct forward. */
#include "engine/backend.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>

static int cpu_numerics_id(const struct backend_options *o, char ret_id[32], char *err,
			   size_t errlen)
{
	int r = forward_numerics_id_of(o->isa, ret_id);

	if (r < 0)
		snprintf(err, errlen, "--isa %s: not on this machine; leave it out", o->isa);
	return r;
}

static int cpu_open(const struct model *m, const struct backend_options *o,
		    struct backend_run **ret, char *err, size_t errlen)
{
	const struct forward_options f = { .n_threads = o->n_threads, .max_rows = o->max_rows,
					   .spin_usec = o->spin_usec, .isa = o->isa,
					   .weights = o->weights };

	return forward_new(m, &f, (struct forward **)ret, err, errlen);
}

static void cpu_close(struct backend_run *run)
{
	forward_free((struct forward *)run);
}

static int cpu_step(struct backend_run *run, const struct kv_window *kv,
		    const struct step_seq *seqs, unsigned n_seqs, const struct step_row *rows,
		    unsigned n_rows, float *logits)
{
	return forward_step((struct forward *)run, kv, seqs, n_seqs, rows, n_rows, logits);
}

static const char *cpu_error(const struct backend_run *run)
{
	return "";
}

static uint8_t *cpu_pages_new(struct backend_run *run, size_t bytes)
{
	void *pages =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return pages == MAP_FAILED ? NULL : pages;
}

static void cpu_pages_free(struct backend_run *run, uint8_t *pages, size_t bytes)
{
	if (pages)
		munmap(pages, bytes);
}

const struct backend backend_cpu = {
	.version = BACKEND_VERSION, .name = "cpu", .layout = KVD_LAYOUT_PAIRS, .on_host = true,
	.numerics_id = cpu_numerics_id, .open = cpu_open, .close = cpu_close, .step = cpu_step,
	.error = cpu_error,
	.pages_new = cpu_pages_new, .pages_free = cpu_pages_free,
};
