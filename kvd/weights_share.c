/* weights_share.c - see weights_share.h.  Owns the kept descriptors.  Loop thread only. */
#include "kvd/weights_share.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvd/attach.h"
#include "kvd/daemon.h"
#include "kvd/peer.h"

#define WEIGHTS_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

static struct weights_entry *find(struct daemon *daemon, const struct kvd_msg_weights *m)
{
	for (uint32_t i = 0; i < LIMIT_WEIGHTS; i++) {
		struct weights_entry *entry = &daemon->weights.entries[i];

		if (entry->used &&
		    !memcmp(entry->fingerprint, m->fingerprint, sizeof(entry->fingerprint)) &&
		    !strcmp(entry->layout, m->layout))
			return entry;
	}
	return NULL;
}

/* Only an attached engine, and only about its own model. */
static bool may_speak(struct peer *peer, const struct kvd_msg_weights *m)
{
	if (peer->engine &&
	    !memcmp(peer->engine->fingerprint, m->fingerprint, sizeof(m->fingerprint)))
		return true;
	peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, 0, 0,
		   "weights are shared by attached engines of their model only");
	return false;
}

void weights_share_ask(struct peer *peer, const struct kvd_msg_weights *m)
{
	struct kvd_msg_weights reply = {
		.m = { .type = KVD_M_WEIGHTS,
		       .size = sizeof(reply),
		       .seq = m->m.seq,
		       .status = KVD_S_NO_MODEL },
	};
	const struct weights_entry *entry;

	if (!may_speak(peer, m))
		return;
	entry = find(peer->daemon, m);
	memcpy(reply.fingerprint, m->fingerprint, sizeof(reply.fingerprint));
	strcpy(reply.layout, m->layout);
	if (entry)
		reply.m.status = KVD_S_OK;
	peer_send(peer, &reply.m, entry ? &entry->fd : NULL, entry ? 1 : 0, false);
}

/* For the next kvd, should we be killed. */
static void remember(struct daemon *daemon, uint32_t i)
{
	const struct weights_entry *entry = &daemon->weights.entries[i];
	struct kept_weights kept = { .inode = kept_inode(entry->fd) };
	char name[BUNDLE_NAME_MAX];

	memcpy(kept.fingerprint, entry->fingerprint, sizeof(kept.fingerprint));
	strcpy(kept.layout, entry->layout);
	bundle_keep(daemon->bundle, bundle_name(name, "w", i), entry->fd);
	KEPT_SET(daemon, daemon->kept->weights[i], kept);
	core_commit(daemon->core);
}

void weights_share_adopt(struct daemon *daemon)
{
	for (uint32_t i = 0; i < LIMIT_WEIGHTS; i++) {
		const struct kept_weights *kept = &daemon->kept->weights[i];
		struct weights_entry *entry = &daemon->weights.entries[i];
		char name[BUNDLE_NAME_MAX];
		int fd = kept->inode ? bundle_take(daemon->bundle, bundle_name(name, "w", i)) : -1;

		if (fd >= 0 && kept_inode(fd) == kept->inode) {
			*entry = (struct weights_entry){ .used = true, .fd = fd };
			memcpy(entry->fingerprint, kept->fingerprint, sizeof(entry->fingerprint));
			strcpy(entry->layout, kept->layout);
			continue;
		}
		/* Missing: the next engine of that model lays its own out. */
		if (fd >= 0)
			close(fd);
		if (kept->inode)
			KEPT_SET(daemon, kept->inode, (uint64_t)0);
	}
}

void weights_share_offer(struct peer *peer, const struct kvd_msg_weights *m, int fd)
{
	struct daemon *daemon = peer->daemon;
	int seals = fcntl(fd, F_GET_SEALS), copy;
	struct stat st;

	if (!may_speak(peer, m) || find(daemon, m))
		return;
	/* Sealed, or another engine would read what this one may still change, or take a SIGBUS. */
	if (seals < 0 || (seals & WEIGHTS_SEALS) != WEIGHTS_SEALS || fstat(fd, &st) < 0 ||
	    !S_ISREG(st.st_mode) || st.st_size <= 0) {
		peer_error(peer, m->m.seq, KVD_S_BAD_REQUEST, 0, 0,
			   "weights must be a memfd sealed against writing "
			   "and resizing");
		return;
	}
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	for (uint32_t i = 0; copy >= 0 && i < LIMIT_WEIGHTS; i++) {
		struct weights_entry *entry = &daemon->weights.entries[i];

		if (entry->used)
			continue;
		*entry = (struct weights_entry){ .used = true, .fd = copy };
		memcpy(entry->fingerprint, m->fingerprint, sizeof(entry->fingerprint));
		strcpy(entry->layout, m->layout);
		remember(daemon, i);
		log_info("weights.kept model=\"%s\" layout=\"%s\" bytes=%lld", peer->engine->model,
			 m->layout, (long long)st.st_size);
		return;
	}
	/* No room: every engine keeps a copy of its own, as if nobody had offered. */
	if (copy >= 0)
		close(copy);
}

void weights_share_forget(struct daemon *daemon, const uint8_t fingerprint[16])
{
	for (uint32_t i = 0; i < CORE_ENGINES_MAX; i++)
		if (daemon->engines[i].state == ATTACHED_LIVE &&
		    !memcmp(daemon->engines[i].fingerprint, fingerprint, 16))
			return;
	for (uint32_t i = 0; i < LIMIT_WEIGHTS; i++) {
		struct weights_entry *entry = &daemon->weights.entries[i];

		if (entry->used && !memcmp(entry->fingerprint, fingerprint, 16)) {
			char name[BUNDLE_NAME_MAX];

			close(entry->fd);
			entry->used = false;
			/* Part of the hang-up's step, which follows. */
			KEPT_SET(daemon, daemon->kept->weights[i].inode, (uint64_t)0);
			bundle_forget(daemon->bundle, bundle_name(name, "w", i));
		}
	}
}

void weights_share_close(struct daemon *daemon)
{
	for (uint32_t i = 0; i < LIMIT_WEIGHTS; i++)
		if (daemon->weights.entries[i].used)
			close(daemon->weights.entries[i].fd);
	daemon->weights = (struct weights_share){ 0 };
}
