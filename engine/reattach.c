/* reattach.c - an engine outlives its kvd.
 *
 *   attached -> lost      [reattach_lose]   the control socket hung up, or kvd broke the protocol
 *   lost     -> attached  [reattach_turn]   a kvd took us; clients are asked to name themselves to it
 *   attached, kvd dead    [look_at_kvd]     the socket is held by a keeper: a kvd that takes over finds
 *                                           us as we are (libkvd does all of it); we only watch the time
 *
 * Lost, the engine has no pages: window, rings and rows of the old kvd are unmapped at once, so that their
 * memory is free for the next one.  What it keeps is what no kvd owns: the model, the sockets to the clients
 * and, in every session, all tokens so far.  From these each sequence is computed again at the next kvd, and by
 * decision 0001 to the same bytes.  While nobody answers it goes on trying.  After a minute it says so and closes
 * the streams without END: another engine may be better off, and nobody waits for ever.
 *
 * The engine's thread, between two steps; never waits. */
#include "engine/engine.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include "engine/log.h"

#define BACKOFF_USEC_MIN 20000u
#define BACKOFF_USEC_MAX 200000u   /* a new kvd's clients wait that long at most for their engine */
#define STEADY_USEC 10000000u      /* an attachment that lasted so long was sound: no back-off is due */
#define ADVANCE_USEC 10000u        /* a try is under way: look for kvd's answer */
#define COMPLAIN_USEC 60000000u    /* as a keeper waits for a kvd */
#define COMPLAIN_AGAIN_USEC 600000000u
#define LOOK_USEC 1000000u
#define TAG_KVD_FIRST (UINT64_C(1) << 40)  /* above all that serve.c will ever count to */

int reattach_watch(struct engine *e)
{
	int r;

	if (kvd_engine_fd(e->kvd) < 0)
		return 0;          /* lost again already: the next poll says so */
	/* A copy of our own: libkvd closes its socket when it breaks, and a number that is closed may be
	 * another's before it is taken off the watch. */
	e->kvd_fd = fcntl(kvd_engine_fd(e->kvd), F_DUPFD_CLOEXEC, 0);
	if (e->kvd_fd < 0)
		return -errno;
	e->kvd_tag = e->kvd_tag ? e->kvd_tag + 1 : TAG_KVD_FIRST;
	r = wait_add(e->wait, e->kvd_fd, e->kvd_tag);
	if (r == 0)
		return 0;
	close(e->kvd_fd);
	e->kvd_fd = -1;
	return r;
}

void reattach_unwatch(struct engine *e)
{
	if (e->kvd_fd < 0)
		return;
	wait_remove(e->wait, e->kvd_fd, e->kvd_tag);
	close(e->kvd_fd);
	e->kvd_fd = -1;
}

static const char *reason(const struct engine *e, int r)
{
	const char *text = kvd_engine_error(e->kvd);

	return text[0] ? text : strerror(r < 0 ? -r : EPROTO);
}

/* The try has failed, or there was none yet. */
static void try_later(struct engine *e, uint64_t now_usec)
{
	struct reattach *a = &e->reattach;

	a->next_try_usec = now_usec + a->backoff_usec;
	a->backoff_usec = 2 * a->backoff_usec < BACKOFF_USEC_MAX ? 2 * a->backoff_usec : BACKOFF_USEC_MAX;
}

void reattach_lose(struct engine *e, int why, uint64_t now_usec)
{
	struct reattach *a = &e->reattach;
	struct kvd_engine_client client;

	/* Its last words may be clients: they have a stream to us as all the others have. */
	while (kvd_engine_next_client(e->kvd, &client))
		serve_accept(&e->serve, &client, now_usec);
	if (why == -ENODEV) {              /* no extent can be mapped any more: no kvd can help */
		log_error("the device is lost: %s", reason(e, why));
		e->device_lost = true;
		return;
	}
	log_warning("kvd lost, attaching again streams=%u reason=\"%s\"", e->serve.n_active, reason(e, why));
	a->lost = true;
	a->refusal = 0;
	a->lost_usec = now_usec;
	a->complain_usec = now_usec + COMPLAIN_USEC;
	a->ended_usec = 0;
	if (!a->backoff_usec || now_usec - a->attached_usec > STEADY_USEC)
		a->backoff_usec = BACKOFF_USEC_MIN;
	reattach_unwatch(e);
	kvlink_lost(&e->link);
	serve_lost(&e->serve);
	e->kv.base = NULL;
	/* Its first call gives everything up; a kvd that is there already may even answer. */
	if (kvd_engine_reattach(e->kvd) == -EAGAIN)
		a->next_try_usec = now_usec;
	else
		try_later(e, now_usec);
}

static void attached(struct engine *e, uint64_t now_usec)
{
	struct reattach *a = &e->reattach;

	if (reattach_watch(e) != 0) {      /* out of descriptors: some are free when streams end */
		log_error("kvd's socket cannot be watched; raise LimitNOFILE=");
		reattach_lose(e, -EMFILE, now_usec);
		return;
	}
	a->lost = false;
	a->attached_usec = now_usec;
	a->kvd_pid = kvd_engine_welcome(e->kvd)->kvd_pid;
	e->running_sent = UINT32_MAX;      /* so that the new kvd hears our numbers */
	engine_take_geometry(e);
	engine_offer_weights(e);
	if (e->draining && !e->drain_usec)         /* the old kvd wished it, and this one has not */
		e->draining = e->link.draining = e->serve.draining = false;
	log_info("attached again kvd_pid=%u number=%u streams=%u usec=%llu", a->kvd_pid,
		 kvd_engine_number(e->kvd), e->serve.n_active, (unsigned long long)(now_usec - a->lost_usec));
	serve_attached(&e->serve, now_usec);
}

static void try_attach(struct engine *e, uint64_t now_usec)
{
	struct reattach *a = &e->reattach;
	int r;

	if (now_usec < a->next_try_usec)
		return;
	r = kvd_engine_reattach(e->kvd);
	if (r == 0) {
		attached(e, now_usec);
		return;
	}
	if (r == -EAGAIN) {
		a->next_try_usec = now_usec + ADVANCE_USEC;
		return;
	}
	try_later(e, now_usec);
	if (r > 0 && r != a->refusal)              /* it is there and does not want us: worth knowing at once */
		log_warning("kvd refuses this engine reason=\"%s\"; still trying", reason(e, r));
	a->refusal = r > 0 ? r : a->refusal;
	if (now_usec >= a->complain_usec) {
		log_error("no kvd takes this engine since seconds=%llu streams=%u reason=\"%s\"; still trying",
			  (unsigned long long)((now_usec - a->lost_usec) / 1000000u), e->serve.n_active,
			  reason(e, r));
		a->complain_usec = now_usec + COMPLAIN_AGAIN_USEC;
		serve_give_up(&e->serve, "no kvd for a minute");
	}
}

/* Attached: has another kvd taken over, or has ours died and nobody has yet? */
static void look_at_kvd(struct engine *e, uint64_t now_usec)
{
	struct reattach *a = &e->reattach;
	uint32_t pid = kvd_engine_welcome(e->kvd)->kvd_pid;

	if (pid != a->kvd_pid) {
		log_info("adopted by kvd_pid=%u before=%u", pid, a->kvd_pid);
		a->kvd_pid = pid;
		a->ended_usec = 0;
		kvlink_adopted(&e->link, now_usec);
	}
	if (now_usec < a->look_usec)
		return;
	a->look_usec = now_usec + LOOK_USEC;
	if (!kvd_engine_kvd_ended(e->kvd))
		return;
	if (!a->ended_usec) {
		log_warning("kvd has ended, waiting for another to take over kvd_pid=%u streams=%u", pid,
			    e->serve.n_active);
		a->ended_usec = now_usec;
		a->complain_usec = now_usec + COMPLAIN_USEC;
		e->link.patient = true;
	} else if (now_usec >= a->complain_usec) {
		log_error("kvd ended and no other has taken over since seconds=%llu streams=%u; start kvd, or "
			  "end what keeps its sockets",
			  (unsigned long long)((now_usec - a->ended_usec) / 1000000u), e->serve.n_active);
		a->complain_usec = now_usec + COMPLAIN_AGAIN_USEC;
	}
}

bool reattach_turn(struct engine *e, uint64_t now_usec)
{
	if (e->reattach.lost)
		try_attach(e, now_usec);
	else
		look_at_kvd(e, now_usec);
	return e->reattach.lost;
}

uint64_t reattach_next_usec(const struct engine *e)
{
	/* Attached and idle, a dead kvd matters to nobody; with streams engine.c wakes once a second. */
	return e->reattach.lost ? e->reattach.next_try_usec : UINT64_MAX;
}
