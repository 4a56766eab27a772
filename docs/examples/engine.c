/* engine.c - the smallest engine: keeps one sequence in kvd's memory.  In place of K and V it writes the
 * number 7; a real engine computes there.     cc engine.c -lkvd && ./a.out [SOCKET] */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <kvd/engine.h>

#define N_TOKENS 40u                          /* two full pages of 16 and one begun */

/* Submit, then sleep until the answer comes (5 s at most). */
static int ask(struct kvd_engine *e, struct kvd_sqe sqe, struct kvd_cqe *ret)
{
	int r = kvd_engine_submit(e, &sqe);
	for (int i = 0; r == 0 && (r = kvd_engine_poll(e)) == 0 && !kvd_engine_completion(e, ret); i++) {
		struct pollfd p = { .fd = kvd_engine_fd(e), .events = POLLIN };
		if (kvd_engine_sleep(e, true) && (i == 50 || poll(&p, 1, 100) < 0))
			return -1;
		kvd_engine_sleep(e, false);
	}
	return r != 0 ? r : ret->status;
}

int main(int argc, char **argv)
{
	struct kvd_engine_options options = {
		.socket = argc > 1 ? argv[1] : NULL, .program = "example engine", .name = "example",
		.model = "sevens", .numerics = "none/1", .layout = KVD_LAYOUT_PAIRS, .kv_format = KVD_FORMAT_BF16,
		.n_planes = 2, .block_bytes = 8192, .max_seqs = 1, .max_pages = 8,
	};
	struct kvd_engine *e;
	struct kvd_cqe done;
	int r = kvd_engine_attach(&options, &e);

	for (uint32_t i = 0; r == 0 && i < N_TOKENS; i++)
		kvd_engine_tokens(e, 0)[i] = 7;
	if (r == 0)
		r = ask(e, (struct kvd_sqe){ .verb = KVD_SEQ_OPEN, .n_tokens = N_TOKENS, .flags = KVD_OPEN_PRIVATE }, &done);
	if (r == 0)
		r = ask(e, (struct kvd_sqe){ .verb = KVD_SEQ_GROW, .want = 3 }, &done);
	if (r == 0) {
		const struct kvd_geometry *g = kvd_engine_geometry(e);
		uint32_t table[3];
		kvd_step_begin(e);            /* from here to the end only through this copy */
		memcpy(table, kvd_engine_table(e, 0), sizeof(table));
		for (uint32_t page = done.cached; page < 3; page++)
			for (uint32_t plane = 0; plane < g->n_planes; plane++)
				memset(kvd_engine_window(e) + kvd_block_offset(g, KVD_ENTRY_FRAME(table[page]), plane),
				       7, g->block_bytes);
		kvd_step_end(e);
		r = ask(e, (struct kvd_sqe){ .verb = KVD_SEQ_SEAL, .page = done.cached, .count = 2 - done.cached }, &done);
	}
	if (r == 0)
		r = ask(e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE }, &done);
	printf("%s\n", r == 0 ? "40 tokens kept in kvd, 2 pages sealed" : r > 0 || !e ? "kvd refused" : kvd_engine_error(e));
	kvd_engine_close(e);
	return r == 0 ? 0 : 1;
}
