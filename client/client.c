/* client.c - kvd_connect() and what belongs to it, and an administrator's question.
 *
 * Owns the connection; rows are a mapping that the caller frees.  One thread.  Waits at most
 * KVD_CALL_USEC for an answer, and as long for a kvd that is being started again. */
#include "client/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/stream.h"

int kvd_connect(const char *path, const char *program, const char *tenant,
		struct kvd_connection **ret)
{
	int r = kvd_connection_new(KVD_ROLE_CLIENT, path, program, tenant, ret);
	return r != 0 ? r : kvd_connection_open(*ret);
}

int kvd_connect_wait(const char *path, const char *program, const char *tenant, uint32_t wait_ms,
		     struct kvd_connection **ret)
{
	uint64_t deadline_usec = kvd_clock_usec() + wait_ms * UINT64_C(1000);
	int r = kvd_connection_new(KVD_ROLE_CLIENT, path, program, tenant, ret);
	return r != 0 ? r : kvd_connection_open_until(*ret, deadline_usec);
}

void kvd_close(struct kvd_connection *c)
{
	if (!c)
		return;
	kvd_stream_orphan_all(c);
	kvd_connection_down(c, -ENOTCONN);
	free(c->events);
	free(c);
}

const char *kvd_error(const struct kvd_connection *c)
{
	return c ? c->error : "not enough memory";
}

const struct kvd_msg_welcome *kvd_welcome(const struct kvd_connection *c)
{
	return &c->welcome;
}

/* Bytes of one row of an answer as this version knows it; 0: no such question. */
static uint32_t query_row_bytes(enum kvd_query what)
{
	switch (what) {
	case KVD_Q_STATUS: return sizeof(struct kvd_row_status);
	case KVD_Q_ENGINES: return sizeof(struct kvd_row_engine);
	case KVD_Q_TENANTS: return sizeof(struct kvd_row_tenant);
	case KVD_Q_SEQUENCES: return sizeof(struct kvd_row_sequence);
	case KVD_Q_PAGES: return sizeof(struct kvd_row_page);
	case KVD_Q_EXTENTS: return sizeof(struct kvd_row_extent);
	case KVD_Q_FSCK: return sizeof(struct kvd_row_fsck);
	case KVD_Q_PSI: return sizeof(struct kvd_row_psi);
	case KVD_Q_PLAN:
	case KVD_Q_DRY_EVICT:
	case KVD_Q_EXPLAIN: return sizeof(struct kvd_row_plan);
	case KVD_Q_EVICTIONS: return sizeof(struct kvd_row_eviction);
	case KVD_Q_EVICTED: return sizeof(struct kvd_row_evicted);
	case KVD_Q_TRACE: return sizeof(struct kvd_row_trace);
	case KVD_Q_COST: return sizeof(struct kvd_row_cost);
	case KVD_Q_SMAPS: return sizeof(struct kvd_row_smaps);
	case KVD_Q_PREFIXES: return sizeof(struct kvd_row_prefix);
	}
	return 0;
}

/* Map the rows of an answer.  fd stays the caller's. */
static int query_map(struct kvd_connection *c, const struct kvd_msg_rows *rows, int fd,
		     uint32_t row_bytes_min, const void **ret_rows)
{
	struct stat file;
	uint64_t bytes;

	if (rows->row_bytes < row_bytes_min)
		return kvd_fail(
			c->error, KVD_S_VERSION,
			"kvd %s sends rows of %u bytes where we need %u; it is older than this program: "
			"upgrade it",
			c->welcome.kvd_version, rows->row_bytes, row_bytes_min);
	if (__builtin_mul_overflow(rows->n_rows, (uint64_t)rows->row_bytes, &bytes))
		return kvd_fail(c->error, KVD_S_PROTOCOL,
				"kvd announced more rows than memory can hold");
	if (bytes == 0) {
		*ret_rows = NULL;
		return 0;
	}
	if (fd < 0 || fstat(fd, &file) < 0 || file.st_size < 0 || (uint64_t)file.st_size < bytes)
		return kvd_fail(c->error, KVD_S_PROTOCOL,
				"kvd announced rows and sent no memory for them");
	void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return kvd_fail(c->error, -errno, "cannot map %llu bytes of rows: %s",
				(unsigned long long)bytes, strerror(errno));
	*ret_rows = map;
	return 0;
}

/* Ask, and if kvd dies meanwhile ask the next one: a question changes nothing. */
static int query_ask(struct kvd_connection *c, struct kvd_msg *query, struct kvd_waiter *waiter)
{
	uint64_t deadline_usec = kvd_clock_usec() + KVD_CALL_USEC;

	for (;;) {
		int r = kvd_connection_ready(c, deadline_usec);
		if (r == 0)
			r = kvd_connection_call(c, query, NULL, 0, waiter,
						kvd_clock_usec() + KVD_CALL_USEC);
		if (r == 0 || !kvd_connection_result_is_gone(r) || !kvd_connection_pause(deadline_usec))
			return r;
	}
}

int kvd_query(struct kvd_connection *c, enum kvd_query what, const char *argument,
	      const void **ret_rows, uint64_t *ret_n_rows, uint32_t *ret_row_bytes)
{
	struct kvd_msg_query query = { .m = { .type = KVD_M_QUERY, .size = sizeof(query) },
				       .what = what };
	struct kvd_waiter waiter = { .type = KVD_M_ROWS,
				     .n_fds_max = 1,
				     .min_bytes = sizeof(struct kvd_msg_rows) };
	const struct kvd_msg_rows *rows = (const struct kvd_msg_rows *)waiter.reply;
	uint32_t row_bytes_min = query_row_bytes(what);

	c->error[0] = '\0';
	if (row_bytes_min == 0)
		return kvd_fail(c->error, KVD_S_BAD_REQUEST,
				"there is no question %u; see kvd/admin.h", what);
	if (argument && strlen(argument) >= sizeof(query.argument))
		return kvd_fail(c->error, KVD_S_BAD_REQUEST,
				"the question's argument is longer than %zu bytes",
				sizeof(query.argument) - 1);
	if (argument)
		memcpy(query.argument, argument, strlen(argument));
	int r = query_ask(c, &query.m, &waiter);
	if (r != 0)
		return r;
	r = query_map(c, rows, waiter.fds[0], row_bytes_min, ret_rows);
	if (waiter.fds[0] >= 0)
		close(waiter.fds[0]);
	if (r == 0) {
		*ret_n_rows = rows->n_rows;
		*ret_row_bytes = rows->row_bytes;
	}
	return r;
}

void kvd_rows_free(const void *rows, uint64_t n_rows, uint32_t row_bytes)
{
	if (rows && n_rows > 0)
		munmap((void *)rows, n_rows * row_bytes);
}
