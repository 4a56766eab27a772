/* cases.c - see cases.h.  Owns the regions of the case at hand. */
#include "tests/cuda_emulator/cases.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct memory {
	const char *name;
	void *base;
	size_t bytes;
	uint32_t flags;
};
static struct memory memories[EMULATED_REGIONS_MAX];
static unsigned n_memories, n_recorded;
static unsigned order_now;
static uint64_t state = 1;

void *case_memory(const char *name, size_t bytes, uint32_t flags)
{
	struct memory *m = &memories[n_memories];

	ck_assert_uint_lt(n_memories, EMULATED_REGIONS_MAX);
	*m = (struct memory){.name = name, .bytes = bytes, .flags = flags};
	/* a page before and behind, so that the region's end is an end for the fast build, too */
	m->base = aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
	ck_assert_ptr_nonnull(m->base);
	memset(m->base, 0xa5, bytes);
	n_memories++;
	return m->base;
}

void case_memory_use(const void *base, uint32_t flags)
{
	for (unsigned i = 0; i < n_memories; i++)
		if (memories[i].base == base)
			memories[i].flags = flags;
}

void case_end(void)
{
	emulated_regions_forget();
	for (unsigned i = 0; i < n_memories; i++)
		free(memories[i].base);
	n_memories = 0;
}

static const struct emulated_kernel *kernel_named(const char *name)
{
	for (const struct emulated_kernel *k = emulated_kernels; k->name; k++)
		if (strcmp(k->name, name) == 0)
			return k;
	ck_abort_msg("no kernel %s", name);
}

static void contents_write(FILE *f)
{
	for (unsigned i = 0; i < n_memories; i++)
		ck_assert_uint_eq(fwrite(memories[i].base, 1, memories[i].bytes, f), memories[i].bytes);
}

/* The launch as one line of JSON, then all regions' bytes. */
static FILE *record_begin(const char *dir, const char *kernel, struct emulated_dim grid, uint32_t threads,
			  uint32_t shared_bytes, const void *args, size_t args_bytes)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s-%d-%u.case", dir, kernel, (int)getpid(), n_recorded++);
	f = fopen(path, "wb");
	ck_assert_msg(f != NULL, "cannot write %s", path);
	fprintf(f, "{\"kernel\":\"%s\",\"grid\":[%u,%u,%u],\"threads\":%u,\"shared\":%u,\"args\":\"", kernel, grid.x,
		grid.y, grid.z, threads, shared_bytes);
	for (size_t i = 0; i < args_bytes; i++)
		fprintf(f, "%02x", ((const uint8_t *)args)[i]);
	fprintf(f, "\",\"regions\":[");
	for (unsigned i = 0; i < n_memories; i++)
		fprintf(f, "%s{\"name\":\"%s\",\"base\":%zu,\"bytes\":%zu,\"flags\":%u}",
			i ? "," : "", memories[i].name, (size_t)memories[i].base, memories[i].bytes,
			memories[i].flags);
	fprintf(f, "]}\n");
	contents_write(f);
	return f;
}

int case_try(const char *kernel, struct emulated_dim grid, uint32_t threads, uint32_t shared_bytes, void *args,
	     size_t args_bytes)
{
	const struct emulated_kernel *k = kernel_named(kernel);
	const char *dir = order_now == 0 ? getenv("KVD_CUDA_RECORD") : NULL;
	struct emulated_dim block = {threads, 1, 1};
	void *params[] = {args};
	FILE *record = NULL;
	int found;

	ck_assert_uint_eq(k->n_params, 1);
	ck_assert_uint_eq(k->param_sizes[0], args_bytes);
	emulated_forget();
	emulated_regions_forget();
	for (unsigned i = 0; i < n_memories; i++)
		ck_assert_int_eq(emulated_region(memories[i].name, memories[i].base, memories[i].bytes,
						 memories[i].flags), 0);
	if (dir)
		record = record_begin(dir, kernel, grid, threads, shared_bytes, args, args_bytes);
	found = k->launch(grid, block, shared_bytes, params);
	if (record) {
		contents_write(record);
		ck_assert_int_eq(fclose(record), 0);
	}
	return found;
}

void case_launch(const char *kernel, struct emulated_dim grid, uint32_t threads, uint32_t shared_bytes, void *args,
		 size_t args_bytes)
{
	int found = case_try(kernel, grid, threads, shared_bytes, args, args_bytes);

	ck_assert_msg(found == 0, "%s, order %u: %d reports; %s", kernel, order_now, found, emulated_first());
}

void case_order(unsigned o)
{
	order_now = o;
	emulated_set_order(o == 0 ? EMULATED_FORWARD : o == 1 ? EMULATED_REVERSE : EMULATED_SEEDED, o);
}

void case_seed(uint64_t seed)
{
	state = seed * 0x9e3779b97f4a7c15ull + 1;
}

uint32_t case_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 32);
}

float case_uniform(float low, float high)
{
	return low + (high - low) * (float)(case_random() >> 8) * 0x1p-24f;
}

uint32_t case_bf16(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof(bits));
	return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

float case_f32_of_bf16(uint32_t bits)
{
	float x;

	bits <<= 16;
	memcpy(&x, &bits, sizeof(x));
	return x;
}

/* For numbers in f16's normal range. */
uint16_t case_f16(float x)
{
	int exponent;
	float fraction = frexpf(fabsf(x), &exponent);
	uint32_t mantissa = (uint32_t)lrintf(fraction * 2048.0f);

	if (mantissa == 2048) {
		mantissa = 1024;
		exponent++;
	}
	if (x == 0.0f || exponent < -13)
		return 0;
	return (uint16_t)((x < 0 ? 0x8000u : 0u) | (uint32_t)(exponent + 14) << 10 | (mantissa & 1023u));
}

float case_f32_of_f16(uint16_t bits)
{
	float x = bits >> 10 & 31 ? ldexpf((float)(1024u | (bits & 1023u)), (int)(bits >> 10 & 31) - 25) :
		ldexpf((float)(bits & 1023u), -24);

	return bits & 0x8000u ? -x : x;
}
