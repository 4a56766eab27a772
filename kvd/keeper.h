/* keeper.h - the keeper: a small process that holds kvd's descriptors while no kvd lives.
 *
 * `kvd --keeper` finds it at `<socket>.keeper`, or starts it.  It knows nothing but names and
 * descriptors, never maps or reads one, and lends them to one kvd at a time: the lock is that kvd's
 * connection and its pidfd.  It ends when a kvd ends cleanly (RELEASE), or after KEEPER_SECONDS
 * without one.  Only its own uid may speak to it, and kvd speaks only to one of its own uid.
 *
 * A packet is always one whole struct keeper_packet, with as many descriptors as ITEMS has names. */
#ifndef KVD_KEEPER_H
#define KVD_KEEPER_H

#include <stddef.h>
#include <stdint.h>

#include "kvd/bundle.h"

#define KEEPER_MAGIC 0x314b564bu   /* "KVK1": another version's keeper is not spoken to */
#define KEEPER_BATCH 8u            /* names and descriptors of a packet */
#define KEEPER_SECONDS 60u
#define KEEPER_FD 3                /* the listening socket, in the keeper */

enum keeper_type {
	KEEPER_TAKE = 1,           /* kvd: lend me everything */
	KEEPER_ITEMS,              /* kvd: keep these (one of the same name is replaced); keeper: here they are */
	KEEPER_END,                /* keeper: that was everything; you are the one */
	KEEPER_BUSY,               /* keeper: process `pid` has it; the connection is closed */
	KEEPER_FORGET,             /* kvd: close these */
	KEEPER_CLEAR,              /* kvd: close everything */
	KEEPER_RELEASE,            /* kvd: close everything and end */
};

struct keeper_packet {
	uint32_t magic;
	uint16_t type;             /* enum keeper_type */
	uint16_t n;                /* names of ITEMS and FORGET, 1 .. KEEPER_BATCH */
	uint32_t pid;              /* BUSY */
	uint32_t pad;
	char names[KEEPER_BATCH][BUNDLE_NAME_MAX];
};

/* Is this a packet that kvd may send to its keeper?  0 or -EPROTO; *ret_why: a word or two. */
int keeper_check(const void *packet, size_t n_bytes, uint32_t n_fds, const char **ret_why);

/* Receive one packet with its descriptors.  Returns its size, 0: hung up, -errno; -EPROTO: more
 * descriptors than a packet has, all closed. */
int keeper_receive(int fd, struct keeper_packet *ret, int fds[KEEPER_BATCH], uint32_t *ret_n_fds);
/* 0 or -errno; -EAGAIN: no room. */
int keeper_send(int fd, const struct keeper_packet *packet, const int *fds, uint32_t n_fds);

/* The keeper's life: its listening socket is KEEPER_FD, bound at path.  Exit code. */
int keeper_main(const char *path);

#endif
