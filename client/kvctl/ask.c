/* ask.c - one question to kvd and its rows; and how a failure is told: one line, and interface.md's exit code. */
#include "client/kvctl/kvctl.h"

#include <stdarg.h>
#include <stdio.h>

int kvctl_complain(int exit_code, const char *format, ...)
{
	va_list arguments;
	fputs("kvctl: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	return exit_code;
}

int kvctl_fail(struct kvd_connection *c, int result)
{
	fprintf(stderr, "kvctl: %s\n", kvd_error(c));
	return result > 0 ? kvd_status_exit_code(result) : 3;
}

int kvctl_ask(struct kvd_connection *c, enum kvd_query what, const char *argument, struct kvctl_rows *ret)
{
	int r = kvd_query(c, what, argument, &ret->rows, &ret->n, &ret->row_bytes);
	if (r != 0)
		*ret = (struct kvctl_rows){ 0 };
	return r == 0 ? 0 : kvctl_fail(c, r);
}

void kvctl_release(struct kvctl_rows *rows)
{
	kvd_rows_free(rows->rows, rows->n, rows->row_bytes);
	*rows = (struct kvctl_rows){ 0 };
}
