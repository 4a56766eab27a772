/* test_memory.c - attention reads K and V from kvd's memory, never from a copy.
 *
 * (1) The engine's own memory does not grow with the context.  (2) One bit flipped in a sealed frame,
 * from outside, changes the logits hash of exactly the sequences that hold it. */
#include "tests/lib/peek.h"
#include "engine/model.h"
#include "tests/lib/scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define N_SEQS 8

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };

/* The engine's anonymous memory from 64 to 2,000 tokens times 8 sequences: at most 1 MiB more. */
START_TEST(engine_memory_does_not_follow_the_context)
{
	struct host h;
	host_start(&h, "512M", NULL);
	struct host_child *engine = host_engine(&h, "a", host_model_bundled(), engine_args);
	uint64_t kib[2];
	const unsigned words[2] = { 30, 1300 };
	for (unsigned round = 0; round < 2; round++) {
		struct host_job jobs[N_SEQS];
		char *texts[N_SEQS];
		uint32_t tokens = 0;
		for (unsigned i = 0; i < N_SEQS; i++) {
			texts[i] = scenario_text(round * 100 + i, words[round]);
			scenario_job(&jobs[i], "red", "a", texts[i], 16);
		}
		ck_assert_msg(host_run(&h, jobs, N_SEQS, NULL, NULL) == 0, "failed: %s", jobs[0].error);
		kib[round] = host_proc_kib(engine->pid, "RssAnon");
		for (unsigned i = 0; i < N_SEQS; i++) {
			tokens = jobs[i].prompt_tokens > tokens ? jobs[i].prompt_tokens : tokens;
			free(texts[i]);
		}
		printf("RssAnon %llu KiB with 8 sequences of up to %u tokens\n",
		       (unsigned long long)kib[round], tokens);
		if (round == 1)
			ck_assert_uint_ge(tokens, 1900);
		host_jobs_free(jobs, N_SEQS);
	}
	ck_assert_uint_le(kib[1], kib[0] + 1024);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

struct flip {
	struct host *h;
	struct host_job *jobs;
	bool done;
	uint32_t frame;
	uint32_t holders, n_planes;
};

/* Flip one bit of the key bytes of a sealed page held by the sequences of tenant "shared". */
static void flip_bit(struct flip *f)
{
	struct kvd_connection *c = NULL;
	const void *rows;
	uint64_t n, page_bytes = host_page_bytes(f->h);
	uint32_t row_bytes;
	ck_assert_int_eq(kvd_connect(f->h->socket, "tests", NULL, &c), 0);
	ck_assert_int_eq(kvd_query(c, KVD_Q_PAGES, "", &rows, &n, &row_bytes), 0);
	uint32_t extent = 0, slot = 0;
	for (uint64_t i = 0; i < n; i++) {
		const struct kvd_row_page *page = (const void *)((const char *)rows + i * row_bytes);
		if (page->state == KVD_FRAME_SEALED && page->holds >= 2 && page->depth == 2) {
			f->frame = page->frame;
			f->holders = page->holds;
			extent = page->extent;
			slot = page->slot;
			f->done = true;
		}
	}
	kvd_rows_free(rows, n, row_bytes);
	if (!f->done) {
		kvd_close(c);
		return;
	}
	char name[32];
	size_t bytes;
	snprintf(name, sizeof(name), "kvd-extent-%u", extent);
	uint8_t *map = peek_memfd(f->h->kvd.pid, name, 1, &bytes);
	ck_assert_msg(map != NULL, "kvd has no memfd %s", name);
	/* plane 0, this slot's block, first key element: the top bit of its exponent, so that it counts */
	kvd_close(c);
	map[slot * (page_bytes / f->n_planes) + 1] ^= 0x40;
	munmap(map, bytes);
}

static void on_chunk(void *arg, struct host_job *job)
{
	struct flip *f = arg;
	if (f->done)
		return;
	for (unsigned i = 0; i < 4; i++)
		if (f->jobs[i].n_ids < 4)
			return;
	flip_bit(f);
}

static void load(struct host *h, struct host_job *jobs, char **texts, struct flip *f)
{
	for (unsigned i = 0; i < 4; i++)
		scenario_job(&jobs[i], i < 2 ? "shared" : i == 2 ? "red" : "green", "a", texts[i], 300);
	if (f)
		f->jobs = jobs;
	ck_assert_msg(host_run(h, jobs, 4, f ? on_chunk : NULL, f) == 0, "failed: %s", jobs[0].error);
}

START_TEST(one_bit_changes_exactly_its_holders)
{
	struct host h;
	host_start(&h, "256M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	char *prefix = scenario_text(3, 90), *texts[4];
	for (unsigned i = 0; i < 4; i++) {
		char *own = scenario_text(60 + i, 30);
		texts[i] = i < 2 ? scenario_join(prefix, own) : strdup(own);
		free(own);
	}
	struct host_job before[4], after[4];
	load(&h, before, texts, NULL);
	struct model *model;
	char error[256];
	ck_assert_msg(model_open(host_model_bundled(), &model, error, sizeof(error)) == 0, "%s", error);
	struct flip f = { .h = &h, .n_planes = model->config.n_layers };
	model_close(model);
	load(&h, after, texts, &f);
	ck_assert_msg(f.done, "no sealed page was held by two sequences");
	ck_assert_uint_eq(f.holders, 2);
	for (unsigned i = 0; i < 4; i++) {
		bool same = before[i].end.logits_hash == after[i].end.logits_hash;
		ck_assert_msg(same == (i >= 2), "sequence %u %s", i, same ? "did not change" : "changed");
	}
	host_settle(&h);
	host_stop(&h);
	host_jobs_free(before, 4);
	host_jobs_free(after, 4);
	for (unsigned i = 0; i < 4; i++)
		free(texts[i]);
	free(prefix);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(engine_memory_does_not_follow_the_context),
		SCENARIO(one_bit_changes_exactly_its_holders),
	};
	return scenario_run("memory", tests, 2, 300);
}
