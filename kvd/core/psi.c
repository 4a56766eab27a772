/* psi.c - pressure-stall information, of each tenant and of the whole pool.
 *
 * A sequence is stalled while it waits for memory: in the queue, for frames, for a page on disk.  It is not while
 * it waits for another's promise, for a copy, or for its own tenant's limits (that is throttling).
 *   some   at least one sequence is stalled
 *   full   some, and none runs that is not stalled
 * total adds up the time in each state; avg10, avg60 and avg300 are its share of time, decaying exponentially in
 * periods of two seconds as the kernel's do (its documentation of PSI is the definition).  Nothing ticks: a state
 * holds from one event to the next, so whatever time went by is accounted at once, a million idle periods as well
 * as one, by powers of the decay.
 *
 * What changes a count marks its tenant (DIRTY_STALL); the state is that at the end of the event.  Triggers watch
 * for a stall of threshold within a window; they look when a state changes and when one may come true. */
#include "kvd/core/parts.h"

#define PERIOD_USEC 2000000u
#define ONE (1u << PSI_SHIFT)
#define DECAY_SHIFT 30

/* exp(-2 s / 10 s), exp(-2 s / 60 s), exp(-2 s / 300 s) in 2^-30 */
static const uint32_t decay[PSI_AVGS] = { 879105452, 1038540380, 1066607353 };

static uint64_t power(uint64_t base, uint64_t n)
{
	uint64_t result = 1ull << DECAY_SHIFT;
	for (; n; n >>= 1) {
		if (n & 1)
			result = result * base >> DECAY_SHIFT;
		base = base * base >> DECAY_SHIFT;
	}
	return result;
}

/* n periods in each of which the share of time was `share`. */
static void averages(uint32_t avg[PSI_AVGS], uint32_t share, uint64_t n)
{
	for (uint32_t i = 0; n && i < PSI_AVGS; i++) {
		uint64_t left = power(decay[i], n);
		avg[i] = avg[i] >= share ? share + (uint32_t)((avg[i] - share) * left >> DECAY_SHIFT)
					 : share - (uint32_t)((share - avg[i]) * left >> DECAY_SHIFT);
	}
}

static uint32_t share_of_period(uint64_t usec)
{
	return (uint32_t)(usec * ONE / PERIOD_USEC);
}

/* Pure: the same, `now_usec`; its state has not changed meanwhile. */
struct psi psi_advanced(const struct psi *from, uint64_t now_usec)
{
	struct psi p = *from;
	if (now_usec <= p.since_usec)
		return p;
	uint64_t spent = now_usec - p.since_usec, in_period = p.since_usec - p.period_usec;
	p.some_total_usec += p.some ? spent : 0;
	p.full_total_usec += p.full ? spent : 0;
	p.since_usec = now_usec;
	uint64_t rest = PERIOD_USEC - in_period;       /* of the period that had begun */
	uint64_t first = spent < rest ? spent : rest;
	p.some_usec += p.some ? first : 0;
	p.full_usec += p.full ? first : 0;
	if (spent < rest)
		return p;
	averages(p.some_avg, share_of_period(p.some_usec), 1);
	averages(p.full_avg, share_of_period(p.full_usec), 1);
	uint64_t whole = (spent - rest) / PERIOD_USEC, last = (spent - rest) % PERIOD_USEC;
	averages(p.some_avg, p.some ? ONE : 0, whole);
	averages(p.full_avg, p.full ? ONE : 0, whole);
	p.some_usec = p.some ? last : 0;
	p.full_usec = p.full ? last : 0;
	p.period_usec = now_usec - last;
	return p;
}

static bool psi_set(const struct core *c, const struct psi *p, bool some, bool full)
{
	if (p->some == some && p->full == full)
		return false;
	struct psi next = psi_advanced(p, c->now_usec);
	next.some = some;
	next.full = full;
	SET(*p, next);
	return true;
}

/* ---- who is stalled ---- */

/* Whatever the sequence waits for has changed. */
void stall_changed(const struct core *c, uint32_t seq)
{
	const struct seq *s = seq_at(c, seq);
	const struct tenant *t = tenant_at(c, s->tenant);
	bool stalled = (s->wait == WAIT_QUEUE && !s->throttled) || s->wait == WAIT_MEMORY || s->wait == WAIT_FETCH;
	uint8_t want = !stalled ? STALL_NONE : s->state == SEQ_RUNNING ? STALL_RUNNING : STALL_WAITING;
	if (want == s->stall)
		return;
	int all = (want != STALL_NONE) - (s->stall != STALL_NONE);
	int running = (want == STALL_RUNNING) - (s->stall == STALL_RUNNING);
	if (all) {
		ADD(t->stalled, all);
		ADD(c->stalled, all);
	}
	if (running) {
		ADD(t->stalled_running, running);
		ADD(c->stalled_running, running);
	}
	SET(s->stall, want);
	tenant_mark(c, s->tenant, DIRTY_STALL);
}

/* The tenant's number of running sequences has changed. */
void stall_running_changed(const struct core *c, uint32_t tenant)
{
	if (tenant_at(c, tenant)->stalled || tenant_at(c, tenant)->psi.some)
		tenant_mark(c, tenant, DIRTY_STALL);
}

bool psi_update_tenant(const struct core *c, uint32_t tenant)
{
	const struct tenant *t = tenant_at(c, tenant);
	return psi_set(c, &t->psi, t->stalled, t->stalled && t->running.count == t->stalled_running);
}

/* ---- triggers ---- */

void trigger_set(const struct core *c, const struct core_event *event)
{
	uint32_t tenant = event->trigger.tenant;
	uint64_t window = event->trigger.window_usec, threshold = event->trigger.threshold_usec;
	if (event->trigger.number >= CORE_TRIGGERS_MAX)
		return;
	const struct trigger *t = &c->triggers[event->trigger.number];
	if (!threshold) {
		if (t->window_usec)
			ADD(c->n_triggers, -1);
		SET_ZERO(t);
		return;
	}
	if ((tenant != CORE_NONE && tenant >= c->n_tenants) || window < CORE_WINDOW_MIN_USEC ||
	    window > CORE_WINDOW_MAX_USEC || threshold > window)
		return;
	struct psi p = psi_advanced(tenant == CORE_NONE ? &c->psi : &tenant_at(c, tenant)->psi, c->now_usec);
	if (!t->window_usec)
		ADD(c->n_triggers, 1);
	SET(*t, ((struct trigger){ .tenant = tenant, .full = event->trigger.full, .threshold_usec = threshold,
		.window_usec = window, .begun_usec = c->now_usec,
		.total_usec = event->trigger.full ? p.full_total_usec : p.some_total_usec }));
	SET(c->trigger_usec, c->now_usec);
}

/* Look at one trigger; returns when to look again if the state stays as it is. */
static uint64_t trigger_look(const struct core *c, uint32_t number)
{
	const struct trigger *t = &c->triggers[number];
	struct psi p = psi_advanced(t->tenant == CORE_NONE ? &c->psi : &tenant_at(c, t->tenant)->psi, c->now_usec);
	uint64_t total = t->full ? p.full_total_usec : p.some_total_usec;
	uint64_t elapsed = c->now_usec - t->begun_usec, grown = total - t->total_usec;
	bool active = t->full ? p.full : p.some;
	if (elapsed >= t->window_usec) {             /* a new window; of the last one its rate is known */
		SET(t->before_usec, grown * t->window_usec / elapsed);
		SET(t->begun_usec, c->now_usec);
		SET(t->total_usec, total);
		elapsed = grown = 0;
	}
	grown += t->before_usec * (t->window_usec - elapsed) / t->window_usec;
	bool rests = t->fired_usec && c->now_usec - t->fired_usec < t->window_usec;
	if (grown >= t->threshold_usec && !rests) {
		act_pressure(c, number);
		SET(t->fired_usec, c->now_usec);
		rests = true;
	}
	if (!active)
		return UINT64_MAX;
	if (rests)
		return t->fired_usec + t->window_usec;
	/* Growing by at most one microsecond each, it comes true no sooner than this. */
	uint64_t missing = t->threshold_usec - grown;
	return c->now_usec + (missing > t->window_usec / 20 ? missing : t->window_usec / 20);
}

/* At the end of the event: the pool's state, and whether a trigger has come true. */
void psi_pump(const struct core *c, bool changed)
{
	changed |= psi_set(c, &c->psi, c->stalled, c->stalled && c->running.count == c->stalled_running);
	if (!c->n_triggers || (!changed && c->trigger_usec > c->now_usec))
		return;
	uint64_t next_usec = UINT64_MAX;
	for (uint32_t i = 0; i < CORE_TRIGGERS_MAX; i++) {
		uint64_t at = c->triggers[i].window_usec ? trigger_look(c, i) : UINT64_MAX;
		next_usec = at < next_usec ? at : next_usec;
	}
	SET(c->trigger_usec, next_usec);
}

uint64_t psi_tick_usec(const struct core *c)
{
	return c->n_triggers ? c->trigger_usec : UINT64_MAX;
}

/* ---- rows ---- */

static uint32_t hundredths(uint32_t avg)
{
	return (uint32_t)(((uint64_t)avg * 10000 + ONE / 2) >> PSI_SHIFT);
}

void psi_read(const struct psi *from, uint64_t now_usec, struct kvd_row_psi *row)
{
	struct psi p = psi_advanced(from, now_usec);
	row->some_total_usec = p.some_total_usec;
	row->full_total_usec = p.full_total_usec;
	row->some_avg10 = hundredths(p.some_avg[0]);
	row->some_avg60 = hundredths(p.some_avg[1]);
	row->some_avg300 = hundredths(p.some_avg[2]);
	row->full_avg10 = hundredths(p.full_avg[0]);
	row->full_avg60 = hundredths(p.full_avg[1]);
	row->full_avg300 = hundredths(p.full_avg[2]);
}

/* cursor: 0 the pool, then tenant + 1 */
uint32_t core_read_psi(const struct core *c, uint32_t tenant, uint64_t now_usec, uint32_t *cursor,
		       struct kvd_row_psi *ret, uint32_t max)
{
	uint32_t n = 0, end = c->n_tenants + 1;
	if (tenant != CORE_NONE) {
		if (*cursor < tenant + 1)
			*cursor = tenant + 1;
		end = tenant < c->n_tenants ? tenant + 2 : 0;
	}
	for (; *cursor < end && n < max; ++*cursor) {
		struct kvd_row_psi *row = &ret[n++];
		const struct tenant *t = *cursor ? tenant_at(c, *cursor - 1) : NULL;
		memset(row, 0, sizeof(*row));
		if (t)
			memcpy(row->tenant, t->name, KVD_NAME_MAX);
		psi_read(t ? &t->psi : &c->psi, now_usec, row);
		row->stalled = t ? t->stalled : c->stalled;
		row->running = t ? t->running.count - t->stalled_running : c->running.count - c->stalled_running;
	}
	return n;
}
