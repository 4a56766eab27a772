/* socket_path.c - where kvd listens.
 *
 * The order is interface.md's: what the user gave, $KVD_SOCKET, the system's socket where one
 * exists, the user's own.  Any thread; reads the environment, keeps nothing. */
#include "kvd/kvd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SYSTEM_SOCKET "/run/kvd/kvd.sock"

int kvd_socket_path(const char *given, char *ret, size_t max)
{
	const char *from_environment = getenv("KVD_SOCKET");
	const char *runtime_dir = getenv("XDG_RUNTIME_DIR");
	int n;

	if (given && *given)
		n = snprintf(ret, max, "%s", given);
	else if (from_environment && *from_environment)
		n = snprintf(ret, max, "%s", from_environment);
	else if (access(SYSTEM_SOCKET, F_OK) == 0 || !runtime_dir || !*runtime_dir)
		/* Without a runtime directory the system's path is the one an error should name. */
		n = snprintf(ret, max, "%s", SYSTEM_SOCKET);
	else
		n = snprintf(ret, max, "%s/kvd/kvd.sock", runtime_dir);
	return n < 0 || (size_t)n >= max ? -ENAMETOOLONG : 0;
}
