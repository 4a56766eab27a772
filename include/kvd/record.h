/* record.h - the file of `kvctl record` and `kvd --replay`.
 *
 * A sequence of blocks: HEADER, SNAPSHOT of the book, HASH, then EVENTS with a HASH after every 1,000 of them,
 * and END.  Each block has its length and its CRC-32C, so that a cut or damaged file is found out at the block
 * where it is.  Numbers are little-endian; a file is for the kvd whose layout version it names, no other. */
#ifndef KVD_RECORD_H
#define KVD_RECORD_H

#include <stdint.h>

#define KVD_RECORD_MAGIC 0x64766b72u       /* "rkvd" */
#define KVD_RECORD_VERSION 1u
#define KVD_RECORD_PAYLOAD_MAX 65536u
#define KVD_RECORD_HASH_EVENTS 1000u       /* a HASH after so many events */

enum kvd_record_type {
	KVD_RECORD_HEADER = 1, KVD_RECORD_SNAPSHOT, KVD_RECORD_EVENTS, KVD_RECORD_HASH, KVD_RECORD_END,
};

struct kvd_record_block {
	uint32_t magic, type;
	uint32_t bytes;                    /* of the payload that follows, at most KVD_RECORD_PAYLOAD_MAX */
	uint32_t crc;                      /* CRC-32C of the payload */
};
struct kvd_record_header {                 /* then struct core_config, config_bytes of it */
	uint32_t version, config_bytes;
	uint64_t layout_version, book_bytes, realtime_usec;
	uint32_t with_tokens;              /* 0: each page's tokens are 128 bits of keyed hashes of them */
	uint32_t event_bytes;              /* sizeof(struct core_event), part of the layout */
};
struct kvd_record_snapshot { uint64_t offset; /* then whole blocks of 4096 bytes of the book */ };
struct kvd_record_event {                  /* then its body; events lie one after the other in a block */
	uint32_t bytes;                    /* of event and body, a multiple of 8 */
	uint16_t type, pad;
	uint32_t engine, n_tokens;
	uint64_t now_usec;
};
struct kvd_record_hash { uint64_t n_events, hash; };
struct kvd_record_end { uint64_t n_events; uint32_t reason, pad; }; /* enum kvd_record_end_reason */
enum kvd_record_end_reason {
	KVD_RECORD_TIME = 1,               /* as long as was asked for */
	KVD_RECORD_READER,                 /* its reader said that it is enough */
};

#endif
