/* recorder.h - recording: every event that the core takes goes to a socket that an administrator handed over.
 *
 * The recorder copies: it never waits for its reader, and a reader that is too slow for the buffer ends the
 * recording (the file then has no END).  One recording at a time. */
#ifndef KVD_RECORDER_H
#define KVD_RECORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvd/core/core.h"
#include "kvd/proto.h"

struct daemon;
struct peer;

#define LIMIT_RECORD_BYTES (32u << 20)     /* events that its reader has not taken: seconds of a busy host */
#define LIMIT_RECORD_ROUND_BYTES (256u << 10)  /* handed to the socket in one round of the loop */

struct recorder {
	bool active;
	bool failed;                       /* its buffer was full */
	struct peer *peer;                 /* who asked */
	int fd;                            /* our end of its socket */
	bool with_tokens;
	uint64_t key[2];                   /* with the core's, of what stands for tokens */
	uint64_t until_usec, n_events;
	uint32_t end_reason;               /* 0: goes on */
	uint8_t *ring;                     /* (LIMIT_RECORD_BYTES) whole blocks */
	uint64_t head, tail;
	uint8_t *payload;                  /* (KVD_RECORD_PAYLOAD_MAX) events of the block that is begun */
	uint32_t n_payload;
	uint8_t *snapshot;                 /* records of {offset, block}; NULL: sent */
	uint64_t snapshot_bytes, snapshot_room, snapshot_at;
	uint8_t *stage;                    /* one block of the snapshot, as it is sent */
	uint32_t stage_at, stage_n;
};

void record_request(struct peer *peer, const struct kvd_msg_steer *m, int fd);
/* Before and after the core takes an event. */
void record_event(struct daemon *daemon, const struct core_event *event, uint64_t now_usec);
void record_event_done(struct daemon *daemon);
/* Send what the socket takes; returns when to be called again. */
uint64_t record_pump(struct daemon *daemon, uint64_t now_usec);
void record_forget(struct daemon *daemon, struct peer *peer);
void record_close(struct daemon *daemon);

/* replay.c: `kvd --replay FILE`.  Returns the exit code; what came of it is on stdout, or stderr. */
int replay_file(const char *path);
/* The same for bytes in memory and without running an event, for the fuzzer: 0, or -1 with a sentence. */
int replay_check(const uint8_t *bytes, size_t n, char ret_error[256]);

#endif
