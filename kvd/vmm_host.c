/* vmm_host.c - extents of the host device: anonymous memfds.
 *
 * Owns two descriptors per extent: the one it was made with, and a read-only one made by reopening
 * it through /proc/self/fd.  A memfd is born with mode 0777, and whoever holds even a read-only
 * descriptor could reopen it for writing through its own /proc: so the mode is 0600 before any
 * descriptor leaves.  Between users that is enforced; under one user it guards against bugs only.
 * Sealed against resize (no peer can make us or the mover take a SIGBUS) and against further seals.
 * Loop thread only; nothing allocates after vmm_open(). */
#include "kvd/vmm.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct vmm_host {
	struct vmm common;
	struct {
		int writable, readable;
	} fds[]; /* -1: not made */
};

static void host_close(struct vmm *common)
{
	struct vmm_host *vmm = (struct vmm_host *)common;

	for (uint32_t i = 0; i < common->n_extents; i++)
		if (vmm->fds[i].writable >= 0) {
			close(vmm->fds[i].writable);
			close(vmm->fds[i].readable);
		}
	free(vmm);
}

static int host_extent_adopt(struct vmm *common, uint32_t extent, int fd)
{
	struct vmm_host *vmm = (struct vmm_host *)common;
	char path[64];
	struct stat st;
	int readable;

	assert(vmm->fds[extent].writable < 0);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != common->extent_bytes ||
	    (st.st_mode & 07777) != 0600 || fcntl(fd, F_GET_SEALS) != (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -EINVAL;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	readable = open(path, O_RDONLY | O_CLOEXEC);
	if (readable < 0)
		return -errno;
	vmm->fds[extent].writable = fd;
	vmm->fds[extent].readable = readable;
	return 0;
}

static int host_extent_create(struct vmm *common, uint32_t extent)
{
	struct vmm_host *vmm = (struct vmm_host *)common;
	char path[64];
	int fd, readable, error;

	if (vmm->fds[extent].writable >= 0)
		return 0;
	snprintf(path, sizeof(path), "kvd-extent-%u", extent);
	fd = memfd_create(path, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fchmod(fd, 0600) < 0 || ftruncate(fd, (off_t)common->extent_bytes) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
	    (readable = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
		error = errno;
		close(fd);
		return -error;
	}
	vmm->fds[extent].writable = fd;
	vmm->fds[extent].readable = readable;
	return 0;
}

static int host_extent_fd(const struct vmm *common, uint32_t extent, bool writable)
{
	const struct vmm_host *vmm = (const struct vmm_host *)common;

	if (vmm->fds[extent].writable < 0)
		return -ENOENT;
	return writable ? vmm->fds[extent].writable : vmm->fds[extent].readable;
}

/* Engines lay weights out in memfds of their own, which they seal (weights_share.c). */
static int host_block_create(struct vmm *common, uint64_t bytes, int *ret_fd)
{
	return -EOPNOTSUPP;
}

static const struct vmm_calls host_calls = { host_close, host_extent_create, host_extent_adopt, host_extent_fd,
					     host_block_create };

int vmm_host_find(struct vmm_facts *ret)
{
	*ret = (struct vmm_facts){
		.ordinal = -1,
		.granularity_bytes = (uint64_t)sysconf(_SC_PAGESIZE),
		.fds_per_extent = 2,
		.text = "host memory",
	};
	return 0;
}

int vmm_host_open(uint64_t extent_bytes, uint32_t n_extents, struct vmm **ret)
{
	struct vmm_host *vmm = calloc(1, sizeof(*vmm) + n_extents * sizeof(vmm->fds[0]));

	if (!vmm)
		return -ENOMEM;
	vmm->common = (struct vmm){ .calls = &host_calls, .extent_bytes = extent_bytes, .n_extents = n_extents };
	for (uint32_t i = 0; i < n_extents; i++)
		vmm->fds[i].writable = vmm->fds[i].readable = -1;
	*ret = &vmm->common;
	return 0;
}
