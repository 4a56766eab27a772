/* bundle.h - what outlives a killed kvd: descriptors by name, held by another process.
 *
 *   listen.<dev>.<inode>   the listening socket and its file, where kvd made it
 *   x<N>                   extent N
 *   book                   the book; kept last at a cold start: a bundle without it is none
 *   mover                  pidfd of kvd-mover, kept before it has seen an extent
 *   c<E> s<E> p<E>         engine E: control socket, submission segment, pidfd
 *   t<E>.<generation>      its completion segment
 *   w<N>                   shared weights N
 *   spill                  the spill file
 *   spill                  the spill tier's file; without it what was in it alone is computed again
 *
 * Two holders: the keeper (keeper.h) and systemd's fd store (fdstore.c).  What is in it is believed
 * only where the book says the same (inode numbers, kept.h); what the book does not know is closed.
 * So a descriptor that could not be kept costs its engine a hang-up, or all a cold start; it never
 * makes a lie.  Loop thread; waits only before READY. */
#ifndef KVD_BUNDLE_H
#define KVD_BUNDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUNDLE_NAME_MAX 48u        /* with NUL; all names together stay far under the 128 KiB of an environment */
#define BUNDLE_ERROR_MAX 320

enum bundle_kind { BUNDLE_NONE = 0, BUNDLE_KEEPER, BUNDLE_STORE };

struct bundle_item { char name[BUNDLE_NAME_MAX]; int fd; };

struct bundle {
	enum bundle_kind kind;
	int keeper;                /* connection; -1 */
	bool started;              /* after READY: never wait */
	bool broken;               /* the keeper does not take what we send: said once */
	struct bundle_item *items; /* taken over and not asked for yet */
	uint32_t n_items, items_max;
};

/* 1 to BUNDLE_NAME_MAX - 1 bytes of a-z 0-9 and dots, NUL-terminated. */
bool bundle_name_valid(const char *name);
/* Write prefix and number. */
const char *bundle_name(char ret[BUNDLE_NAME_MAX], const char *prefix, uint32_t number);

/* Take over what the holder has: the keeper of this socket path (started if there is none), or, with
 * keeper = false, the descriptors systemd passed to this process.
 * *ret_listen_fd  systemd's own socket, -1: none
 * Returns 0; -errno and a sentence: another kvd has the keeper, or systemd passed nonsense. */
int bundle_open(struct bundle *bundle, bool keeper, const char *socket_path, int *ret_listen_fd,
		char error[BUNDLE_ERROR_MAX]);
/* The descriptor of that name; the caller's from now on.  -1: none. */
int bundle_take(struct bundle *bundle, const char *name);
/* A name that begins so; NULL: none. */
const char *bundle_find(const struct bundle *bundle, const char *prefix);
/* A cold start: close what was taken over (sockets are shut down), and have the holder forget it all. */
void bundle_clear(struct bundle *bundle);
/* Close what nobody asked for, and have the holder forget it. */
void bundle_drop_rest(struct bundle *bundle);

/* Have it kept; fd stays the caller's.  One of the same name is replaced. */
void bundle_keep(struct bundle *bundle, const char *name, int fd);
void bundle_keep_all(struct bundle *bundle, const struct bundle_item *items, uint32_t n);
void bundle_forget(struct bundle *bundle, const char *name);

/* kvd ends in order: the holder forgets all; the keeper ends. */
void bundle_release(struct bundle *bundle, uint32_t n_extents);
/* Let go of our own memory and connection. */
void bundle_close(struct bundle *bundle);

/* ---- the holders, for bundle.c ---- */
/* Add an item taken over; false: too many, fd is closed. */
bool bundle_add(struct bundle *bundle, const char *name, int fd);
int keeper_link_open(struct bundle *bundle, const char *socket_path, char error[BUNDLE_ERROR_MAX]);
void keeper_link_keep(struct bundle *bundle, const struct bundle_item *items, uint32_t n);
void keeper_link_say(struct bundle *bundle, uint16_t type, const char *name);
void keeper_link_release(struct bundle *bundle);
int fdstore_open(struct bundle *bundle, int *ret_listen_fd, char error[BUNDLE_ERROR_MAX]);
void fdstore_keep(const struct bundle_item *item);
void fdstore_forget(const char *name);

#endif
