/* engine.h - the engine side of libkvd: what any engine calls to keep its KV cache in kvd.
 *
 * One struct kvd_engine per process and model, used by one thread (the one that runs the steps).
 * No hidden threads, nothing printed.  Functions return 0, a positive KVD_S_* status or -errno and
 * leave a sentence in kvd_engine_error().
 *
 * The way of a sequence:
 *     kvd_engine_tokens(slot)  <- write the prompt's token ids
 *     kvd_engine_submit(OPEN)  -> completion: admitted, `cached` pages are already there
 *     loop: submit(GROW | LOOKUP) -> completion: compute tokens from cached * 16 on
 *           kvd_step_begin(); copy table rows; compute; kvd_step_end()
 *           submit(SEAL) for every page that became full
 *     submit(CLOSE)
 * Between kvd_step_begin() and kvd_step_end() read K and V only through the copied rows.
 *
 * When kvd dies, one of two things happens.  Another kvd takes over its books: the connection stays,
 * nothing fails, kvd_engine_poll() goes on with the new one by itself; until then the ring fills and
 * answers are late.  Or nobody does: calls return -ENOTCONN, and kvd_engine_reattach() makes this an
 * engine of the next kvd, which knows none of its sequences and clients. */
#ifndef KVD_ENGINE_H
#define KVD_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kvd/geometry.h"
#include "kvd/proto.h"
#include "kvd/shm.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifndef KVD_API
#define KVD_API __attribute__((visibility("default")))
#endif

struct kvd_engine;

struct kvd_engine_options {
	const char *socket;        /* as kvd_socket_path() takes it */
	const char *program;       /* for kvd's log */
	const char *name;          /* engine name, unique on the host */
	const char *model;         /* name clients ask for */
	const char *numerics;      /* numerics id */
	uint8_t fingerprint[16];
	uint32_t layout, kv_format, n_planes, block_bytes;
	uint32_t max_seqs, max_pages;
};

/* Attach.  Maps the rings, reserves the window (PROT_NONE, pool_bytes).
 * ret  as for kvd_connect(): read kvd_engine_error(), then kvd_engine_close(), also on failure. */
KVD_API int kvd_engine_attach(const struct kvd_engine_options *o, struct kvd_engine **ret);
/* Detach: unmap everything, close the socket; kvd takes all leases back. */
KVD_API void kvd_engine_close(struct kvd_engine *e);
KVD_API const char *kvd_engine_error(const struct kvd_engine *e);

/* kvd is gone, or broke the protocol (-ENOTCONN or -EPROTO of any call): attach again, as the same
 * engine, without waiting.  The first call gives up everything of the old kvd: window, rows and rings are
 * unmapped, clients not collected are closed.  Call it between steps only.
 * Returns  0: attached; window, geometry and number are new and no slot is in use.
 *          -EAGAIN: under way; call again when kvd_engine_fd() is readable, or 20 ms later (it may be -1).
 *          else the try has failed, why is in kvd_engine_error(); calling again tries again.
 * Until it returns 0 only kvd_engine_close(), _error(), _fd() and this may be called; submit, flush and
 * poll answer -ENOTCONN, rows are NULL, there are no completions and no clients. */
KVD_API int kvd_engine_reattach(struct kvd_engine *e);
/* Whether kvd's process has ended while our connection is still held for the next one.  Best effort: false
 * where the process cannot be watched (another pid namespace).  Any moment. */
KVD_API bool kvd_engine_kvd_ended(const struct kvd_engine *e);

/* Address rule: geometry.h.  kvd_engine_welcome()->device_kind says of what: on a GPU it is a device address, in the
 * device's primary context of this process. */
KVD_API uint8_t *kvd_engine_window(const struct kvd_engine *e);
KVD_API const struct kvd_geometry *kvd_engine_geometry(const struct kvd_engine *e);
KVD_API const struct kvd_msg_welcome *kvd_engine_welcome(const struct kvd_engine *e);
KVD_API uint32_t kvd_engine_number(const struct kvd_engine *e);
/* Token row of a slot, (max_pages * 16) ids, ours to write. */
KVD_API int32_t *kvd_engine_tokens(struct kvd_engine *e, uint32_t slot);
/* Table row of a slot, (max_pages) entries, kvd's to write: copy it inside a step. */
KVD_API const uint32_t *kvd_engine_table(const struct kvd_engine *e, uint32_t slot);

/* Put one submission on the ring.  -EAGAIN: the ring is full (kvd has not looked yet).
 * Nothing is sent before kvd_engine_flush(), which rings the doorbell if kvd sleeps. */
KVD_API int kvd_engine_submit(struct kvd_engine *e, const struct kvd_sqe *sqe);
KVD_API int kvd_engine_flush(struct kvd_engine *e);
/* Take one completion or event; false: none there.  EXTENT messages are handled inside
 * (mapped, acknowledged) by kvd_engine_poll(). */
KVD_API bool kvd_engine_completion(struct kvd_engine *e, struct kvd_cqe *ret);

/* A stream handed to us by kvd. */
struct kvd_engine_client {
	uint32_t client;           /* handle for kvd_sqe.tenant in KVD_SEQ_OPEN */
	uint32_t weight;
	int fd;                    /* stream socket (SOCK_SEQPACKET, non-blocking), now owned by the caller */
	char tenant[KVD_NAME_MAX];
};
/* Serve the control socket without blocking: map and unmap extents, collect new clients, go on with a
 * kvd that has taken over.  Call between steps only.  Returns 0; -ENOTCONN when kvd is gone, -EPROTO
 * when it broke the protocol: kvd_engine_reattach(). */
KVD_API int kvd_engine_poll(struct kvd_engine *e);
KVD_API bool kvd_engine_next_client(struct kvd_engine *e, struct kvd_engine_client *ret);
/* A stream has ended.  Never waits: what kvd does not take now goes with a later poll or flush. */
KVD_API int kvd_engine_client_gone(struct kvd_engine *e, const struct kvd_msg_client_gone *totals);
/* After kvd_engine_reattach(): a client has named itself to the new kvd with the ticket that we sent it on
 * its stream (KVD_M_AGAIN).  A ticket that stands for no stream of ours: kvd_engine_client_gone(). */
struct kvd_engine_again {
	uint32_t client;           /* handle for kvd_sqe.tenant in KVD_SEQ_OPEN */
	uint32_t weight;
	uint8_t ticket[KVD_TICKET_BYTES];
	char tenant[KVD_NAME_MAX];
};
KVD_API bool kvd_engine_next_again(struct kvd_engine *e, struct kvd_engine_again *ret);
KVD_API int kvd_engine_stats(struct kvd_engine *e, const struct kvd_msg_engine_stats *stats);
/* Descriptor to wait on (POLLIN) for doorbells and messages.  Before sleeping call
 * kvd_engine_sleep(e, true): it returns false if something arrived meanwhile (do not sleep);
 * after waking call kvd_engine_sleep(e, false). */
KVD_API int kvd_engine_fd(const struct kvd_engine *e);
KVD_API bool kvd_engine_sleep(struct kvd_engine *e, bool sleeps);
/* As kvd_engine_sleep(e, true), for who can wait for a word of shared memory beside the descriptor: sleep as long as
 * *word is `value` (FUTEX_WAIT, not private).  The word is mapped read-only and may go in any later call of
 * kvd_engine_poll(), kvd_engine_reattach() and kvd_engine_close(): a wait for a word of another mapping than the
 * last one is for nothing, also where the address is the same. */
struct kvd_engine_word {
	const uint32_t *word;      /* NULL: there is none, wait for the descriptor alone */
	uint32_t value;
	uint32_t mapping;          /* counts the segments that the word was in */
};
KVD_API bool kvd_engine_sleep_on(struct kvd_engine *e, struct kvd_engine_word *ret);

/* Step counters, with the fences shm.h asks for. */
KVD_API void kvd_step_begin(struct kvd_engine *e);
KVD_API void kvd_step_end(struct kvd_engine *e);

/* Weights shared between engines of one file.  ask: *ret_fd is a sealed read-only memfd, or
 * KVD_S_NO_MODEL when nobody has offered; offer: gives kvd a sealed memfd to keep while any engine of
 * that fingerprint is attached.  fd stays the caller's. */
KVD_API int kvd_engine_weights_ask(struct kvd_engine *e, const char *layout, int *ret_fd);
KVD_API int kvd_engine_weights_offer(struct kvd_engine *e, const char *layout, int fd);

#ifdef __cplusplus
}
#endif
#endif
