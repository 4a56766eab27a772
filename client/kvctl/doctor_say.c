/* doctor_say.c - how a check of `kvctl doctor` is said: a line with its level and remedy, or a row of JSON. */
#include "client/kvctl/doctor.h"

#include <stdarg.h>
#include <stdio.h>

void doctor_say(struct doctor *d, const char *check, enum level level, const char *format, const char *remedy, ...)
{
	static const char *const words[] = { "ok", "WARN", "FAIL" }, *const colours[] = { "32", "33", "31" };
	char text[256];
	va_list arguments;
	va_start(arguments, remedy);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	d->failed += level == FAIL;
	if (d->v->json) {
		json_array_append_new(d->all, json_pack("{s:s, s:s, s:s, s:s}", "check", check, "level", words[level],
							"text", text, "remedy", level == OK ? "" : remedy));
		return;
	}
	if (d->v->colour)
		fprintf(d->v->out, "\033[%sm%-4s\033[0m %s: %s", colours[level], words[level], check, text);
	else
		fprintf(d->v->out, "%-4s %s: %s", words[level], check, text);
	fprintf(d->v->out, level == OK || !*remedy ? "\n" : "  -> %s\n", remedy);
}
