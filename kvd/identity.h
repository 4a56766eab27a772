/* identity.h - the control group of the process at the other end of a socket. */
#ifndef KVD_IDENTITY_H
#define KVD_IDENTITY_H

#include <stddef.h>

#include "kvd/config.h"

/* Path of the peer's control group, as [tenant NAME] cgroup = writes it.
 * Returns 0; -ESRCH: the process that connected has ended; -ENOPROTOOPT: a kernel before 6.5; other
 *         -errno: /proc does not show it, -ENAMETOOLONG: deeper than a path may be. */
int identity_cgroup(int socket_fd, char ret[CONFIG_PATH_MAX]);

/* The path in the text of a /proc/PID/cgroup: the line of version 2 ("0::"), else systemd's own of
 * version 1.  -ENOENT: neither, or a group outside our namespace; -ENAMETOOLONG. */
int identity_parse_cgroup(const char *text, char ret[CONFIG_PATH_MAX]);

#endif
