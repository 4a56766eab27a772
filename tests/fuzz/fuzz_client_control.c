/* fuzz_client_control.c - what kvd sends libkvd on the control socket, as client and as engine.
 *
 * The input is a list of packets, each a length byte and bytes; the top bit of the length asks for
 * a descriptor with it.  Whatever comes: no crash, nothing written outside the window, and no
 * descriptor left open. */
#include "client/engine.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXTENT_BYTES 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Segments as they are after ATTACHED, so that ADOPTED gets as far as the switch. */
static void make_segments(struct kvd_engine *e)
{
	e->max_seqs = 2;
	e->max_pages = 4;
	e->sq_entries = e->cq_entries = 16;
	e->sub_bytes = e->comp_bytes = 8192;
	void *sub = mmap(NULL, e->sub_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *comp = mmap(NULL, e->comp_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (sub == MAP_FAILED || comp == MAP_FAILED)
		abort();
	e->sub = sub;
	e->comp = comp;
	e->sqes = (struct kvd_sqe *)((uint8_t *)sub + 64);
	e->tokens = (int32_t *)((uint8_t *)sub + 2048);
	e->cqes = (const struct kvd_cqe *)((const uint8_t *)comp + 64);
	e->tables = (const uint32_t *)((const uint8_t *)comp + 2048);
	e->attached = (struct kvd_msg_attached){ .engine = 1, .sq_entries = 16, .n_frames = 16,
						 .sub_bytes = 8192, .sqe_offset = 64, .tokens_offset = 2048 };
}

/* Whatever kvd sent, rows and completions can be read to their ends. */
static void read_segments(struct kvd_engine *e)
{
	struct kvd_cqe cqe;
	uint32_t sum = 0;

	for (uint32_t slot = 0; slot < e->max_seqs; slot++)
		for (uint32_t i = 0; i < e->max_pages; i++)
			sum += kvd_engine_table(e, slot)[i];
	for (unsigned i = 0; i < 70 && kvd_engine_completion(e, &cqe); i++)
		sum += cqe.slot;
	*(volatile uint32_t *)&sum = sum;
}

static struct kvd_engine *make_engine(void)
{
	struct kvd_engine *e = calloc(1, sizeof(*e));
	if (!e || kvd_connection_new(KVD_ROLE_ENGINE, "/fuzz", "fuzz", NULL, &e->connection) != 0)
		abort();
	e->clients = calloc(KVD_ENGINE_CLIENTS_MAX, sizeof(*e->clients));
	e->agains = calloc(KVD_ENGINE_CLIENTS_MAX, sizeof(*e->agains));
	e->gones = calloc(KVD_ENGINE_GONES_MAX, sizeof(*e->gones));
	e->process = e->early_fd = -1;
	e->is_attached = true;
	e->connection->welcome.pool_bytes = 4 * EXTENT_BYTES;
	e->connection->welcome.extent_bytes = e->geometry.extent_bytes = EXTENT_BYTES;
	if (!e->clients || !e->agains || !e->gones || kvd_engine_window_reserve(e) != 0)
		abort();
	make_segments(e);
	return e;
}

static int hook(void *arg, const struct kvd_msg *m, struct kvd_packet *packet)
{
	return kvd_engine_take(arg, m, packet);
}

/* Send the packets of the input as kvd would; sizes are put right, or nothing would get further. */
static void send_packets(int fd, int memory, const uint8_t *data, size_t size)
{
	while (size > 1) {
		_Alignas(8) uint8_t packet[128];
		size_t n = (data[0] & 0x7fu) < size - 1 ? data[0] & 0x7fu : size - 1;
		int with_fd = data[0] >> 7;
		memcpy(packet, data + 1, n);
		if (n >= sizeof(struct kvd_msg) && packet[2] != 0xff)
			((struct kvd_msg *)packet)->size = (uint32_t)n;
		if (n > 0 && kvd_packet_send(fd, packet, n, &memory, (uint32_t)with_fd) != 0)
			return;
		data += n + 1;
		size -= n + 1;
	}
}

static int lowest_free_fd(int fd)
{
	int lowest = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	close(lowest);
	return lowest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct kvd_waiter rows = {
		.type = KVD_M_ROWS, .n_fds_max = 1, .min_bytes = sizeof(struct kvd_msg_rows),
	};
	struct kvd_waiter weights = { .type = KVD_M_WEIGHTS, .n_fds_max = 1, .min_bytes = 40 };
	struct kvd_engine_client client;
	static int memory = -1;
	int pair[2];

	if (memory < 0 && ((memory = memfd_create("fuzz", MFD_CLOEXEC)) < 0 ||
			   ftruncate(memory, EXTENT_BYTES) < 0))
		abort();
	int lowest = lowest_free_fd(memory);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
		return 0;
	struct kvd_engine *e = make_engine();
	struct kvd_connection *c = e->connection;
	c->fd = pair[0];
	c->state = KVD_CONNECTION_READY;
	c->unsolicited = hook;
	c->unsolicited_arg = e;
	struct kvd_msg ask = { .type = KVD_M_QUERY, .size = sizeof(ask) };
	if (kvd_connection_post(c, &ask, NULL, 0, &rows) != 0 ||
	    kvd_connection_post(c, &ask, NULL, 0, &weights) != 0)
		abort();
	send_packets(pair[1], memory, data, size);
	int r = kvd_connection_dispatch(c);
	if (r < 0 && (!rows.done || !weights.done || c->state != KVD_CONNECTION_DOWN))
		abort();
	if (e->n_acks > e->acks_max)
		abort();
	read_segments(e);
	for (int i = 0; i < 2; i++) {
		struct kvd_waiter *w = i ? &weights : &rows;
		if (w->done && w->result == 0 && w->fds[0] >= 0)
			close(w->fds[0]);
		if (w->done && w->result != 0 && (w->fds[0] >= 0 || w->text[0] == '\0'))
			abort();
	}
	close(pair[1]);
	struct kvd_engine_again again;
	while (kvd_engine_next_client(e, &client))
		close(client.fd);
	while (kvd_engine_next_again(e, &again))
		if (memchr(again.tenant, 0, sizeof(again.tenant)) == NULL)
			abort();
	kvd_engine_close(e);
	/* The lowest free number is what it was before: nothing stays open. */
	if (lowest_free_fd(memory) != lowest)
		abort();
	return 0;
}
