/* log.h - the engine's log: one fact a line on stderr, key=value, never text of a prompt.
 *
 * Example: `kvengine info attached engine=a number=0 pages=512`.  Where stderr is the journal the
 * lines carry its <N> priority prefix. */
#ifndef ENGINE_LOG_H
#define ENGINE_LOG_H

#include <stdbool.h>

enum log_level { LOG_LEVEL_ERROR = 0, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* "error", "warning", "info", "debug"; false if it is none of them. */
bool log_parse_level(const char *name, enum log_level *ret_level);
void log_init(enum log_level level);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line that a client can cause as often as it likes: at most LOG_PEER_LINES a second of all of
 * them together are written, the others counted.  The engine's thread only. */
#define LOG_PEER_LINES 10u
void log_peer(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
