/* doorbell.c - see doorbell.h.
 *
 * No wake-up is lost: who publishes stores its index, full fence, reads the other's flag; who sleeps stores its flag,
 * full fence, reads the index again (ring.c, client/engine_ring.c, tests/models/ring.pml).  A word: the kernel
 * compares it with the value that we have seen when it begins to wait, under the lock that FUTEX_WAKE takes. One
 * that is under way stays, however often we wake up for something else.
 *
 * A byte does wherever a word does: kvd watches every socket in any case, and an engine that knows no words sends
 * one.  Which word may be watched is up to its only writer: sq_tail is the engine's, cq_tail ours.
 *
 * Loop thread only. */
#include "kvd/doorbell.h"

#include "kvd/clock.h"
#include "kvd/daemon.h"

static bool is_live(const struct attached *engine)
{
	return engine->state == ATTACHED_LIVE && engine->peer->state == PEER_READY;
}

void doorbell_ring(struct daemon *daemon)
{
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		struct attached *engine = &daemon->engines[i];
		uint32_t bell = engine->state == ATTACHED_LIVE ? ring_wants_doorbell(&engine->ring) : KVD_BELL_NONE;

		if (bell == KVD_BELL_NONE || (bell == KVD_BELL_FUTEX && ring_wake_engine(&engine->ring)))
			continue;
		peer_doorbell(engine->peer);
	}
}

/* The word was woken: the round that follows looks at the ring. */
static void word_ready(struct loop_source *source, uint32_t events)
{
	(void)source;
	(void)events;
}

static uint32_t bell_of(struct attached *engine)
{
	struct loop *loop = engine->daemon->loop;

	if (!loop_has_words(loop))
		return KVD_BELL_BYTE;
	if (engine->bell.slot)
		return KVD_BELL_FUTEX;
	engine->bell = (struct loop_source){ .ready = word_ready };
	return loop_add_word(loop, &engine->bell) == 0 ? KVD_BELL_FUTEX : KVD_BELL_BYTE;
}

bool doorbell_sleep(struct daemon *daemon)
{
	bool idle = true;

	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++) {
		struct attached *engine = &daemon->engines[i];
		const uint32_t *word;
		uint32_t bell, value;

		if (!is_live(engine))
			continue;
		bell = bell_of(engine);
		if (ring_sleep(&engine->ring, bell)) {
			idle = false;
		} else if (bell == KVD_BELL_FUTEX) {
			word = ring_bell_word(&engine->ring, &value);
			loop_wait_word(daemon->loop, &engine->bell, word, value);
		}
	}
	return idle;
}

void doorbell_wake(struct daemon *daemon)
{
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (daemon->engines[i].state == ATTACHED_LIVE)
			ring_wake(&daemon->engines[i].ring);
}

bool doorbell_spin(struct daemon *daemon, uint64_t deadline_usec)
{
	uint64_t now_usec = clock_now_usec(), end_usec = now_usec + daemon->config->spin_usec;
	const struct attached *engines[CORE_ENGINES_MAX];
	uint32_t n = 0;

	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (is_live(&daemon->engines[i]))
			engines[n++] = &daemon->engines[i];
	if (!n)
		return false;              /* nobody submits */
	if (end_usec > deadline_usec)
		end_usec = deadline_usec;
	for (; now_usec < end_usec; now_usec = clock_now_usec()) {
		/* The time is asked for seldom, the rings and the loop's queue always. */
		for (uint32_t tries = 0; tries < 64; tries++) {
			for (uint32_t i = 0; i < n; i++)
				if (ring_waiting(&engines[i]->ring) != 0)
					return true;
			if (loop_pending(daemon->loop))
				return true;
			__builtin_ia32_pause();
		}
	}
	return false;
}

void doorbell_forget(struct attached *engine)
{
	loop_remove(engine->daemon->loop, &engine->bell);
}
