/* engine.c - the smallest engine: keeps one client's sequence in kvd's memory and ends its stream.
 * In place of K and V it writes the number 7.        cc engine.c -lkvd && ./a.out [SOCKET] */
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <kvd/engine.h>
static int nap(struct kvd_engine *e)          /* until kvd says something, 100 ms at most */
{
	struct pollfd p = { .fd = kvd_engine_fd(e), .events = POLLIN };
	(void)(kvd_engine_sleep(e, true) && poll(&p, 1, 100));
	kvd_engine_sleep(e, false);
	return kvd_engine_poll(e);
}
static int ask(struct kvd_engine *e, struct kvd_sqe sqe, struct kvd_cqe *ret)
{
	int r = kvd_engine_submit(e, &sqe);
	for (r = r ? r : kvd_engine_flush(e); r == 0 && !kvd_engine_completion(e, ret); )
		r = nap(e);
	return r ? r : ret->status;
}
static int keep(struct kvd_engine *e, uint32_t client)  /* 40 tokens: 2 full pages, one begun */
{
	const struct kvd_geometry *g = kvd_engine_geometry(e);
	struct kvd_sqe open = { .verb = KVD_SEQ_OPEN, .tenant = client, .n_tokens = 40 };
	struct kvd_sqe grow = { .verb = KVD_SEQ_GROW, .want = 3 }, seal = { .verb = KVD_SEQ_SEAL };
	struct kvd_cqe done = { 0 };
	uint32_t table[3];
	for (int i = 0; i < 40; i++)
		kvd_engine_tokens(e, 0)[i] = 7;
	int r = ask(e, open, &done);
	grow.page = seal.page = done.cached;  /* what lies before was computed by somebody else */
	r = r ? r : ask(e, grow, &done);
	kvd_step_begin(e);                    /* from here to the end only through this copy */
	memcpy(table, kvd_engine_table(e, 0), sizeof(table));
	for (uint32_t i = 2 * seal.page; r == 0 && i < 2 * 3; i++)      /* 2 planes of 3 pages */
		memset(kvd_engine_window(e) +
		       kvd_block_offset(g, KVD_ENTRY_FRAME(table[i / 2]), i % 2), 7, g->block_bytes);
	kvd_step_end(e);
	seal.count = 2 - seal.page;
	r = r || seal.count == 0 ? r : ask(e, seal, &done);
	return r ? r : ask(e, (struct kvd_sqe){ .verb = KVD_SEQ_CLOSE }, &done);
}
int main(int argc, char **argv)
{
	struct kvd_engine_options o = { .socket = argc > 1 ? argv[1] : NULL, .name = "example",
		.model = "sevens", .numerics = "none/1", .layout = KVD_LAYOUT_PAIRS, .n_planes = 2,
		.kv_format = KVD_FORMAT_BF16, .block_bytes = 8192, .max_seqs = 1, .max_pages = 8 };
	struct kvd_msg_end end = { .m = { .type = KVD_M_END, .size = sizeof(end) }, .finish = 1 };
	struct kvd_engine_client client;
	struct kvd_engine *e;
	int r = kvd_engine_attach(&o, &e);
	while (r == 0 && !kvd_engine_next_client(e, &client))
		r = nap(e);
	r = r ? r : keep(e, client.client);
	r = r ? r : send(client.fd, &end, sizeof(end), MSG_NOSIGNAL) < 0;
	printf("%s\n", r ? kvd_engine_error(e) : "kept 40 tokens, 2 pages sealed");
	kvd_engine_close(e);
	return r != 0;
}
