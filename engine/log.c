/* log.c - one write() a line, so that lines of two engines on one terminal never mix.
 *
 * Holds the level and nothing else.  Any thread may log; log_init() runs before others start. */
#include "engine/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

void log_write(enum log_level level, const char *format, ...)
{
	char line[1024];
	va_list arguments;
	int n = 0, more;

	if (level > log_limit)
		return;
	if (to_journal)
		n = snprintf(line, sizeof(line), "<%d>", syslog_numbers[level]);
	n += snprintf(line + n, sizeof(line) - (size_t)n, "kvengine %s ", level_names[level]);
	va_start(arguments, format);
	more = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, arguments);
	va_end(arguments);
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
