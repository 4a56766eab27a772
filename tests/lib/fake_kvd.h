/* fake_kvd.h - the other side of libkvd for unit tests: a forked child that speaks the protocol by
 * a script.
 *
 * The child runs `serve` with a listening socket and ends with status 0, or with 1 after saying
 * which FAKE_EXPECT() failed.  Every wait in it has a deadline. */
#ifndef TESTS_FAKE_KVD_H
#define TESTS_FAKE_KVD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "kvd/proto.h"
#include "kvd/shm.h"

struct fake_kvd {
	char dir[64], path[96];
	pid_t pid;
};

/* Start a child; its socket is at f->path. */
void fake_kvd_start(struct fake_kvd *f, void (*serve)(int listen_fd));
/* Wait for its end (10 s); returns 0 if all its expectations held.  Removes the socket. */
int fake_kvd_finish(struct fake_kvd *f);

/* ---- in the child ---- */
#define FAKE_EXPECT(condition) \
	do { if (!(condition)) fake_kvd_unexpected(__FILE__, __LINE__, #condition); } while (0)
void fake_kvd_unexpected(const char *file, int line, const char *condition)
	__attribute__((noreturn));

#define FAKE_POOL_BYTES (16u << 20)
#define FAKE_EXTENT_BYTES (1u << 20)

/* Protocol version of the fake, in the child; KVD_PROTO_MAX unless set. */
extern uint32_t fake_kvd_version;
/* Accept a peer and greet it. */
int fake_kvd_accept(int listen_fd, enum kvd_role role);
/* Receive one packet of at most KVD_MSG_MAX bytes within 5 s; 0: the peer closed. */
size_t fake_kvd_receive(int fd, void *packet);
/* The same for a message of a type and at least some bytes. */
void fake_kvd_receive_type(int fd, uint16_t type, void *packet, size_t min_bytes);
/* Send a message as it is. */
void fake_kvd_send(int fd, const void *message, size_t bytes, const int *fds, uint32_t n_fds);
/* Answer STREAM_OPEN with one end of a new pair; returns the engine's end. */
int fake_kvd_introduce(int control_fd, uint32_t seq, const char *model, const char *engine);
/* A memfd of so many zero bytes. */
int fake_kvd_memory(size_t bytes);

/* ---- an engine, as kvd sees it ---- */
#define FAKE_CQ_ENTRIES 64u

struct fake_rings {
	int control;
	char name[KVD_NAME_MAX], model[KVD_NAME_MAX];
	struct kvd_msg_attached attached;
	struct kvd_sub_header *sub;
	struct kvd_comp_header *comp;
	struct kvd_sqe *sqes;
	struct kvd_cqe *cqes;
	uint32_t *tables;
	int32_t *tokens;
	uint32_t sq_head;
};

/* Accept an engine and attach it as number 3.  lie_bytes: announce a larger completion segment. */
void fake_kvd_attach(struct fake_rings *r, int listen_fd, uint64_t lie_bytes);
/* Sleep as kvd does, until a submission is there; take it. */
struct kvd_sqe fake_kvd_take(struct fake_rings *r);
void fake_kvd_complete(struct fake_rings *r, const struct kvd_cqe *cqe);
/* Become the kvd after this one: r goes on in a fresh completion segment with the same contents.  ret is the
 * message that says so, not yet sent; returns the segment's descriptor. */
int fake_kvd_succeed(struct fake_rings *r, uint32_t generation, struct kvd_msg_adopted *ret);

#endif
