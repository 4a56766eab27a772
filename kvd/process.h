/* process.h - other processes, held by pidfd: whose they are, whether they have ended, ending them. */
#ifndef KVD_PROCESS_H
#define KVD_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/* A descriptor of the process at the other end of a connected socket, or -errno.
 * -ESRCH: it has ended, or is of a pid namespace that we cannot see. */
int process_of_socket(int socket_fd);
/* Its number: above 0; 0: it has ended; -errno: not a pidfd. */
int process_number(int pidfd);
bool process_ended(int pidfd);
/* Kill it and wait until it is gone with all its threads.
 * Returns 0; -ETIMEDOUT: it is not, after timeout_usec; -errno: not a pidfd, or not ours to kill. */
int process_kill(int pidfd, uint64_t timeout_usec);

#endif
