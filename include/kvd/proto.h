/* proto.h - messages on kvd's sockets, fixed layout, little-endian.
 *
 * Control socket (SOCK_SEQPACKET, one message a packet): peer <-> kvd.  Stream socket
 * (SOCK_SEQPACKET pair made by kvd): client <-> engine; tokens never pass through kvd.
 * Every message begins with struct kvd_msg.  A message longer than a version knows is accepted and
 * its tail ignored; a shorter one is refused.  Strings are NUL-padded, at most N-1 bytes.
 * A packet of one zero byte is a doorbell ("look at the ring") in either direction.
 * The list of messages is proto.def; docs/protocol.md is generated from it. */
#ifndef KVD_PROTO_H
#define KVD_PROTO_H

#include <stdint.h>

#define KVD_PROTO_MIN 1u
#define KVD_PROTO_MAX 2u           /* 2: ADOPTED, AGAIN; an engine of version 1 is hung up where a kvd takes over */
#define KVD_NAME_MAX 64u           /* bytes of a name field incl. NUL: model, engine, tenant, domain */
#define KVD_MSG_MAX 65536u         /* largest packet in bytes, on every socket */
#define KVD_TICKET_BYTES 16u       /* random, made by the engine: stands for one of its streams */

struct kvd_msg {
	uint16_t type;             /* enum kvd_msg_type */
	uint16_t flags;
	uint32_t size;             /* of the whole packet in bytes, header included */
	uint32_t seq;              /* per-peer request number, counts from 1; replies carry the request's.
	                            * EXTENT_MAP, EXTENT_UNMAP, CLIENT_NEW, CLIENT_AGAIN: kvd's own count for this
	                            * engine, from 1.  A kvd that took over may repeat one: ignore what is not
	                            * above the last (but close its descriptor); 0 is never ignored */
	uint32_t status;           /* replies: KVD_S_*; requests: 0 */
};

enum kvd_msg_type {
#define KVD_MSG(name, number, direction, fds, since, text) KVD_M_##name = number,
#include "kvd/proto.def"
#undef KVD_MSG
};

enum kvd_status {
#define KVD_STATUS(name, number, exit_code, text) KVD_S_##name = number,
#include "kvd/status.def"
#undef KVD_STATUS
};

enum kvd_device_kind { KVD_DEVICE_HOST = 0, KVD_DEVICE_CUDA = 1 };
enum kvd_role { KVD_ROLE_CLIENT = 1, KVD_ROLE_ENGINE = 2 };

/* ---- control socket ---- */
struct kvd_msg_hello {             /* first message of every peer */
	struct kvd_msg m;
	uint32_t version_min, version_max;
	uint32_t role;             /* enum kvd_role */
	uint32_t pad;
	char program[KVD_NAME_MAX];/* for the log, e.g. "kvrun 0.1.0" */
	char tenant[KVD_NAME_MAX]; /* tenant to act for; "" = who the kernel says.  Honoured for the
	                            * daemon's own uid and declared delegates only */
};
struct kvd_msg_welcome {
	struct kvd_msg m;
	uint32_t version;          /* the version both will speak */
	uint32_t kvd_pid;
	uint64_t pool_bytes, extent_bytes;
	uint32_t slot_bits, page_tokens;
	uint32_t admin;            /* 1: this peer reads everything */
	uint32_t uid, gid, pid;    /* who the kernel says the peer is */
	char tenant[KVD_NAME_MAX]; /* tenant this peer acts for */
	char domain[KVD_NAME_MAX];
	char kvd_version[KVD_NAME_MAX];
	char decided_by[KVD_NAME_MAX]; /* what made the peer that tenant: "uid 1000", "cgroup /a"; since 0.2 */
	uint32_t device_kind;      /* KVD_DEVICE_*: what extents are memory of, and their descriptors are of */
	uint32_t pad;
	uint8_t device_uuid[16];   /* of a GPU; else zeroes */
};
struct kvd_msg_error {             /* reply instead of any other; m.status says which, text says what */
	struct kvd_msg m;
	uint64_t need, have;       /* the numbers, where the status has some; else 0 */
	char text[240];            /* one sentence naming the thing and the remedy */
};
struct kvd_msg_attach {            /* engine: become an engine of this space */
	struct kvd_msg m;
	char name[KVD_NAME_MAX];   /* engine name, unique on the host */
	char model[KVD_NAME_MAX];  /* name clients ask for */
	char numerics[KVD_NAME_MAX]; /* numerics id, "cpu/1/avx2" */
	uint8_t fingerprint[16];   /* of the model (model.h) */
	uint32_t layout;           /* KVD_LAYOUT_* */
	uint32_t kv_format;        /* KVD_FORMAT_* */
	uint32_t n_planes;
	uint32_t block_bytes;      /* of one page in one plane */
	uint32_t page_tokens;      /* KVD_PAGE_TOKENS */
	uint32_t max_seqs;         /* slots wanted, 1 .. 4096 */
	uint32_t max_pages;        /* pages of one sequence = ceil(context / page_tokens) */
	uint32_t sq_entries;       /* power of two, 16 .. 4096 */
};
struct kvd_msg_attached {          /* + fds: submission segment, completion segment */
	struct kvd_msg m;
	uint32_t engine;           /* engine number */
	uint32_t sq_entries, cq_entries;
	uint32_t n_frames;         /* frames per extent of this space */
	uint64_t plane_bytes;
	uint64_t sub_bytes, comp_bytes;       /* segment sizes */
	uint64_t sqe_offset, tokens_offset;   /* in the submission segment */
	uint64_t cqe_offset, tables_offset;   /* in the completion segment */
};
struct kvd_msg_extent { /* EXTENT_MAP (+ fd) and EXTENT_UNMAP; answer by KVD_EXTENT_ACK on the ring
			 */
	struct kvd_msg m;
	uint32_t extent;           /* map at window + extent * extent_bytes */
	uint32_t writable;         /* 0: the fd is read-only, map PROT_READ */
};
struct kvd_msg_adopted {           /* + fd: a fresh completion segment.  kvd was killed and another has taken
				    * over its books.  Between two steps: map it, go on with the same indexes
				    * in it, then store generation to comp_generation of the submission
				    * segment, which stays.  Within 10 s, or the connection is closed */
	struct kvd_msg m;
	uint32_t engine;           /* number, as in ATTACHED */
	uint32_t kvd_pid;
	uint32_t generation;       /* of the completion segment; that of ATTACHED is 0 */
	uint32_t sq_entries, cq_entries;      /* these and what follows: as in ATTACHED */
	uint32_t n_frames;
	uint64_t sub_bytes, comp_bytes;
	uint64_t sqe_offset, tokens_offset;
	uint64_t cqe_offset, tables_offset;
};
struct kvd_msg_stream_open {       /* client: introduce me to an engine */
	struct kvd_msg m;
	char model[KVD_NAME_MAX];  /* "" = the only model served */
	char engine[KVD_NAME_MAX]; /* "" = any engine of the model */
	char avoid[KVD_NAME_MAX];  /* engine that just died, or "" */
	uint32_t wait_ms;          /* wait this long for an engine of the model to attach */
	uint32_t pad;
};
/* After a kvd that knows nothing of the one before: an engine keeps its streams, but their handles died with
 * the old kvd, and whose they are an engine may not say.  So it gives each client a ticket (AGAIN), the
 * client names itself to kvd and shows it, and kvd passes it on with a handle of the tenant that the kernel
 * says. */
struct kvd_msg_stream_again {      /* answered by STREAM without a socket */
	struct kvd_msg m;
	char engine[KVD_NAME_MAX]; /* who serves the stream */
	uint8_t ticket[KVD_TICKET_BYTES];
};
struct kvd_msg_client_again {      /* to the engine; a ticket that it does not know: CLIENT_GONE */
	struct kvd_msg m;
	uint32_t client, weight;   /* as in CLIENT_NEW */
	uint8_t ticket[KVD_TICKET_BYTES];
	char tenant[KVD_NAME_MAX];
};
struct kvd_msg_stream {            /* reply, + fd: the client's end of the stream socket */
	struct kvd_msg m;
	uint32_t client;           /* handle the engine knows the stream by */
	uint32_t pad;
	char model[KVD_NAME_MAX], engine[KVD_NAME_MAX], tenant[KVD_NAME_MAX];
};
struct kvd_msg_client_new {        /* to the engine, + fd: its end of the stream socket */
	struct kvd_msg m;
	uint32_t client;           /* handle to name in KVD_SEQ_OPEN */
	uint32_t weight;           /* share of this tenant in the engine's scheduling, default 100 */
	char tenant[KVD_NAME_MAX]; /* for the log and for fairness */
};
struct kvd_msg_client_gone {       /* from the engine: this handle is no longer used */
	struct kvd_msg m;
	uint32_t client;
	uint32_t prompt_tokens;    /* totals of this stream, for accounting */
	uint32_t cached_tokens, completion_tokens;
};
struct kvd_msg_engine_stats {      /* from the engine, about once a second */
	struct kvd_msg m;
	uint64_t prompt_tokens, cached_tokens, completion_tokens; /* since start */
	uint32_t running, waiting; /* sequences */
	uint32_t tokens_per_s;     /* generated in the last second */
	uint32_t pad;
};
struct kvd_msg_query {             /* admin question; the answer is rows of admin.h in a memfd */
	struct kvd_msg m;
	uint32_t what;             /* enum kvd_query */
	uint32_t pad;
	char argument[KVD_NAME_MAX];
};
struct kvd_msg_rows {              /* reply, + fd (read-only memfd): n_rows rows of row_bytes each */
	struct kvd_msg m;
	uint32_t what;
	uint32_t row_bytes;
	uint64_t n_rows;
};

enum kvd_steer {
#define KVD_STEER(name, number, who, argument, numbers, text) KVD_STEER_##name = number,
#include "kvd/admin.def"
#undef KVD_STEER
};
enum kvd_event_kind {
#define KVD_EVENT(name, number, word, a, b, text) KVD_EVENT_##name = number,
#include "kvd/event.def"
#undef KVD_EVENT
};
struct kvd_msg_steer {             /* STEER; RECORD (+ fd: a stream socket) */
	struct kvd_msg m;
	uint32_t what;             /* enum kvd_steer */
	uint32_t pad;
	uint64_t number[8];        /* as admin.def says; the others are 0 */
	char argument[KVD_NAME_MAX];
};
struct kvd_msg_steered {           /* reply */
	struct kvd_msg m;
	uint32_t what;
	uint32_t more;             /* EVICT: 1: stopped for breath, ask again */
	uint64_t pages, bytes;     /* of the prefix (PIN ... UNPUBLISH), that came free (EVICT) */
};
struct kvd_msg_event {             /* after WATCH or TRIGGER; m.seq is 0: it answers nothing */
	struct kvd_msg m;
	uint32_t kind;             /* enum kvd_event_kind */
	uint32_t lost;             /* events before this one that its reader was too slow for */
	uint64_t number;           /* counts from 1 in each kvd */
	uint64_t realtime_usec;    /* since 1970 */
	uint64_t a, b;             /* as event.def says */
	uint32_t slot, pad;        /* 0xffffffff: none */
	char tenant[KVD_NAME_MAX], engine[KVD_NAME_MAX]; /* "": none */
	char text[128];
};

/* ---- weights: one laid-out copy per host, passed between engines of one file by kvd ---- */
struct kvd_msg_weights {           /* engine -> kvd: OFFER (+ sealed memfd) or ASK; kvd -> engine: reply */
	struct kvd_msg m;          /* ASK's reply has the fd, or status NO_MODEL: lay them out yourself */
	uint8_t fingerprint[16];
	char layout[KVD_NAME_MAX]; /* weight layout id, e.g. "panels/1/avx2" */
};

/* ---- stream socket: client -> engine ---- */
struct kvd_msg_request {           /* followed by REQUEST_DATA packets until n_bytes have come */
	struct kvd_msg m;
	uint32_t n_bytes;          /* of text to come: messages JSON, or the raw prompt */
	uint32_t n_resume;         /* token ids that follow the text (u32 each): already generated */
	uint32_t raw;              /* 1: the text is the prompt itself; 0: chat messages, JSON array */
	uint32_t max_tokens;       /* 0 = until the context is full */
	float temperature;         /* 0 = greedy */
	float top_p, min_p;        /* 1 and 0 = off */
	float repeat_penalty;      /* 1 = off */
	uint32_t top_k;            /* 0 = off */
	uint32_t flags;            /* KVD_REQ_* */
	uint64_t seed;
	uint32_t deadline_ms;      /* 0 = none; from receipt of the request */
	uint32_t n_stop;           /* stop strings, NUL-terminated, in stop[] one after the other */
	char stop[256];
};
#define KVD_REQ_LOGITS_HASH 1u     /* END carries a hash over all logits of generated positions */
#define KVD_REQ_PRIVATE 2u         /* neither look up nor index this sequence's pages */
#define KVD_REQ_IGNORE_END 4u      /* do not stop at an end-of-generation token (benches, tests) */
struct kvd_msg_bytes {             /* REQUEST_DATA */
	struct kvd_msg m;
	uint8_t bytes[];           /* m.size - sizeof(m) bytes */
};

/* ---- stream socket: engine -> client ---- */
struct kvd_msg_started {           /* the prompt is admitted */
	struct kvd_msg m;
	uint32_t prompt_tokens, cached_tokens;
};
struct kvd_msg_tokens {            /* ids, then UTF-8 text; text holds whole characters only */
	struct kvd_msg m;
	uint32_t n_ids, n_text;    /* ids in this packet; bytes of text */
	uint32_t payload[];        /* (n_ids) i32, then n_text bytes */
};
struct kvd_msg_again {
	struct kvd_msg m;
	uint8_t ticket[KVD_TICKET_BYTES];
};
struct kvd_msg_end {
	struct kvd_msg m;          /* status: OK, or why it ended */
	uint32_t finish;           /* enum kvd_finish */
	uint32_t prompt_tokens, cached_tokens, completion_tokens;
	uint32_t ttft_usec;        /* from receipt of the request to the first token */
	uint32_t itl_p50_usec;     /* median time between tokens */
	uint64_t total_usec;
	uint64_t logits_hash;      /* KVD_REQ_LOGITS_HASH, else 0; after n_resume it covers the positions
	                            * generated since then */
	char text[240];            /* the sentence, where status is not OK */
};
enum kvd_finish { KVD_FINISH_STOP = 1, KVD_FINISH_LENGTH = 2, KVD_FINISH_CANCEL = 3, KVD_FINISH_ERROR = 4 };

#endif
