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

/* Listen at path.  A file nobody answers on is replaced. */
int listen_open(const char *path, struct listen_socket *ret, char error[LISTEN_ERROR_MAX]);
/* Go on with the listening socket of a killed kvd, whose name of the bundle says which file it is bound
 * to.  -ESTALE: the file is not there any more, or is another's; fd is closed. */
int listen_adopt(const char *path, const char *name, int fd, struct listen_socket *ret);
/* Its name of the bundle (bundle.h). */
void listen_name(const struct listen_socket *socket, char *ret, size_t bytes);
/* Close, and remove the file if it is still ours. */
void listen_close(struct listen_socket *socket);

/* Lock the directory of a path, so that two who start at once do not take each other's socket for
 * stale.  No file is left.  A descriptor to close, or -1: the directory cannot be read, go on without. */
int listen_lock_directory(const char *path);

#endif
