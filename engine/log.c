/* log.c - one write() a line, so that lines of two engines on one terminal never mix.
 *
 * Holds the level and a counter.  Any thread may log; log_init() runs before others start. */
#include "engine/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = { "error", "warning", "info", "debug" };
static const int syslog_numbers[] = { 3, 4, 6, 7 };
static enum log_level log_limit = LOG_LEVEL_INFO;
static bool to_journal;

bool log_parse_level(const char *name, enum log_level *ret_level)
{
	for (int i = 0; i <= LOG_LEVEL_DEBUG; i++)
		if (strcmp(name, level_names[i]) == 0) {
			*ret_level = (enum log_level)i;
			return true;
		}
	return false;
}

void log_init(enum log_level level)
{
	log_limit = level;
	to_journal = getenv("JOURNAL_STREAM") != NULL && !isatty(STDERR_FILENO);
}

static void write_line(enum log_level level, const char *format, va_list arguments)
{
	char line[1024];
	int n = 0, more;

	if (to_journal)
		n = snprintf(line, sizeof(line), "<%d>", syslog_numbers[level]);
	n += snprintf(line + n, sizeof(line) - (size_t)n, "kvengine %s ", level_names[level]);
	more = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, arguments);
	if (more > 0)
		n += more;
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	/* a name from outside must not forge a second line */
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;            /* nowhere to say that saying it failed */
}

void log_write(enum log_level level, const char *format, ...)
{
	va_list arguments;

	if (level > log_limit)
		return;
	va_start(arguments, format);
	write_line(level, format, arguments);
	va_end(arguments);
}

void log_peer(const char *format, ...)
{
	static time_t second;
	static unsigned n_lines;
	struct timespec now;
	va_list arguments;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (now.tv_sec != second) {
		if (n_lines > LOG_PEER_LINES)
			log_info("lines left out=%u", n_lines - LOG_PEER_LINES);
		second = now.tv_sec;
		n_lines = 0;
	}
	if (n_lines++ >= LOG_PEER_LINES || LOG_LEVEL_INFO > log_limit)
		return;
	va_start(arguments, format);
	write_line(LOG_LEVEL_INFO, format, arguments);
	va_end(arguments);
}
