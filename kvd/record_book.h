/* record_book.h - what a record and a replay do alike: the canonical book, its hash, blocks and events as bytes. */
#ifndef KVD_RECORD_BOOK_H
#define KVD_RECORD_BOOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvd/core/core.h"
#include "kvd/record.h"

/* Call take() for every canonical block that is not all zero, in order; book_fd: the memfd that the core lies in,
 * so that holes are not touched.  Returns 0 or -errno. */
int record_book_blocks(int book_fd, const struct core *core, core_canon_map map, void *arg,
		       void (*take)(void *arg, uint64_t offset, const uint8_t *block));
/* XXH3 over these, without tokens. */
int record_book_hash(int book_fd, const struct core *core, uint64_t *ret_hash);

uint32_t record_crc(const void *bytes, size_t n);

#define RECORD_PAGE_WORDS 4u               /* 32-bit words that stand for a page's tokens in a record */
#define RECORD_EVENT_MAX (sizeof(struct kvd_record_event) + 2048u)  /* without tokens */

/* An event without its tokens, as bytes.  Returns how many, a multiple of 8, at most RECORD_EVENT_MAX; the
 * tokens of a SUBMIT are to follow, n_tokens of them. */
size_t record_event_encode(const struct core_event *event, uint64_t now_usec, uint8_t *ret);
/* The reverse; bytes: of event and body and tokens together.  False: nonsense. */
bool record_event_decode(const struct kvd_record_event *head, const uint8_t *body, size_t n,
			 struct core_event *ret, size_t *ret_used);

#endif
