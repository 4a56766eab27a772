/* limits.h - every bound of the daemon, with its reason.
 *
 * All pools are sized from these at start; after READY the daemon allocates nothing.  A bound that
 * a peer can reach answers with KVD_S_LIMIT and the number, never with a crash. */
#ifndef KVD_LIMITS_H
#define KVD_LIMITS_H

/* How much slower than the product this build computes; the Makefile says so for a sanitizer's. */
#ifndef LIMIT_SLOW
#define LIMIT_SLOW 1u
#endif

/* Connections.  1,000 tenants at once is the house's load; four times that, so that one user cannot
 * shut out the others, and 4,096 sockets fit the hard RLIMIT_NOFILE of every distribution. */
#define LIMIT_PEERS 4096u
#define LIMIT_PEERS_PER_UID 512u         /* an eighth of all; not for root and the daemon's uid */
#define LIMIT_PEERS_RESERVED 64u         /* of LIMIT_PEERS, for root and the daemon's own uid */

#define LIMIT_CONNECTS_PER_SEC 500u      /* per uid; each costs kvd 20 usec: a flood takes one per cent */
#define LIMIT_CONNECTS_BURST_USEC 2000000u /* twice LIMIT_PEERS_PER_UID at once: a gateway that starts */
#define LIMIT_ACCEPT_FLOOD_USEC 4000u    /* after a round mostly refused: a flood of connections takes a
                                          * quarter of a processor, a new peer waits 0.3 s in a full backlog */
#define LIMIT_QUIET_USEC 100000u         /* who is over its ops-rate is not read for so long */

/* Work per peer and round: enough to keep a busy engine fed (a step submits a few entries per
 * sequence), small enough that 63 busy engines cost a round well under a millisecond. */
#define LIMIT_MESSAGES_PER_ROUND 16u
#define LIMIT_SUBMISSIONS_PER_ROUND 256u
#define LIMIT_ACCEPTS_PER_ROUND 64u

/* Messages that wait because the peer's socket is full.  An engine may be owed one EXTENT_MAP for
 * each extent of the pool at once and a CLIENT_NEW for each stream; a client reads or is closed. */
#define LIMIT_OUT_RECORDS 16384u
#define LIMIT_OUT_PER_ENGINE (LIMIT_EXTENTS_FOLLOW + 1024u)
#define LIMIT_OUT_PER_CLIENT 32u
#define LIMIT_OUT_BYTES 384u             /* largest message kvd sends; asserted in peer_out.c */

/* Deadlines in microseconds. */
#define LIMIT_GREETING_USEC 5000000u     /* connect to HELLO; a shell started by hand is faster */
#define LIMIT_STALL_USEC 10000000u       /* a peer owes us room in its socket for this long */
#define LIMIT_STREAM_WAIT_MS 600000u     /* longest wait_ms: a model loads in minutes */
#define LIMIT_QUIET_ALARM_USEC 30000000u /* hung-up engine, process will not end: tell people */
#define LIMIT_ACCEPT_RETRY_USEC 100000u  /* out of descriptors: look again */

#define LIMIT_SWITCH_USEC (10000000u * LIMIT_SLOW) /* an engine taken over uses the new tables by then: a step
					  * of the largest prefill takes a second or two */
#define LIMIT_OLD_MOVER_USEC 5000000u    /* a killed mover is gone by then: at most 1 GiB of its job, and ... */
#define LIMIT_OLD_MOVER_GIB_USEC 500000u /* ... for each GiB of the pool: it had that mapped */

/* Extents when --extent is not given: about 64 of them, so that a small pool does not starve on
 * colours; 1 MiB at least, 64 MiB at most (mapping cost, design.md section 4); but fewer than
 * 3,000, because each costs two descriptors. */
#define LIMIT_EXTENTS_WANTED 64u
#define LIMIT_EXTENT_BYTES_MIN (1ull << 20)
/* Below this an extent is too small for eight pages of SmolLM2 (360 KiB each): rather fewer extents, but
 * not fewer than two engines, the shared colour and their growth need. */
#define LIMIT_EXTENT_BYTES_USEFUL (4ull << 20)
#define LIMIT_EXTENTS_FEWEST 16u
#define LIMIT_EXTENT_BYTES_MAX (64ull << 20)
#define LIMIT_EXTENTS_FOLLOW 3000u
#define LIMIT_EXTENTS 8192u              /* with an --extent given; two descriptors each */

/* Streams: one record per introduced client. */
#define LIMIT_STREAMS 16384u             /* 16 bits of a handle; four per connection */
#define LIMIT_STREAMS_PER_ENGINE 1024u   /* as many as kvengine serves or lets wait */

/* Book. */
#define LIMIT_TENANTS 4096u              /* 1,000 tenants is the house's load, times four */
#define LIMIT_SEQUENCES 65536u           /* 16 engines with the most slots one may ask for */
#define LIMIT_HOLDS (8u << 20)           /* 64 engines x 64 slots x 32k tokens; touched when used */
#define LIMIT_PROMISE_USEC (2000000u * LIMIT_SLOW) /* who promises and seals nothing is passed over:
                                          * twenty prefill chunks on the slowest machine we met */

/* One engine's rings. */
#define LIMIT_SLOTS 4096u
#define LIMIT_MAX_PAGES 65536u           /* a context of 1 Mi tokens */
#define LIMIT_SQ_ENTRIES_MIN 16u
#define LIMIT_SQ_ENTRIES_MAX 4096u
#define LIMIT_SEGMENT_BYTES (1ull << 30) /* token rows of 256 slots of 64k pages */

/* Weights kept for other engines: one per model and layout. */
#define LIMIT_WEIGHTS 64u

/* Mover: jobs it has at once, and jobs that wait here.  A frame job is a few hundred microseconds;
 * 64 keep it busy between two rounds.  Extent jobs take milliseconds: two, one running, one
 * waiting. */
#define LIMIT_MOVER_SMALL 64u
#define LIMIT_MOVER_BIG 2u
#define LIMIT_MOVER_DISK 32u              /* a device's queue; more only wait in another place */
#define LIMIT_MOVER_SHARE 8u              /* compare jobs: in nobody's way, one at a time */
#define LIMIT_MERGE_USEC 1000000u        /* a round of merging: longer than most prefills, so that a page's
                                          * compare is not part of what its request feels */
#define LIMIT_COVERS 16384u              /* pages of a space that are to be compared or covered: more than the
                                          * mover's slow thread has time for in some rounds */
#define LIMIT_MOVER_SILENCE_USEC 30000000u /* the largest job, touching 1 GiB, takes a second */
#define LIMIT_MOVER_RESTART_USEC 100000u /* after one that lived under 1 s; doubles to 5 s */

/* Configuration file: entries of each kind, bytes of a file and of a line. */
#define LIMIT_CONFIG_TENANTS 1024u
#define LIMIT_CONFIG_DOMAINS 256u
#define LIMIT_CONFIG_MEMBERS 4096u
#define LIMIT_CONFIG_UIDS 64u
#define LIMIT_CONFIG_TIERS 8u
#define LIMIT_CONFIG_FILES 64u           /* kvd.conf and its drop-ins */
#define LIMIT_CONFIG_FILE_BYTES (1u << 20)
#define LIMIT_USERS 1024u                /* names read from /etc/passwd at start */

/* Admin: bytes of rows written per round, so that a list of a million pages never stops the
 * loop. */
#define LIMIT_ROWS_BYTES_PER_ROUND 65536u
/* The watchdog's sample: a second apart.  4,096 records cost 0.2 ms with warm caches (50 ns each, measured on a
 * small book); a million full frames and their nodes are swept in some ten minutes. */
#define LIMIT_SAMPLE_USEC 1000000u
#define LIMIT_SAMPLE_RECORDS 4096u
#define LIMIT_ASK_USEC 100000u           /* of a user without rights: ten questions a second ... */
#define LIMIT_ASK_BURST 20u              /* ... after twenty at once; a dashboard asks five */

#endif
