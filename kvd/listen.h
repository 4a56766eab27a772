/* listen.h - the listening socket: where it is, who had it before, who removes it. */
#ifndef KVD_LISTEN_H
#define KVD_LISTEN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define LISTEN_PATH_MAX 108        /* sun_path */
#define LISTEN_ERROR_MAX 320

struct listen_socket {
	int fd;                    /* -1: none */
	bool ours;                 /* we made the file and remove it */
	dev_t device;
	ino_t inode;
	char path[LISTEN_PATH_MAX];
};

/* Path of the socket: given, else $KVD_SOCKET, else /run/kvd/kvd.sock for root, else
 * $XDG_RUNTIME_DIR/kvd/kvd.sock; the directory of a default is made.  -errno and a sentence. */
int listen_path(const char *given, char ret[LISTEN_PATH_MAX], char error[LISTEN_ERROR_MAX]);

/* Listen at path, or on the socket systemd has passed.  A file nobody answers on is replaced. */
int listen_open(const char *path, struct listen_socket *ret, char error[LISTEN_ERROR_MAX]);
/* Close, and remove the file if it is still ours. */
void listen_close(struct listen_socket *socket);

#endif
