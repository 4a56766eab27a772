/* engine_adopt.c - kvd has died and another has taken over its books and this connection.
 *
 * The submission segment stays, the rings' indexes go on; only the completion segment, which nobody may
 * write any more, is replaced.  The switch happens inside kvd_engine_poll(), so between two steps; after
 * it the generation is stored, and from that moment the new kvd counts our steps.  Nothing that the
 * message says is believed before it is checked against what we were told when we attached.
 *
 * The engine's thread; never waits. */
#include "client/engine.h"

#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

void kvd_engine_process_watch(struct kvd_engine *e, uint32_t pid)
{
	if (e->process >= 0)
		close(e->process);
	/* It has spoken a moment ago, so the number is still its own, unless it counts processes in
	 * another namespace; then we watch a stranger or nobody.  It only decides what is logged. */
	e->process = pid > 0 ? (int)syscall(SYS_pidfd_open, (pid_t)pid, 0) : -1;
}

bool kvd_engine_kvd_ended(const struct kvd_engine *e)
{
	struct pollfd process = { .fd = e->process, .events = POLLIN };

	return e->process >= 0 && poll(&process, 1, 0) > 0;
}

/* Is it about this attachment?  Everything but the completion segment must be as it was. */
static int adopt_check(struct kvd_engine *e, const struct kvd_msg_adopted *m)
{
	const struct kvd_msg_attached *a = &e->attached;

	if (m->engine == a->engine && m->sq_entries == a->sq_entries && m->n_frames == a->n_frames &&
	    m->sub_bytes == a->sub_bytes && m->sqe_offset == a->sqe_offset &&
	    m->tokens_offset == a->tokens_offset)
		return 0;
	return kvd_fail(e->error, -EPROTO,
			"a kvd took over engine %u and remembers another attachment (engine %u, %u "
			"submissions, %u frames an extent)",
			a->engine, m->engine, m->sq_entries, m->n_frames);
}

static int adopt_switch(struct kvd_engine *e, const struct kvd_msg_adopted *m, int comp_fd)
{
	static const uint8_t doorbell = 0;
	int r = adopt_check(e, m);

	if (r == 0)
		r = kvd_engine_segments_switch(e, m, comp_fd);
	if (r < 0)
		return r;
	__atomic_store_n(&e->sub->comp_generation, m->generation, __ATOMIC_RELEASE);
	e->connection->welcome.kvd_pid = m->kvd_pid;
	kvd_engine_process_watch(e, m->kvd_pid);
	/* It waits for the switch.  A full socket wakes it as well; a closed one is found by receiving. */
	(void)kvd_packet_send(e->connection->fd, &doorbell, sizeof(doorbell), NULL, 0);
	return 0;
}

int kvd_engine_adopt(struct kvd_engine *e, const struct kvd_msg_adopted *m, struct kvd_packet *packet)
{
	int fd = packet->n_fds == 1 ? kvd_packet_take_fd(packet, 0) : -1;

	if (fd < 0)
		return kvd_fail(e->error, -EPROTO,
				"a kvd took over and sent %u descriptors instead of a completion segment",
				packet->n_fds);
	if (!e->sub) {
		/* It came in one go with ATTACHED, whose segments are mapped in a moment. */
		if (e->early_fd >= 0)
			close(e->early_fd);
		e->early = *m;
		e->early_fd = fd;
		return 0;
	}
	int r = adopt_switch(e, m, fd);
	close(fd);
	return r;
}

int kvd_engine_adopt_early(struct kvd_engine *e)
{
	if (e->early_fd < 0)
		return 0;
	int r = adopt_switch(e, &e->early, e->early_fd);
	close(e->early_fd);
	e->early_fd = -1;
	return r;
}
