/* status.c - the sentences and exit codes of status.def, and the library's version.
 *
 * Tables only; any thread. */
#include "kvd/kvd.h"

#include "kvd/version.h"

const char *kvd_version(void)
{
	return KVD_VERSION;
}

const char *kvd_status_text(int status)
{
	switch (status) {
#define KVD_STATUS(name, number, exit_code, text) case number: return text;
#include "kvd/status.def"
#undef KVD_STATUS
	}
	return "a status that this version of libkvd does not know; upgrade it";
}

int kvd_status_exit_code(int status)
{
	switch (status) {
#define KVD_STATUS(name, number, exit_code, text) case number: return exit_code;
#include "kvd/status.def"
#undef KVD_STATUS
	}
	return 1;
}
