/* log.c - see log.h.  Owns the level and where lines go; loop thread only. */
#include "kvd/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#define SD_JOURNAL_SUPPRESS_LOCATION /* the event names its place better than a line number */
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

/* Append "KVD_NAME=value" and its iovec; false: no room. */
static bool add_field(struct log_fields *ret, const char *prefix, const char *name, size_t name_bytes,
		      const char *value, size_t value_bytes)
{
	size_t prefix_bytes = strlen(prefix), need = prefix_bytes + name_bytes + 1 + value_bytes;
	char *at = ret->bytes + ret->used;

	if (ret->n == LOG_FIELDS_MAX || need > sizeof(ret->bytes) - ret->used)
		return false;
	ret->fields[ret->n++] = (struct iovec){ at, need };
	memcpy(at, prefix, prefix_bytes);
	at += prefix_bytes;
	for (size_t i = 0; i < name_bytes; i++)
		*at++ = name[i] >= 'a' && name[i] <= 'z' ? (char)(name[i] - 'a' + 'A') : name[i];
	*at++ = '=';
	memcpy(at, value, value_bytes);
	ret->used += need;
	return true;
}

void log_fields(enum log_level level, const char *line, struct log_fields *ret)
{
	static const char *const priorities[] = { "3", "4", "6", "7" };
	const char *at = line + strcspn(line, " ");

	ret->n = 0;
	ret->used = 0;
	add_field(ret, "", "MESSAGE", 7, line, strlen(line));
	add_field(ret, "", "PRIORITY", 8, priorities[level], 1);
	add_field(ret, "", "SYSLOG_IDENTIFIER", 17, "kvd", 3);
	add_field(ret, "KVD_", "EVENT", 5, line, (size_t)(at - line));
	for (;;) {
		const char *name = at += strspn(at, " "), *value;
		size_t name_bytes = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_"), value_bytes;
		bool quoted = name_bytes && name[name_bytes] == '=' && name[name_bytes + 1] == '"';

		if (!*name)
			return;
		if (!name_bytes || name[name_bytes] != '=') {
			at += strcspn(at, " "); /* a word without a value is in MESSAGE only */
			continue;
		}
		value = name + name_bytes + 1 + quoted;
		value_bytes = strcspn(value, quoted ? "\"" : " ");
		at = value + value_bytes + (quoted && value[value_bytes]);
		add_field(ret, "KVD_", name, name_bytes, value, value_bytes);
	}
}

void log_write(enum log_level level, const char *format, ...)
{
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
		struct log_fields fields;

		line[n] = '\0';
		log_fields(level, line, &fields);
		(void)sd_journal_sendv(fields.fields, (int)fields.n);
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
