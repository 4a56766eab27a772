/* adopt_engine.c - one engine of a killed kvd: its socket, segments and process.
 *
 * The submission segment is gone on with as it is.  The completion segment is frozen (nobody can map
 * it for writing again, shm.h): a fresh one goes on at the same indexes, with the completions that the
 * engine may not have seen.  Its name and inode are in the book before anything is published in it, so
 * that a second kill finds those completions there. */
#include "kvd/adopt.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvd/clock.h"
#include "kvd/daemon.h"
#include "kvd/process.h"
#include "kvd/vmm.h"

struct pieces { int control, sub, comp; };

static int take(struct daemon *daemon, const char *name, uint64_t inode)
{
	int fd = bundle_take(daemon->bundle, name);

	if (fd >= 0 && kept_inode(fd) == inode)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static void completions_name(char ret[BUNDLE_NAME_MAX], uint32_t number, uint32_t generation)
{
	snprintf(ret, BUNDLE_NAME_MAX, "t%u.%u", number, generation);
}

static void pieces_close(const struct pieces *pieces)
{
	if (pieces->control >= 0) {
		/* Other copies of it may be about: its engine is told all the same. */
		(void)shutdown(pieces->control, SHUT_RDWR);
		close(pieces->control);
	}
	if (pieces->sub >= 0)
		close(pieces->sub);
	if (pieces->comp >= 0)
		close(pieces->comp);
}

/* The engine's process: what was kept, else by number.  A number may be another process's by now; then
 * we wait for that one, too long, never too short. */
static int process_of(struct daemon *daemon, uint32_t number, const struct kept_engine *kept)
{
	char name[BUNDLE_NAME_MAX];
	int fd = bundle_take(daemon->bundle, bundle_name(name, "p", number));

	if (fd >= 0 && process_number(fd) >= 0)
		return fd;
	if (fd >= 0)
		close(fd);
	fd = (int)syscall(SYS_pidfd_open, (pid_t)kept->pid, 0);
	return fd < 0 ? -errno : fd;
}

/* A fresh completion segment, with what was in the old one; kept and in the book. */
static int renew_completions(struct attached *engine, const struct pieces *pieces)
{
	const struct kept_engine *kept = engine->kept;
	struct daemon *daemon = engine->daemon;
	char name[BUNDLE_NAME_MAX];
	struct stat st;
	void *old;
	int r;

	if (fstat(pieces->comp, &st) < 0 || (uint64_t)st.st_size != kept->shape.comp_bytes)
		return -EINVAL;
	r = segment_adopt(&kept->shape, pieces->sub, &engine->segment);
	if (r < 0)
		return r;
	old = mmap(NULL, kept->shape.comp_bytes, PROT_READ, MAP_SHARED, pieces->comp, 0);
	if (old == MAP_FAILED) {
		r = -errno;
		segment_close(&engine->segment);
		return r;
	}
	ring_adopt(&engine->ring, &engine->segment, old, kept->sq_head, kept->cq_tail);
	(void)munmap(old, kept->shape.comp_bytes);
	completions_name(name, engine->number, kept->generation + 1);
	bundle_keep(daemon->bundle, name, engine->segment.comp_fd);
	completions_name(name, engine->number, kept->generation);
	KEPT_SET(daemon, kept->generation, kept->generation + 1);
	KEPT_SET(daemon, kept->comp_inode, kept_inode(engine->segment.comp_fd));
	core_commit(daemon->core);
	bundle_forget(daemon->bundle, name);
	return 0;
}

static const char *take_live(struct attached *engine, const struct pieces *pieces)
{
	const struct kept_engine *kept = engine->kept;

	if (kept->version < 2)
		return "its release does not know how to be taken over";
	if (pieces->control < 0 || pieces->sub < 0 || pieces->comp < 0 || engine->process.fd < 0)
		return "not all of it was kept";
	return renew_completions(engine, pieces) < 0 ? "its segments cannot be taken over" : NULL;
}

bool adopt_engine_take(struct daemon *daemon, uint32_t number)
{
	struct attached *engine = &daemon->engines[number];
	const struct kept_engine *kept = &daemon->kept->engines[number];
	char name[BUNDLE_NAME_MAX];
	struct pieces pieces;
	const char *why;

	*engine = (struct attached){
		.daemon = daemon,
		.kept = kept,
		.number = number,
		.uid = kept->uid,
		.pid = kept->pid,
		.draining = kept->draining,
		.attached_usec = kept->attached_usec,
		.hung_up_usec = kept->hung_up_usec,
		.segment = { .sub_fd = -1, .comp_fd = -1 },
	};
	strcpy(engine->name, kept->name);
	strcpy(engine->model, kept->model);
	memcpy(engine->fingerprint, kept->fingerprint, sizeof(engine->fingerprint));
	engine->process.fd = process_of(daemon, number, kept);
	engine->gone = engine->process.fd < 0;
	if (engine->process.fd >= 0 && attach_watch(engine) < 0)
		log_error("adopt.unwatched engine=%u", number); /* the loop has room for every engine */
	if (kept->state == ATTACHED_DYING) {
		engine->state = ATTACHED_DYING;
		if (engine->gone)
			mover_link_flush(&daemon->mover, number);
		return true;
	}
	pieces.control = take(daemon, bundle_name(name, "c", number), kept->control_inode);
	pieces.sub = take(daemon, bundle_name(name, "s", number), kept->sub_inode);
	completions_name(name, number, kept->generation);
	pieces.comp = take(daemon, name, kept->comp_inode);
	why = take_live(engine, &pieces);
	if (why) {
		log_warn("adopt.engine_lost engine=%u name=\"%s\" pid=%u why=\"%s\"", number, engine->name,
			 engine->pid, why);
		pieces_close(&pieces);
		return false;
	}
	engine->state = ATTACHED_LIVE;
	engine->switching = true;
	engine->switch_usec = clock_now_usec() + LIMIT_SWITCH_USEC;
	engine->peer = peer_adopt(daemon, engine, pieces.control);
	pieces.control = -1;
	pieces_close(&pieces);
	return true;
}

/* Messages that were made and that no socket has taken. */
static void send_again(struct attached *engine)
{
	const struct kept_engine *kept = engine->kept;
	const struct daemon *daemon = engine->daemon;
	uint32_t last = kept->out_seq;

	for (uint32_t seq = kept->sent_seq + 1; seq - 1 != last; seq++) {
		struct kept_out out = daemon->kept->out[engine->number][seq % KEPT_OUT];
		struct kvd_msg_extent m = {
			.m = { .type = (uint16_t)out.type, .size = sizeof(m), .seq = seq },
			.extent = out.number,
			.writable = out.writable,
		};
		int fd = -1;

		if (out.type == KVD_M_CLIENT_NEW || out.type == KVD_M_CLIENT_AGAIN) {
			introduce_resend(engine, out.number, seq);
			continue;
		}
		if (out.type == KVD_M_EXTENT_MAP && out.number < daemon->n_extents)
			fd = vmm_extent_fd(daemon->vmm, out.number, out.writable);
		peer_send(engine->peer, &m.m, fd >= 0 ? &fd : NULL, fd >= 0 ? 1 : 0, false);
	}
}

void adopt_engine_tell(struct daemon *daemon, uint32_t number)
{
	struct attached *engine = &daemon->engines[number];
	const struct kept_engine *kept = engine->kept;
	const struct segment_shape *shape = &kept->shape;
	struct kvd_msg_adopted m = {
		.m = { .type = KVD_M_ADOPTED, .size = sizeof(m) },
		.engine = number,
		.kvd_pid = daemon->pid,
		.generation = kept->generation,
		.sq_entries = shape->sq_entries,
		.cq_entries = shape->cq_entries,
		.n_frames = kept->n_frames,
		.sub_bytes = shape->sub_bytes,
		.comp_bytes = shape->comp_bytes,
		.sqe_offset = shape->sqe_offset,
		.tokens_offset = shape->tokens_offset,
		.cqe_offset = shape->cqe_offset,
		.tables_offset = shape->tables_offset,
	};
	int fd = engine->segment.comp_fd;

	if (engine->state != ATTACHED_LIVE)
		return;
	for (uint32_t slot = 0; slot < shape->max_seqs; slot++)
		(void)core_read_row(daemon->core, number, slot,
				    engine->ring.tables + (uint64_t)slot * shape->max_pages, shape->max_pages);
	engine->ring.adopted = false;
	engine->ring.published = true;
	engine->segment.comp_fd = -1;
	send_again(engine);
	peer_send(engine->peer, &m.m, &fd, 1, true);
	daemon_deadline(daemon, engine->switch_usec);
	log_info("engine.taken_over engine=%u name=\"%s\" pid=%u generation=%u streams=%u", number, engine->name,
		 engine->pid, kept->generation, engine->n_streams);
}
