/* packet.h - one packet of a SOCK_SEQPACKET socket, with the descriptors that came along. */
#ifndef CLIENT_PACKET_H
#define CLIENT_PACKET_H

#include <stddef.h>
#include <stdint.h>

#define KVD_PACKET_FDS_MAX                                                                         \
	4u /* kvd sends two at most; a peer that sends more breaks the protocol */
#define KVD_NEVER UINT64_MAX       /* a deadline that does not come */

struct kvd_packet {
	size_t bytes;
	uint32_t n_fds;
	int fds[KVD_PACKET_FDS_MAX]; /* ours until kvd_packet_close_fds() or kvd_packet_take_fd() */
};

/* Send without blocking.  Returns 0; -EAGAIN the socket is full; -ENOTCONN the peer is gone;
 * -errno. */
int kvd_packet_send(int fd, const void *bytes, size_t n_bytes, const int *fds, uint32_t n_fds);

/* Send, waiting for room until deadline_usec (kvd_clock_usec()).  Returns as above, -ETIMEDOUT. */
int kvd_packet_send_until(int fd, const void *bytes, size_t n_bytes, const int *fds, uint32_t n_fds,
			  uint64_t deadline_usec);

/* Receive one packet without blocking; descriptors are close-on-exec.
 * Returns 0; -EAGAIN nothing is there; -ENOTCONN the peer is gone; -EPROTO the packet is longer
 * than max or carries too many descriptors (they are closed); -errno. */
int kvd_packet_receive(int fd, void *buffer, size_t max, struct kvd_packet *ret);

/* Take descriptor number i out of the packet; -1 if there is none. */
int kvd_packet_take_fd(struct kvd_packet *packet, uint32_t i);
/* Close what was not taken. */
void kvd_packet_close_fds(struct kvd_packet *packet);

/* Monotonic time. */
uint64_t kvd_clock_usec(void);

/* Wait for events on fd, fd < 0: only for time to pass.  Returns 1 ready (or hung up), 0 the
 * deadline came, -errno. Signals do not end the wait. */
int kvd_wait_until(int fd, short events, uint64_t deadline_usec);

#endif
