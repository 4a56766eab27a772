/* log.h - the daemon's log: one line a fact, "what key=value key=value".
 *
 * Goes to the journal when stderr is connected to it ($JOURNAL_STREAM), with "what" as KVD_EVENT and every
 * key as KVD_KEY, so that `journalctl KVD_TENANT=shop` works; else to stderr.  Never logs a byte of a
 * prompt, never allocates.  Strings that came from a peer are validated (wire.c) before
 * they get here. */
#ifndef KVD_LOG_H
#define KVD_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum log_level { LOG_LEVEL_ERROR = 0, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* How often a source of lines may speak: a burst of 8, then one line a second. 
 * Zero-initialised. */
struct log_limit {
	uint64_t next_usec;        /* when the bucket is full again, minus its depth */
	uint32_t suppressed;       /* lines dropped since the last one written */
};

/* Look at $JOURNAL_STREAM; before this the log goes to stderr at level info. */
void log_init(enum log_level level);
void log_set_level(enum log_level level);
/* "error", "warn", "info", "debug"; -EINVAL for anything else. */
int log_level_parse(const char *text, enum log_level *ret);

__attribute__((format(printf, 2, 3)))
void log_write(enum log_level level, const char *format, ...);

/* What the journal gets of a line: MESSAGE, PRIORITY, SYSLOG_IDENTIFIER, KVD_EVENT, KVD_KEY...; what has no
 * room is in MESSAGE only. */
#define LOG_FIELDS_MAX 32u
struct log_fields {
	uint32_t n;
	size_t used;
	struct iovec fields[LOG_FIELDS_MAX];
	char bytes[4096];
};
void log_fields(enum log_level level, const char *line, struct log_fields *ret);

/* True if the source may write a line now.  *ret_suppressed: lines dropped before this one. */
bool log_allow(struct log_limit *limit, uint64_t now_usec, uint32_t *ret_suppressed);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
