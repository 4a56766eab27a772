/* admin_query.c - see admin_query.h.  Adds to the core's rows what only the shell knows: processes,
 * counters of tokens, time.  Loop thread only.
 *
 * Who may read what: the daemon's uid, root and group kvadm everything; anybody else its own
 * tenant's rows, the health line of `status`, and of engines what is needed to ask for one. */
#include "kvd/admin_query.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kvd/admin_ask.h"
#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/peer.h"
#include "kvd/segment.h"

#define FSCK_ROWS_MAX 256u /* problems listed; more are counted in the last line */

static const uint32_t row_bytes[] = {
	[KVD_Q_STATUS] = sizeof(struct kvd_row_status),
	[KVD_Q_ENGINES] = sizeof(struct kvd_row_engine),
	[KVD_Q_TENANTS] = sizeof(struct kvd_row_tenant),
	[KVD_Q_SEQUENCES] = sizeof(struct kvd_row_sequence),
	[KVD_Q_PAGES] = sizeof(struct kvd_row_page),
	[KVD_Q_EXTENTS] = sizeof(struct kvd_row_extent),
	[KVD_Q_FSCK] = sizeof(struct kvd_row_fsck),
	[KVD_Q_SMAPS] = sizeof(struct kvd_row_smaps),
	[KVD_Q_PREFIXES] = sizeof(struct kvd_row_prefix),
	[KVD_Q_PSI] = sizeof(struct kvd_row_psi),
	[KVD_Q_PLAN] = sizeof(struct kvd_row_plan),
	[KVD_Q_EXPLAIN] = sizeof(struct kvd_row_plan),
	[KVD_Q_DRY_EVICT] = sizeof(struct kvd_row_plan),
	[KVD_Q_EVICTIONS] = sizeof(struct kvd_row_eviction),
	[KVD_Q_EVICTED] = sizeof(struct kvd_row_evicted),
	[KVD_Q_TRACE] = sizeof(struct kvd_row_trace),
	[KVD_Q_COST] = sizeof(struct kvd_row_cost),
};

/* ---- rows ---- */

static uint32_t fill_status(struct daemon *daemon, const struct peer *peer,
			    struct kvd_row_status *row)
{
	memset(row, 0, sizeof(*row));
	if (peer->admin) {
		core_read_status(daemon->core, clock_now_usec(), row);
		row->peers_closed = daemon->peers.n_closed;
		strcpy(row->device_bus, daemon->device.bus);
		strcpy(row->device_text, daemon->device.text);
	}
	row->uptime_usec = clock_now_usec() - daemon->ready_usec;
	row->kvd_pid = daemon->pid;
	row->adopted = daemon->adopted;
	/* Without the mover nothing comes free. */
	row->healthy = daemon->mover.source.slot != 0 && !daemon->watchdog.broken && !daemon->device_lost;
	strcpy(row->device, daemon->config->device);
	strcpy(row->version, KVD_VERSION);
	return 1;
}

static uint32_t fill_engines(struct daemon *daemon, const struct peer *peer, uint32_t *cursor,
			     struct kvd_row_engine *rows, uint32_t max)
{
	uint32_t n = core_read_engines(daemon->core, cursor, rows, max);

	for (uint32_t i = 0; i < n; i++) {
		struct kvd_row_engine *row = &rows[i];
		const struct attached *engine = row->engine < CORE_ENGINES_MAX
							? &daemon->engines[row->engine]
							: NULL;

		if (engine && engine->state != ATTACHED_FREE) {
			row->pid = engine->pid;
			row->uid = engine->uid;
			row->prompt_tokens = engine->stats.prompt_tokens;
			row->cached_tokens = engine->stats.cached_tokens;
			row->completion_tokens = engine->stats.completion_tokens;
			row->tokens_per_s = engine->stats.tokens_per_s;
			row->running = engine->stats.running;
			row->waiting = engine->stats.waiting;
		}
		if (!peer->admin) {
			struct kvd_row_engine own = { .engine = row->engine,
						      .state = row->state,
						      .kv_format = row->kv_format };

			memcpy(own.name, row->name, sizeof(own.name));
			memcpy(own.model, row->model, sizeof(own.model));
			memcpy(own.numerics, row->numerics, sizeof(own.numerics));
			*row = own;
		}
	}
	return n;
}

static uint32_t fill_tenants(struct daemon *daemon, uint32_t tenant, uint32_t *cursor,
			     struct kvd_row_tenant *rows, uint32_t max)
{
	uint32_t n = core_read_tenants(daemon->core, tenant, cursor, rows, max);

	for (uint32_t i = 0; i < n; i++) {
		uint32_t number = core_tenant_find(daemon->core, rows[i].name);
		const struct tenant_counters *counters;

		if (number >= LIMIT_TENANTS)
			continue;
		counters = &daemon->kept->counters[number];
		rows[i].prompt_tokens = counters->prompt_tokens;
		rows[i].cached_tokens = counters->cached_tokens;
		rows[i].completion_tokens = counters->completion_tokens;
	}
	return n;
}

struct fsck_list {
	struct kvd_row_fsck *rows;
	uint32_t n, max, beyond;
};

static void fsck_report(void *arg, const char *problem)
{
	struct fsck_list *list = arg;

	log_error("fsck.problem text=\"%s\"", problem);
	if (list->n == list->max) {
		list->beyond++;
		return;
	}
	memset(&list->rows[list->n], 0, sizeof(list->rows[0]));
	snprintf(list->rows[list->n++].problem, sizeof(list->rows[0].problem), "%s", problem);
}

static uint32_t fill_fsck(struct daemon *daemon, struct kvd_row_fsck *rows, uint32_t max)
{
	struct fsck_list list = { .rows = rows, .max = max < FSCK_ROWS_MAX ? max : FSCK_ROWS_MAX };
	uint64_t n_pages = 0;

	core_fsck(daemon->core, fsck_report, &list, &n_pages);
	if (list.beyond)
		snprintf(rows[list.n - 1].problem, sizeof(rows[0].problem), "and %u more",
			 list.beyond + 1);
	if (!list.n) {
		memset(rows, 0, sizeof(rows[0]));
		list.n = 1;
	}
	for (uint32_t i = 0; i < list.n; i++)
		rows[i].checked_pages = n_pages;
	return list.n;
}

/* Fill a slice.  Returns rows; fewer than there could be only at the end; *ret_end. */
static uint32_t fill(struct peer *peer, void *rows, uint32_t max, bool *ret_end)
{
	struct daemon *daemon = peer->daemon;
	struct peer_query *query = &peer->query;
	uint32_t tenant = peer->admin ? CORE_NONE : peer->tenant, n = 0;
	uint32_t before = query->cursor;
	uint64_t now_usec = clock_now_usec();

	*ret_end = true;
	switch (query->what) {
	case KVD_Q_STATUS: return fill_status(daemon, peer, rows);
	case KVD_Q_FSCK: return fill_fsck(daemon, rows, max);
	case KVD_Q_ENGINES: n = fill_engines(daemon, peer, &query->cursor, rows, max); break;
	case KVD_Q_TENANTS: n = fill_tenants(daemon, tenant, &query->cursor, rows, max); break;
	case KVD_Q_SEQUENCES:
		n = core_read_sequences(daemon->core, tenant, now_usec, &query->cursor, rows, max);
		break;
	case KVD_Q_PAGES:
		n = core_read_pages(daemon->core, tenant, now_usec, &query->cursor, rows, max);
		break;
	case KVD_Q_EXTENTS: n = core_read_extents(daemon->core, &query->cursor, rows, max); break;
	case KVD_Q_SMAPS: n = core_read_smaps(daemon->core, tenant, &query->cursor, rows, max); break;
	case KVD_Q_PREFIXES:
		n = core_read_prefixes(daemon->core, now_usec, &query->cursor, rows, max);
		*ret_end = n == 0 && query->cursor == before;
		return n;
	case KVD_Q_PSI: n = core_read_psi(daemon->core, tenant, now_usec, &query->cursor, rows, max); break;
	case KVD_Q_PLAN:
		n = core_read_plan(daemon->core, tenant, query->owner, now_usec, &query->cursor, rows, max);
		break;
	case KVD_Q_EXPLAIN:
		n = core_read_explain(daemon->core, tenant, (enum core_explain)query->kind, query->number, now_usec,
				      &query->cursor, rows, max);
		break;
	case KVD_Q_DRY_EVICT:
		n = core_read_evict(daemon->core, &query->evict, now_usec, &query->cursor, rows, max);
		break;
	case KVD_Q_EVICTIONS:
		n = core_read_evictions(daemon->core, tenant, now_usec, &query->cursor, rows, max);
		break;
	case KVD_Q_EVICTED:
		n = core_read_evicted(daemon->core, tenant, now_usec, &query->cursor, rows, max);
		break;
	case KVD_Q_TRACE: n = trace_read(daemon, &query->trace, now_usec, &query->cursor, rows, max); break;
	case KVD_Q_COST: n = cost_read(daemon, &query->cursor, rows, max); break;
	}
	*ret_end = n == 0;
	return n;
}

/* ---- the query's life ---- */

static void query_end(struct peer *peer)
{
	close(peer->query.fd);
	peer->query.active = false;
	/* What it sent meanwhile has waited. */
	loop_again(peer->daemon->loop, &peer->source);
}

static void query_fail(struct peer *peer, int error)
{
	peer_error(peer, peer->query.seq, KVD_S_INTERNAL, 0, 0, "rows cannot be written: %s",
		   strerror(error));
	query_end(peer);
}

static void query_answer(struct peer *peer)
{
	struct peer_query *query = &peer->query;
	struct kvd_msg_rows reply = {
		.m = { .type = KVD_M_ROWS, .size = sizeof(reply), .seq = query->seq },
		.what = query->what,
		.row_bytes = query->row_bytes,
		.n_rows = query->n_rows,
	};
	int fd = query->fd, seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

	if (fcntl(fd, F_ADD_SEALS, seals) < 0 || (fd = fcntl(query->fd, F_DUPFD_CLOEXEC, 0)) < 0) {
		query_fail(peer, errno);
		return;
	}
	peer_send(peer, &reply.m, &fd, 1, true);
	query_end(peer);
}

static bool write_all(int fd, const uint8_t *bytes, size_t n)
{
	while (n) {
		ssize_t done = write(fd, bytes, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		bytes += done;
		n -= (size_t)done;
	}
	return true;
}

static void query_slice(struct peer *peer)
{
	struct peer_query *query = &peer->query;
	uint8_t *rows = peer->daemon->rows;
	uint32_t max = LIMIT_ROWS_BYTES_PER_ROUND / query->row_bytes;
	bool end;
	uint32_t n = fill(peer, rows, max, &end);

	assert(n <= max);
	if (!write_all(query->fd, rows, (size_t)n * query->row_bytes)) {
		query_fail(peer, errno);
		return;
	}
	query->n_rows += n;
	if (end)
		query_answer(peer);
}

/* What depends on others, or shows them. */
static bool admin_only(uint32_t what)
{
	return what == KVD_Q_DRY_EVICT || what == KVD_Q_PLAN || what == KVD_Q_EVICTIONS ||
	       what == KVD_Q_EVICTED || what == KVD_Q_EXTENTS || what == KVD_Q_FSCK ||
	       what == KVD_Q_PREFIXES || what == KVD_Q_TRACE || what == KVD_Q_COST;
}

void admin_query(struct peer *peer, const struct kvd_msg_query *m)
{
	struct peer_query *query = &peer->query, asked = { .what = m->what };
	char why[ADMIN_ASK_WHY_MAX];
	int fd;

	if (m->what >= sizeof(row_bytes) / sizeof(row_bytes[0]) || !row_bytes[m->what]) {
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, 0, 0,
			   "question %u is not one this kvd knows; upgrade it", m->what);
		return;
	}
	if (!peer->admin && admin_only(m->what)) {
		peer_error(peer, m->m.seq, KVD_S_REFUSED, 0, 0,
			   "only root, the user of kvd and group kvadm may ask that");
		return;
	}
	if (!tenant_use_question(peer)) {
		peer_error(peer, m->m.seq, KVD_S_LIMIT, 0, 0,
			   "tenant %s asks too often; ten questions a second are answered", peer->tenant_name);
		return;
	}
	if (query->active) {
		/* Only an engine gets here: it is read even while a query runs. */
		peer_error(peer, m->m.seq, KVD_S_LIMIT, 2, 1,
			   "one question at a time on an engine's connection");
		return;
	}
	if (!admin_ask(peer->daemon, peer->admin ? CORE_NONE : peer->tenant, m->argument, &asked, why)) {
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, 0, 0, "%s", why);
		return;
	}
	fd = segment_memfd("kvd-rows", 0);
	if (fd < 0) {
		peer_error(peer, m->m.seq, KVD_S_INTERNAL, 0, 0, "rows cannot be made: %s",
			   strerror(-fd));
		return;
	}
	*query = asked;
	query->active = true;
	query->fd = fd;
	query->seq = m->m.seq;
	query->row_bytes = row_bytes[m->what];
	peer->daemon->queries_active = true;
}

bool admin_run(struct daemon *daemon)
{
	bool unfinished = false;

	if (!daemon->queries_active)
		return false;
	for (uint32_t i = 0; i < daemon->peers.n_high; i++) {
		struct peer *peer = &daemon->peers.table[i];

		if (peer->state != PEER_READY || !peer->query.active)
			continue;
		query_slice(peer);
		unfinished |= peer->state == PEER_READY && peer->query.active;
	}
	daemon->queries_active = unfinished;
	return unfinished;
}
