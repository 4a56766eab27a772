/* fuzz_book.c - a book that somebody has scribbled in: core_adopt() refuses it, or takes it and then lives.
 *
 * Input: groups of 12 bytes: [u32 where][u8 how][u8 seed][u16 -][u32 value].  A real book, made once by two
 * engines and two tenants (sequences running, sealed, shared, parked, retiring, jobs and actions outstanding), is
 * copied; each group changes one of its words: any word, or one of those in use.  If core_adopt() takes
 * it, core_fsck() is clean, and 100 events follow, made of the input's bytes as well: verbs with good and bad
 * numbers, mover answers, stamps, time, hang-ups, new engines.  Nothing may crash, hang or fail an assertion. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/core/book.h"
#include "kvd/core/core.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SLOTS = 4, PAGES = 8, TOKENS = PAGES * KVD_PAGE_TOKENS, ENGINES = 2, QUEUE = 4096, EVENTS = 100 };

struct shell {
	struct core *core;
	uint64_t now_usec, rng;
	uint32_t jobs[QUEUE], n_jobs, populates[QUEUE], n_populates;
	struct { uint32_t engine, extent, mapped; } acks[QUEUE];
	uint32_t n_acks;
	bool stamp;
};

static struct core_config config = {
	.pool_bytes = 4 << 20, .extent_bytes = 256 << 10, .page_bytes_min = 8192, .tenants_max = 8, .seqs_max = 16,
	.holds_max = 256, .hash_key = { 1, 2 }, .promise_usec = 100000, .shell_bytes = 64,
};
static uint8_t *master, *copy;
static size_t book_bytes;
static uint32_t *used_words, n_used_words;

static uint32_t dice(struct shell *s, uint32_t below)
{
	s->rng ^= s->rng << 13;
	s->rng ^= s->rng >> 7;
	s->rng ^= s->rng << 17;
	return (uint32_t)((s->rng >> 16) % below);
}

static void step(struct shell *s, const struct core_event *event)
{
	struct core_action a;

	core_step(s->core, event, s->now_usec);
	while (core_next_action(s->core, &a)) {
		if (a.type == CORE_ACT_MOVE && s->n_jobs < QUEUE)
			s->jobs[s->n_jobs++] = a.move.job;
		else if (a.type == CORE_ACT_POPULATE && s->n_populates < QUEUE)
			s->populates[s->n_populates++] = a.populate.extent;
		else if ((a.type == CORE_ACT_MAP || a.type == CORE_ACT_UNMAP) && s->n_acks < QUEUE) {
			s->acks[s->n_acks].engine = a.engine;
			s->acks[s->n_acks].extent = a.map.extent;
			s->acks[s->n_acks++].mapped = a.type == CORE_ACT_MAP;
		} else if (a.type == CORE_ACT_STAMP) {
			s->stamp = true;
		}
	}
}

static void tenant(struct shell *s, const char *name)
{
	struct core_event event = { .type = CORE_EV_TENANT, .engine = CORE_NONE };

	strcpy(event.tenant.name, name);
	strcpy(event.tenant.domain, name);
	event.tenant.sharing = CORE_MERGE;
	step(s, &event);
}

static void attach(struct shell *s, const char *name)
{
	struct core_event event = { .type = CORE_EV_ATTACH, .engine = CORE_NONE };

	strcpy(event.attach.name, name);
	strcpy(event.attach.model, "m");
	strcpy(event.attach.numerics, "n");
	event.attach.layout = event.attach.kv_format = 1;
	event.attach.n_planes = 4;
	event.attach.block_bytes = 4096;
	event.attach.max_seqs = SLOTS;
	event.attach.max_pages = PAGES;
	step(s, &event);
}

static void submit(struct shell *s, uint32_t engine, const struct kvd_sqe *sqe, uint32_t tenant_number)
{
	static int32_t tokens[TOKENS];
	struct core_event event = { .type = CORE_EV_SUBMIT, .engine = engine };
	uint32_t story = dice(s, 3), n = 0;

	for (uint32_t i = 0; i < TOKENS; i++)
		tokens[i] = (int32_t)(i < 48 ? i : i * 7 + story);
	event.submit.sqe = *sqe;
	event.submit.tenant = tenant_number;
	if (sqe->verb == KVD_SEQ_OPEN || sqe->verb == KVD_SEQ_RESUME)
		n = sqe->n_tokens <= TOKENS ? sqe->n_tokens : 0;
	event.submit.tokens = tokens;
	if (sqe->verb == KVD_SEQ_SEAL && sqe->page < PAGES && sqe->count <= PAGES - sqe->page) {
		event.submit.tokens = tokens + sqe->page * KVD_PAGE_TOKENS;
		n = sqe->count * KVD_PAGE_TOKENS;
	}
	event.submit.n_tokens = n;
	step(s, &event);
}

static void epoch(struct shell *s, enum core_event_type type, uint64_t begun, uint64_t done)
{
	struct core_event event = { .type = type, .engine = CORE_NONE };

	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		event.epoch.begun[i] = i < ENGINES ? begun : 0;
		event.epoch.done[i] = i < ENGINES ? done : UINT64_MAX;
	}
	step(s, &event);
}

static void any_verb(struct shell *s)
{
	struct kvd_sqe sqe = { .verb = (uint16_t)(1 + dice(s, 8)), .slot = dice(s, SLOTS + 1) };
	uint32_t shape = dice(s, 4);

	sqe.flags = dice(s, 4) == 0 ? (uint16_t)dice(s, 4) : sqe.verb == KVD_SEQ_GROW;
	sqe.n_tokens = shape ? 1 + dice(s, TOKENS) : dice(s, 2) ? 0 : UINT32_MAX - dice(s, 3);
	sqe.page = dice(s, PAGES + 1);
	sqe.count = dice(s, 4);
	sqe.want = dice(s, PAGES + 2);
	sqe.other = dice(s, SLOTS + 1);
	submit(s, dice(s, ENGINES), &sqe, dice(s, 2));
}

static void answer_one(struct shell *s)
{
	struct core_event event = { .type = CORE_EV_MOVED, .engine = CORE_NONE };

	if (s->stamp && dice(s, 2)) {
		s->stamp = false;
		epoch(s, CORE_EV_STAMP, 5, dice(s, 2) ? 5 : 4);
	} else if (s->n_acks && dice(s, 2)) {
		uint32_t i = --s->n_acks;
		struct kvd_sqe sqe = { .verb = KVD_EXTENT_ACK, .other = s->acks[i].extent, .count = s->acks[i].mapped };

		submit(s, s->acks[i].engine, &sqe, CORE_NONE);
	} else if (s->n_populates) {
		event.type = CORE_EV_POPULATED;
		event.populated.extent = s->populates[--s->n_populates];
		step(s, &event);
	} else if (s->n_jobs) {
		event.moved.job = s->jobs[--s->n_jobs];
		event.moved.ok = dice(s, 8) != 0;
		event.moved.differs = dice(s, 16) == 0;
		step(s, &event);
	}
}

static void any_event(struct shell *s)
{
	struct core_event event = { .type = CORE_EV_TICK, .engine = CORE_NONE };

	s->now_usec += 1 + dice(s, 20000);
	switch (dice(s, 16)) {
	case 0: step(s, &event); break;
	case 1: epoch(s, CORE_EV_DONE, 0, 5); break;
	case 2:
		event.type = dice(s, 8) ? CORE_EV_DRAIN : dice(s, 2) ? CORE_EV_HANGUP : CORE_EV_QUIET;
		event.engine = dice(s, ENGINES);
		step(s, &event);
		break;
	case 3: attach(s, dice(s, 2) ? "a" : "b"); break;
	case 4: case 5: case 6: case 7: case 8: answer_one(s); break;
	default: any_verb(s); break;
	}
}

/* The book that every input starts from. */
static void make_master(void)
{
	struct shell s = { .rng = 88172645463325252u, .now_usec = 1000 };

	book_bytes = core_book_bytes(&config);
	master = calloc(1, book_bytes);
	copy = malloc(book_bytes);
	s.core = core_init(master, &config);
	assert(s.core);
	tenant(&s, "red");
	tenant(&s, "blue");
	attach(&s, "a");
	attach(&s, "b");
	for (int i = 0; i < 200; i++) {
		answer_one(&s);
		if (i % 8 == 0)
			step(&s, &(struct core_event){ .type = CORE_EV_TICK, .engine = CORE_NONE });
	}
	for (int i = 0; i < 1500; i++) {
		uint32_t kind = dice(&s, 8);

		if (kind < 4)
			any_verb(&s);
		else
			answer_one(&s);
		if (kind == 7)
			epoch(&s, CORE_EV_DONE, 0, 5);
		s.now_usec += 50;
	}
	assert(core_fsck(s.core, NULL, NULL, NULL) == 0);
	used_words = malloc(book_bytes / 2);
	for (size_t i = 0; i < book_bytes / 4; i++)
		if (((uint32_t *)master)[i])
			used_words[n_used_words++] = (uint32_t)i;
}

static void scribble(const uint8_t *group)
{
	uint32_t where, value, at, *word;

	memcpy(&where, group, 4);
	memcpy(&value, group + 8, 4);
	at = group[4] & 1 ? where % (uint32_t)(book_bytes / 4) : used_words[where % n_used_words];
	word = (uint32_t *)copy + at;
	switch (group[4] >> 1 & 7) {
	case 0: *word = value; break;
	case 1: *word ^= 1u << value % 32; break;
	case 2: *word += 1; break;
	case 3: *word -= 1; break;
	case 4: *word = 0; break;
	case 5: *word = UINT32_MAX; break;
	case 6: *word = value % 64; break;
	case 7: *word = ((uint32_t *)copy)[used_words[value % n_used_words]]; break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct shell s = { .now_usec = 10000000, .rng = 0x9e3779b97f4a7c15u };
	char why[CORE_WHY_MAX];

	if (!master)
		make_master();
	memcpy(copy, master, book_bytes);
	for (size_t i = 0; i + 12 <= size && i < 12 * 16; i += 12) {
		scribble(data + i);
		s.rng = (s.rng ^ data[i + 5]) * 0x2545f4914f6cdd1du | 1;
	}
	s.core = core_adopt(copy, book_bytes, &config, why);
	if (!s.core) {
		assert(why[0]);
		return 0;
	}
	assert(core_fsck(s.core, NULL, NULL, NULL) == 0);
	for (uint32_t cursor = 0, job; s.n_jobs < QUEUE && core_job_in_flight(s.core, &cursor, &job);)
		s.jobs[s.n_jobs++] = job;
	s.stamp = core_stamp_pending(s.core);
	for (int i = 0; i < EVENTS; i++)
		any_event(&s);
	return 0;
}
