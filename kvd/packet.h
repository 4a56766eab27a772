/* packet.h - one packet of a local socket with its descriptors: what SCM_RIGHTS looks like, once. */
#ifndef KVD_PACKET_H
#define KVD_PACKET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PACKET_FDS_MAX 8u          /* most descriptors of one packet; even, so that CMSG_SPACE holds no more */

/* Send without waiting; descriptors stay the caller's.  Returns 0 or -errno. */
int packet_send(int fd, const void *bytes, size_t size, const int *fds, uint32_t n_fds);
/* Is that errno a full socket?  Too many descriptors in flight is somebody's full socket, too. */
int packet_full(int error);        /* -EAGAIN for such a one, else the error itself */
/* Receive one without waiting, or with MSG_PEEK in flags only look at it.
 * fds      (fds_max) room for descriptors, now the caller's; close-on-exec; fds_max even
 * ret_flags  MSG_TRUNC, MSG_CTRUNC: it was larger, or had more descriptors
 * Returns  its size; 0: hung up; -errno. */
ssize_t packet_receive(int fd, int flags, void *buffer, size_t size, int *fds, uint32_t fds_max,
		       uint32_t *ret_n_fds, int *ret_flags);

#endif
