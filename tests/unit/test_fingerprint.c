/* test_fingerprint.c - what a model's fingerprint covers, and that its cache is only a help. */
#include "engine/fingerprint.h"

#include <check.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "engine/gguf.h"
#include "engine/model.h"
#include "tests/lib/gguf_maker.h"
#include "tests/lib/suite.h"

static uint8_t *made; /* bytes of the last model opened, see open_made() */

static int open_made(const struct gguf_maker *m, struct model **ret_model, char err[512])
{
	size_t size;

	free(made);
	made = maker_file(m, &size);
	err[0] = '\0';
	return model_open_memory(made, size, "made", ret_model, err, 512);
}

static void make(struct gguf_maker *m, struct maker_llama l)
{
	maker_init(m);
	maker_llama_metadata(m, &l);
	maker_llama_tensors(m, &l);
}

/* Frees the maker; the caller closes the model. */
static struct model *expect_model(struct gguf_maker *m)
{
	struct model *model = NULL;
	char err[512];

	ck_assert_msg(!open_made(m, &model, err), "%s", err);
	maker_free(m);
	return model;
}

static void fingerprint_of(struct gguf_maker *m, uint8_t ret_digest[16])
{
	struct model *model = expect_model(m);

	memcpy(ret_digest, model->fingerprint, 16);
	model_close(model);
}

START_TEST(the_fingerprint_covers_what_counts)
{
	struct maker_llama l = MAKER_LLAMA, other;
	uint8_t first[16], again[16];
	float *divisors = calloc(8, sizeof *divisors);
	struct gguf_maker m;

	make(&m, l);
	fingerprint_of(&m, first);
	/* names for people and unknown keys don't count */
	make(&m, l);
	maker_string(&m, "general.name", "another name");
	maker_string(&m, "general.license", "mit");
	fingerprint_of(&m, again);
	ck_assert_mem_eq(first, again, 16);
	/* nor does the order of the tensors in the file */
	maker_init(&m);
	maker_llama_metadata(&m, &l);
	other = l;
	other.tied = true;
	maker_tensor(&m, "output.weight", 64, 40, 0, NULL);
	maker_llama_tensors(&m, &other);
	fingerprint_of(&m, again);
	ck_assert_mem_eq(first, again, 16);

	other = l, other.rms_eps = 1.0001e-5f, make(&m, other), fingerprint_of(&m, again);
	ck_assert_mem_ne(first, again, 16);
	other = l, other.rope_base = 10001.0f, make(&m, other), fingerprint_of(&m, again);
	ck_assert_mem_ne(first, again, 16);
	other = l, other.tied = true, make(&m, other), fingerprint_of(&m, again);
	ck_assert_mem_ne(first, again, 16);
	make(&m, l);
	maker_f32(&m, "llama.rope.scaling.factor", 2.0f);
	fingerprint_of(&m, again);
	ck_assert_mem_ne(first, again, 16);
	make(&m, l);
	for (unsigned i = 0; i < 8; i++)
		divisors[i] = 1.0f; /* the same arithmetic, but another file: allowed to differ */
	maker_tensor(&m, "rope_freqs.weight", 8, 1, 0, divisors);
	fingerprint_of(&m, again);
	ck_assert_mem_ne(first, again, 16);
	/* the same heads cut another way: 4 x 16 and 8 x 8 have equal shapes */
	other = l, other.n_heads = 8, other.n_kv_heads = 4, other.head_dim = 8;
	make(&m, other), fingerprint_of(&m, again);
	ck_assert_mem_ne(first, again, 16);
	free(divisors);
}
END_TEST

START_TEST(the_fingerprint_covers_every_tensor)
{
	struct maker_llama l = MAKER_LLAMA;
	uint8_t first[16], again[16];
	struct gguf_maker m;
	struct gguf *g;
	char err[512];
	size_t size;
	uint8_t *file;
	uint64_t n;

	make(&m, l);
	file = maker_file(&m, &size);
	fingerprint_of(&m, first);
	ck_assert(!gguf_open_memory(file, size, "made", &g, err, sizeof err));
	n = gguf_n_tensors(g);
	ck_assert_uint_eq(n, 3 + 2 * 9);
	for (uint64_t i = 0; i < n; i++) {
		const struct gguf_tensor *t = gguf_tensor_at(g, i);
		uint8_t *last = file + (t->data - file) + t->bytes - 1;
		struct model *model;

		*last ^= 1;
		ck_assert(!model_open_memory(file, size, "made", &model, err, sizeof err));
		memcpy(again, model->fingerprint, 16);
		ck_assert_msg(memcmp(first, again, 16), "%s does not count", t->name);
		model_close(model);
		*last ^= 1;
	}
	gguf_close(g);
	free(file);
}
END_TEST

/* The one file of a directory; removes it if asked to. */
static int single_entry(const char *directory, char path[PATH_MAX])
{
	DIR *d = opendir(directory);
	struct dirent *e;
	int n = 0;

	ck_assert_ptr_nonnull(d);
	while ((e = readdir(d)))
		if (e->d_name[0] != '.') {
			snprintf(path, PATH_MAX, "%s/%s", directory, e->d_name);
			n++;
		}
	closedir(d);
	return n;
}

static void write_file(const char *path, const void *bytes, size_t n)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
	ck_assert_int_eq(fclose(f), 0);
}

static void reopen(const char *path, uint8_t ret_digest[16])
{
	struct model *model;
	char err[512];

	ck_assert_msg(!model_open(path, &model, err, sizeof err), "%s", err);
	memcpy(ret_digest, model->fingerprint, 16);
	model_close(model);
}

START_TEST(the_cache_is_a_help_and_never_a_need)
{
	char root[] = "/tmp/test_model.XXXXXX", path[64], cache[64], entry[PATH_MAX], line[256];
	struct maker_llama l = MAKER_LLAMA;
	uint8_t first[16], again[16], *file;
	struct gguf_maker m;
	struct stat st;
	size_t size, n;
	FILE *f;

	ck_assert_ptr_nonnull(mkdtemp(root));
	snprintf(path, sizeof path, "%s/model.gguf", root);
	snprintf(cache, sizeof cache, "%s/kvd/fingerprints", root);
	setenv("XDG_CACHE_HOME", root, 1);
	make(&m, l);
	file = maker_file(&m, &size);
	fingerprint_of(&m, first); /* from memory: without the cache */
	write_file(path, file, size);
	reopen(path, again);
	ck_assert_mem_eq(first, again, 16);
	ck_assert_int_eq(single_entry(cache, entry), 1);
	ck_assert(!stat(entry, &st) && (st.st_mode & 07777) == 0600);

	/* it is really used: another hash in it gives another fingerprint */
	f = fopen(entry, "r+");
	n = fread(line, 1, sizeof line, f);
	line[n - 2] = line[n - 2] == '0' ? '1' : '0';
	rewind(f);
	fwrite(line, 1, n, f);
	fclose(f);
	reopen(path, again);
	ck_assert_mem_ne(first, again, 16);

	/* damaged in any other way it is computed anew, and repaired */
	for (size_t cut = 0; cut < n; cut += 7) {
		write_file(entry, line, cut);
		reopen(path, again);
		ck_assert_mem_eq(first, again, 16);
	}
	line[0] ^= 1;
	write_file(entry, line, n);
	reopen(path, again);
	ck_assert_mem_eq(first, again, 16);

	/* a changed file is another file */
	file[size - 64] ^= 1;
	write_file(path, file, size);
	reopen(path, again);
	ck_assert_mem_ne(first, again, 16);
	ck_assert_int_eq(single_entry(cache, entry), 2);

	/* no place for a cache */
	file[size - 64] ^= 1;
	write_file(path, file, size);
	setenv("XDG_CACHE_HOME", "/proc/none", 1);
	reopen(path, again);
	ck_assert_mem_eq(first, again, 16);
	setenv("XDG_CACHE_HOME", "relative", 1);
	setenv("HOME", "/proc/none", 1);
	reopen(path, again);
	ck_assert_mem_eq(first, again, 16);
	ck_assert_int_ne(access("relative", F_OK), 0);
	unsetenv("HOME");
	unsetenv("XDG_CACHE_HOME");
	reopen(path, again);
	ck_assert_mem_eq(first, again, 16);

	while (single_entry(cache, entry))
		unlink(entry);
	rmdir(cache);
	snprintf(cache, sizeof cache, "%s/kvd", root);
	rmdir(cache);
	unlink(path);
	ck_assert_int_eq(rmdir(root), 0); /* no temporary left */
	free(file);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fingerprint");
	TCase *tc = tcase_create("fingerprint");
	int failed;

	tcase_add_test(tc, the_fingerprint_covers_what_counts);
	tcase_add_test(tc, the_fingerprint_covers_every_tensor);
	tcase_add_test(tc, the_cache_is_a_help_and_never_a_need);
	tcase_set_timeout(tc, 60);
	suite_add_tcase(suite, tc);
	failed = suite_result(suite);
	free(made);
	return failed;
}
