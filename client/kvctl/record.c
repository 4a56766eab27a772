/* record.c - `kvctl record FILE`: takes what kvd records from a socket and writes it to a file.
 *
 * kvd never waits for us: if this disk is too slow it ends the recording, and we say so.  The file is 0600, and
 * is whole when its last block is END. */
#include "client/kvctl/kvctl.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvd/record.h"

static volatile sig_atomic_t stopped;

static void on_signal(int number)
{
	(void)number;
	stopped = 1;
}

/* Blocks as they pass by: how many events, and was there an END? */
struct passing {
	struct kvd_record_block block;
	uint32_t have;             /* bytes of the block's head and payload that have come */
	uint8_t payload[64];
	uint64_t bytes, n_events;
	bool ended, broken;
};

static void passing_take(struct passing *p, const uint8_t *bytes, size_t n)
{
	p->bytes += n;
	while (n && !p->broken) {
		size_t want = p->have < sizeof(p->block) ? sizeof(p->block) - p->have
							 : sizeof(p->block) + p->block.bytes - p->have;
		size_t part = want < n ? want : n;
		if (p->have < sizeof(p->block))
			memcpy((uint8_t *)&p->block + p->have, bytes, part);
		else if (p->have - sizeof(p->block) + part <= sizeof(p->payload))
			memcpy(p->payload + (p->have - sizeof(p->block)), bytes, part);
		p->have += (uint32_t)part;
		bytes += part;
		n -= part;
		if (p->have < sizeof(p->block))
			return;
		p->broken = p->block.magic != KVD_RECORD_MAGIC || p->block.bytes > KVD_RECORD_PAYLOAD_MAX;
		if (p->broken || p->have < sizeof(p->block) + p->block.bytes)
			continue;
		if (p->block.type == KVD_RECORD_HASH || p->block.type == KVD_RECORD_END)
			memcpy(&p->n_events, p->payload, sizeof(p->n_events));
		p->ended |= p->block.type == KVD_RECORD_END;
		p->have = 0;
	}
}

static int write_all(int fd, const uint8_t *bytes, size_t n)
{
	while (n) {
		ssize_t done = write(fd, bytes, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return -errno;
		bytes += done;
		n -= (size_t)done;
	}
	return 0;
}

/* Until kvd has sent all; Ctrl-C asks it to come to an end. */
static int take_all(int from, int to, struct passing *p)
{
	static uint8_t buffer[1 << 18];
	bool shut = false;
	for (;;) {
		if (stopped && !shut) {
			shut = true;
			shutdown(from, SHUT_WR);
		}
		struct pollfd ready = { .fd = from, .events = POLLIN };
		if (poll(&ready, 1, 200) < 0 && errno != EINTR)
			return -errno;
		if (!ready.revents)
			continue;
		ssize_t n = recv(from, buffer, sizeof(buffer), MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0)
			return 0;
		int r = write_all(to, buffer, (size_t)n);
		if (r != 0)
			return r;
		passing_take(p, buffer, (size_t)n);
	}
}

int kvctl_record(const struct kvctl_view *v, struct kvd_connection *c)
{
	const char *path = v->arguments.word[0];
	uint64_t number[8] = { (uint64_t)(v->arguments.seconds * 1e6), v->arguments.with_tokens };
	struct sigaction action = { .sa_handler = on_signal };
	struct passing p = { .bytes = 0 };
	int ends[2], r, file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (file < 0)
		return kvctl_complain(1, "%s: %s", path, strerror(errno));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
		close(file);
		return kvctl_complain(1, "no socket: %s", strerror(errno));
	}
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	r = kvd_steer(c, KVD_STEER_RECORD, NULL, number, ends[1], NULL);
	close(ends[1]);
	if (r != 0) {
		struct stat made;
		if (fstat(file, &made) == 0 && S_ISREG(made.st_mode) && made.st_size == 0)
			unlink(path);        /* ours, or as good as none */
		close(ends[0]);
		close(file);
		return kvctl_fail(c, r);
	}
	if (ftruncate(file, 0) < 0 && errno != EINVAL)  /* a device has no length */
		r = -errno;
	if (r == 0)
		r = take_all(ends[0], file, &p);
	close(ends[0]);
	if (close(file) < 0 && r == 0)
		r = -errno;
	if (r != 0)
		return kvctl_complain(1, "%s: %s", path, strerror(-r));
	if (!p.ended)
		return kvctl_complain(1,
				      "%s is cut off after event %" PRIu64
				      ": this disk was too slow, or kvd ended",
				      path, p.n_events);
	if (v->json)
		return kvctl_json(v,
				  json_pack("{s:s, s:I, s:I}", "file", path, "events",
					    (json_int_t)p.n_events, "bytes", (json_int_t)p.bytes));
	fprintf(v->out, "%s: %" PRIu64 " events, %s; replay it with kvd --replay %s\n", path, p.n_events,
		kvctl_size(p.bytes).s, path);
	return 0;
}

/* kvd of this release lies beside kvctl; else the one on PATH. */
int kvctl_replay(const struct kvctl_view *v, struct kvd_connection *c)
{
	const char *file = v->arguments.word[0];
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 8);
	(void)c;
	path[n > 0 ? n : 0] = '\0';
	char *slash = strrchr(path, '/');
	if (slash) {
		memcpy(slash + 1, "kvd", 4);
		execl(path, "kvd", "--replay", file, NULL);
	}
	execlp("kvd", "kvd", "--replay", file, NULL);
	return kvctl_complain(1, "kvd is neither beside kvctl nor on PATH: %s", strerror(errno));
}
