/* slot.c - a device's memory: one sparse file FAKECUDA_DIR/deviceN.mem on a tmpfs, shared by all processes.
 *
 * A slot is one physical allocation, at (index + 1) * SPAN_BYTES.  It is in use as long as one of two bytes is
 * locked by an open file description (F_OFD_SETLK), and such a lock goes with the last descriptor or mapping of
 * that description, in whatever process: a SIGKILL frees memory as the kernel does.
 *   LOCK_HELD + index      by each process that has a handle or a mapping, for reading: there may be many
 *   LOCK_EXPORTED + index  by the description that is exported.  It is open for writing only, so that nobody
 *                          can map or read what he was sent but through an import; its offset names the slot.
 * The table of slots lies in the file's first pages, guarded by another lock of the same file.
 * Fresh memory is filled with 0xA5, never with zeros. */
#include "tests/fakecuda/fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEVICES_MAX = 4, SLOTS_MAX = 8000 };
#define SPAN_BYTES (1ull << 36)
#define LOCK_BASE (1ll << 61)
#define LOCK_TABLE (LOCK_BASE - 1)
#define LOCK_CONTEXT (LOCK_BASE - 2)
#define LOCK_HELD LOCK_BASE
#define LOCK_EXPORTED (LOCK_BASE + (1ll << 39))
#define LOCK_PROCESS (LOCK_BASE + (1ll << 40))  /* + pid: the process has a context */

struct table {
	uint64_t capacity_bytes;
	struct { uint64_t bytes; uint32_t used, populated; } slots[SLOTS_MAX];
};
static struct { int fd; struct table *table; struct stat st; } devices[DEVICES_MAX];
static int n_open;

static int lock_byte(int fd, int command, short type, off_t byte)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	int r = fcntl(fd, command, &l);

	if (r == 0 && command == F_OFD_GETLK)
		return l.l_type != F_UNLCK;
	return r;
}

static void table_lock(int device)
{
	while (lock_byte(devices[device].fd, F_OFD_SETLKW, F_WRLCK, LOCK_TABLE) != 0 && errno == EINTR)
		;
}

static void table_unlock(int device)
{
	lock_byte(devices[device].fd, F_OFD_SETLK, F_UNLCK, LOCK_TABLE);
}

static int open_high(const char *path, int flags)
{
	int fd = open(path, flags, 0666), high;

	if (fd < 0)
		return -1;
	high = fcntl(fd, F_DUPFD_CLOEXEC, 200);
	close(fd);
	return high;
}

CUresult slot_open_devices(void)
{
	for (; n_open < fake.set.n_devices && n_open < DEVICES_MAX; n_open++) {
		char path[240];

		snprintf(path, sizeof(path), "%s/device%d.mem", fake.dir, n_open);
		int fd = open_high(path, O_RDWR | O_CREAT | O_CLOEXEC);
		if (fd < 0)
			return CUDA_ERROR_NO_DEVICE;
		(void)!fchmod(fd, 0666);
		devices[n_open].fd = fd;
		table_lock(n_open);
		if (fstat(fd, &devices[n_open].st) == 0 && devices[n_open].st.st_size == 0)
			(void)!ftruncate(fd, (off_t)((SLOTS_MAX + 2) * SPAN_BYTES));
		struct table *t = mmap(NULL, sizeof(struct table), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (t != MAP_FAILED && t->capacity_bytes == 0)
			t->capacity_bytes = fake.set.memory_bytes;
		table_unlock(n_open);
		if (t == MAP_FAILED) {
			close(fd);
			return CUDA_ERROR_NO_DEVICE;
		}
		devices[n_open].table = t;
	}
	return n_open ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

void slot_close_devices(void)
{
	while (n_open > 0) {
		n_open--;
		munmap(devices[n_open].table, sizeof(struct table));
		close(devices[n_open].fd);
	}
}

/* "256M" */
size_t fake_bytes(const char *text, size_t otherwise)
{
	char *end;
	size_t n;

	if (!text || !*text)
		return otherwise;
	n = strtoull(text, &end, 0);
	switch (*end) {
	case 'G': return n << 30;
	case 'M': return n << 20;
	case 'K': return n << 10;
	default: return n;
	}
}

bool slot_is_device_file(int fd)
{
	struct stat st;
	char path[64], target[300];
	ssize_t n;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size != (off_t)((SLOTS_MAX + 2) * SPAN_BYTES))
		return false;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	target[n > 0 ? n : 0] = '\0';
	return strstr(target, "/device") && strstr(target, ".mem");
}

static off_t offset_of(uint32_t index)
{
	return (off_t)((index + 1) * SPAN_BYTES);
}

static bool is_in_use(int device, off_t index)
{
	return lock_byte(devices[device].fd, F_OFD_GETLK, F_WRLCK, LOCK_HELD + index) == 1 ||
	       lock_byte(devices[device].fd, F_OFD_GETLK, F_WRLCK, LOCK_EXPORTED + index) == 1;
}

/* A description of this process's own, which its mappings keep. */
static int open_held(int device, uint32_t index)
{
	char path[240];
	int fd;

	snprintf(path, sizeof(path), "%s/device%d.mem", fake.dir, device);
	fd = open_high(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		lock_byte(fd, F_OFD_SETLK, F_RDLCK, LOCK_HELD + index);
	return fd;
}

static int open_exported(int device, uint32_t index)
{
	char path[240];
	int fd;

	snprintf(path, sizeof(path), "%s/device%d.mem", fake.dir, device);
	fd = open_high(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		lock_byte(fd, F_OFD_SETLK, F_WRLCK, LOCK_EXPORTED + index);
		lseek(fd, index, SEEK_SET);
	}
	return fd;
}

/* With the table locked: give back what nobody holds any more; bytes in use. */
static size_t sweep(int device)
{
	struct table *t = devices[device].table;
	size_t used = 0;

	for (uint32_t i = 0; i < SLOTS_MAX; i++) {
		if (!t->slots[i].used)
			continue;
		if (is_in_use(device, i))
			used += t->slots[i].bytes;
		else
			t->slots[i].used = 0;
	}
	return used;
}

/* A free slot: one that has pages of this size already, or an empty one; what others have is given up. */
static uint32_t pick(int device, size_t bytes)
{
	struct table *t = devices[device].table;
	uint32_t found = SLOTS_MAX;

	for (uint32_t i = 0; i < SLOTS_MAX; i++) {
		if (t->slots[i].used)
			continue;
		if (t->slots[i].populated && t->slots[i].bytes == bytes)
			return i;
		if (t->slots[i].populated) {
			(void)!fallocate(devices[device].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_of(i),
					 (off_t)t->slots[i].bytes);
			t->slots[i].populated = 0;
		}
		if (found == SLOTS_MAX)
			found = i;
	}
	return found;
}

static CUresult fill(int device, uint32_t index, size_t bytes)
{
	void *p;

	if (fallocate(devices[device].fd, FALLOC_FL_KEEP_SIZE, offset_of(index), (off_t)bytes) != 0)
		return CUDA_ERROR_OUT_OF_MEMORY;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, devices[device].fd, offset_of(index));
	if (p == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	memset(p, 0xA5, bytes);
	munmap(p, bytes);
	return CUDA_SUCCESS;
}

CUresult slot_take(int device, size_t bytes, bool exportable, struct slot *ret)
{
	struct table *t = devices[device].table;
	CUresult r = CUDA_ERROR_OUT_OF_MEMORY;

	*ret = (struct slot){ .device = device, .fd = -1, .exported_fd = -1, .bytes = bytes };
	table_lock(device);
	if (bytes <= SPAN_BYTES && sweep(device) + bytes <= t->capacity_bytes) {
		ret->index = pick(device, bytes);
		if (ret->index < SLOTS_MAX)
			r = fill(device, ret->index, bytes);
	}
	if (r == CUDA_SUCCESS) {
		t->slots[ret->index].bytes = bytes;
		t->slots[ret->index].populated = t->slots[ret->index].used = 1;
		ret->fd = open_held(device, ret->index);
		if (exportable)
			ret->exported_fd = open_exported(device, ret->index);
		if (ret->fd < 0 || (exportable && ret->exported_fd < 0))
			r = CUDA_ERROR_OPERATING_SYSTEM;
	}
	table_unlock(device);
	if (r)
		slot_give(ret);
	return r;
}

CUresult slot_from_fd(int fd, struct slot *ret)
{
	struct stat st;
	off_t index;

	if (fstat(fd, &st) || !slot_is_device_file(fd))
		return CUDA_ERROR_INVALID_VALUE;
	for (int d = 0; d < n_open; d++) {
		if (st.st_dev != devices[d].st.st_dev || st.st_ino != devices[d].st.st_ino)
			continue;
		index = lseek(fd, 0, SEEK_CUR);
		if (index < 0 || index >= SLOTS_MAX || !devices[d].table->slots[index].used || !is_in_use(d, index))
			return CUDA_ERROR_INVALID_VALUE;
		*ret = (struct slot){ .device = d, .fd = open_held(d, (uint32_t)index), .exported_fd = -1,
				      .index = (uint32_t)index, .bytes = devices[d].table->slots[index].bytes };
		return ret->fd < 0 ? CUDA_ERROR_OPERATING_SYSTEM : CUDA_SUCCESS;
	}
	return CUDA_ERROR_INVALID_VALUE;
}

void slot_give(struct slot *slot)
{
	if (slot->fd >= 0)
		close(slot->fd);
	if (slot->exported_fd >= 0)
		close(slot->exported_fd);
	slot->fd = slot->exported_fd = -1;
}

/* Through the slot's own description, so that the mapping keeps the lock. */
void *slot_map(const struct slot *slot, void *at, int protection)
{
	void *p = mmap(at, slot->bytes, protection, MAP_SHARED | (at ? MAP_FIXED : 0), slot->fd,
		       offset_of(slot->index));

	if (p != MAP_FAILED)
		madvise(p, slot->bytes, MADV_DONTFORK);
	return p;
}

void slot_usage(int device, size_t *ret_free, size_t *ret_total)
{
	size_t used;

	table_lock(device);
	used = sweep(device);
	table_unlock(device);
	*ret_total = devices[device].table->capacity_bytes;
	*ret_free = *ret_total > used ? *ret_total - used : 0;
}

bool slot_has_process(int device, unsigned pid)
{
	return lock_byte(devices[device].fd, F_OFD_GETLK, F_WRLCK, LOCK_PROCESS + pid) == 1;
}

CUresult slot_claim_device(int device)
{
	if (fake.set.exclusive && lock_byte(devices[device].fd, F_OFD_SETLK, F_WRLCK, LOCK_CONTEXT) != 0)
		return CUDA_ERROR_DEVICE_UNAVAILABLE;
	lock_byte(devices[device].fd, F_OFD_SETLK, F_WRLCK, LOCK_PROCESS + getpid());
	return CUDA_SUCCESS;
}
