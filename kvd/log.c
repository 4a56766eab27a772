/* log.c - see log.h.  Owns the level and where lines go; loop thread only. */
#include "kvd/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-journal.h>
#include <unistd.h>

#define LOG_LINE_BYTES 1024
#define LOG_BURST 8u
#define LOG_PERIOD_USEC 1000000u

static enum log_level log_level_max = LOG_LEVEL_INFO;
static bool log_to_journal;

static const char *const log_names[] = { "error", "warn", "info", "debug" };

void log_init(enum log_level level)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device = 0, inode = 0;
	struct stat st;

	log_level_max = level;
	/* The variable is inherited by children whose stderr is something else: compare. */
	log_to_journal = stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
			 fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device &&
			 st.st_ino == inode;
}

void log_set_level(enum log_level level)
{
	log_level_max = level;
}

int log_level_parse(const char *text, enum log_level *ret)
{
	for (unsigned i = 0; i < sizeof(log_names) / sizeof(log_names[0]); i++)
		if (!strcmp(text, log_names[i])) {
			*ret = (enum log_level)i;
			return 0;
		}
	return -EINVAL;
}

void log_write(enum log_level level, const char *format, ...)
{
	static const int priorities[] = { 3, 4, 6, 7 };
	char line[LOG_LINE_BYTES];
	int head, n;
	va_list args;

	if (level > log_level_max)
		return;
	head = log_to_journal ? 0 : snprintf(line, sizeof(line), "kvd %s ", log_names[level]);
	va_start(args, format);
	n = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, format, args);
	va_end(args);
	if (n < 0)
		return;
	n += head;
	if (n > LOG_LINE_BYTES - 2)
		n = LOG_LINE_BYTES - 2;
	if (log_to_journal) {
		line[n] = '\0';
		(void)sd_journal_print(priorities[level], "%s", line);
		return;
	}
	line[n++] = '\n';
	/* A log that cannot be written must not stop the daemon. */
	(void)!write(STDERR_FILENO, line, (size_t)n);
}

bool log_allow(struct log_limit *limit, uint64_t now_usec, uint32_t *ret_suppressed)
{
	uint64_t floor = now_usec > LOG_BURST * LOG_PERIOD_USEC
				 ? now_usec - LOG_BURST * LOG_PERIOD_USEC
				 : 0;

	if (limit->next_usec < floor)
		limit->next_usec = floor;
	if (limit->next_usec + LOG_PERIOD_USEC > now_usec) {
		limit->suppressed++;
		return false;
	}
	limit->next_usec += LOG_PERIOD_USEC;
	*ret_suppressed = limit->suppressed;
	limit->suppressed = 0;
	return true;
}
