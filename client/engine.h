/* engine.h - an attached engine, inside libkvd. */
#ifndef CLIENT_ENGINE_H
#define CLIENT_ENGINE_H

#include <stdbool.h>
#include "client/connection.h"
#include "client/window.h"
#include "kvd/engine.h"

/* Streams that kvd has handed over and the engine has not yet collected.  A scheduler collects
 * every step; whoever is beyond is better served by another engine. */
#define KVD_ENGINE_CLIENTS_MAX 1024u
/* CLIENT_GONEs that wait because kvd does not read.  Each stands for a handle that kvd gave, and it
 * gives an engine 1,024 of them at a time. */
#define KVD_ENGINE_GONES_MAX 2048u

struct kvd_engine {
	struct kvd_connection *connection;
	struct kvd_msg_attach request;        /* what we are; sent to every kvd */
	struct kvd_msg_attached attached;     /* what this kvd answered */
	struct kvd_geometry geometry;
	uint32_t number;
	uint8_t fingerprint[16];
	uint32_t max_seqs, max_pages;
	char error[KVD_ERROR_MAX];

	/* Attaching, in steps that do not block. */
	bool is_attached;
	bool attach_posted;
	uint64_t attach_deadline_usec;        /* of the try under way; 0: none is */
	struct kvd_waiter attaching;          /* our ATTACH, while posted */

	/* Adoption: kvd died and another took over this connection. */
	uint32_t last_seen;        /* m.seq of the last message with an effect */
	int process;               /* pidfd of kvd, -1: not to be had */
	struct kvd_msg_adopted early;         /* came before we had segments */
	int early_fd;              /* -1: none */

	/* The window: pool_bytes of address space; extents appear in it. */
	uint8_t *window;           /* NULL: not reserved; on a GPU a device address */
	const struct kvd_window_calls *window_calls;
	struct kvd_window_device *window_device;
	uint32_t device_kind;      /* KVD_DEVICE_*; of the first kvd, and then of every one */
	uint32_t n_extents;
	uint32_t *acks;            /* (acks_max) queue: extent << 1 | mapped, not yet on the ring */
	uint32_t first_ack, n_acks, acks_max;

	/* The segments.  Ours to write: sub.  kvd's: comp, mapped read-only, believed for nothing
	 * but progress. */
	struct kvd_sub_header *sub;
	const struct kvd_comp_header *comp;
	uint32_t comp_mapping;     /* counts the mappings of comp */
	size_t sub_bytes, comp_bytes;
	struct kvd_sqe *sqes;      /* (sq_entries) */
	const struct kvd_cqe *cqes;/* (cq_entries) */
	int32_t *tokens;           /* (max_seqs, max_pages * KVD_PAGE_TOKENS) */
	const uint32_t *tables;    /* (max_seqs, max_pages) */
	uint32_t sq_entries, cq_entries;
	uint32_t sq_tail;          /* next submission; published up to sub->sq_tail */
	uint32_t cq_head;          /* next completion */
	uint64_t step;             /* number of the step last begun */

	struct kvd_engine_client *clients; /* (KVD_ENGINE_CLIENTS_MAX), a ring */
	uint32_t client_head, client_tail; /* free-running */
	struct kvd_engine_again *agains;   /* (KVD_ENGINE_CLIENTS_MAX), a ring */
	uint32_t again_head, again_tail;
	struct kvd_msg_client_gone *gones; /* (KVD_ENGINE_GONES_MAX), a ring */
	uint32_t gone_head, gone_tail;
};

/* ---- engine_window.c ---- */
int kvd_engine_window_reserve(struct kvd_engine *e);
void kvd_engine_window_release(struct kvd_engine *e);
/* EXTENT_MAP, EXTENT_UNMAP: do it and note the acknowledgement. Takes the fd out of packet. */
int kvd_engine_window_change(struct kvd_engine *e, const struct kvd_msg_extent *extent,
			     struct kvd_packet *packet);
/* Put noted acknowledgements on the ring, as many as fit. */
void kvd_engine_window_acknowledge(struct kvd_engine *e);

/* ---- engine_control.c ---- */
/* A message that answers nothing.  Returns 0 or -errno: close the connection. */
int kvd_engine_take(struct kvd_engine *e, const struct kvd_msg *m, struct kvd_packet *packet);
/* Send the CLIENT_GONEs that wait, as many as go. */
int kvd_engine_gones_flush(struct kvd_engine *e);

/* ---- engine_adopt.c ---- */
/* ADOPTED: go on in the fresh completion segment.  Takes the fd out of packet. */
int kvd_engine_adopt(struct kvd_engine *e, const struct kvd_msg_adopted *m, struct kvd_packet *packet);
/* One that came before ATTACHED was looked at. */
int kvd_engine_adopt_early(struct kvd_engine *e);
/* Watch the process that calls itself kvd. */
void kvd_engine_process_watch(struct kvd_engine *e, uint32_t pid);

/* ---- engine_segments.c ---- */
/* Check what ATTACHED says against the segments and map them; descriptors stay the caller's. */
int kvd_engine_segments_map(struct kvd_engine *e, const struct kvd_msg_attached *attached,
			    int sub_fd, int comp_fd);
/* Another completion segment in the place of the one that is mapped.  Nothing changes on failure. */
int kvd_engine_segments_switch(struct kvd_engine *e, const struct kvd_msg_adopted *adopted, int comp_fd);
void kvd_engine_segments_unmap(struct kvd_engine *e);

#endif
