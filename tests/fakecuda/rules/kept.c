/* kept.c - programs that keep all rules: what they see must be what the driver promises, and no more. */
#include "tests/fakecuda/rules/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define EXPECT(condition)                                                            \
	do {                                                                         \
		if (!(condition)) {                                                  \
			fprintf(stderr, "%s:%d: %s\n", __func__, __LINE__, #condition); \
			_exit(96);                                                   \
		}                                                                    \
	} while (0)

static void end(void)
{
	MUST(cuDevicePrimaryCtxRelease(0));
}

static int nothing(void)
{
	return 0;
}

/* Create, map, fill, read, give back; fresh memory is not zero. */
static int keeps_memory(void)
{
	unsigned char bytes[64];
	CUmemGenericAllocationHandle h, again;
	CUdeviceptr at;
	CUresult r;
	size_t free_before, free_now, total;

	begin();
	MUST(cuMemGetInfo(&free_before, &total));
	EXPECT(total == 256u << 20 && free_before == total);
	h = create(GRANULARITY);
	at = reserve(2 * GRANULARITY);
	r = cuMemMap(at + GRANULARITY, GRANULARITY, 0, h, 0);
	if (r)
		return (int)r;
	MUST(give_access(at + GRANULARITY, GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
	MUST(cuMemRetainAllocationHandle(&again, (void *)(at + GRANULARITY)));
	EXPECT(again == h);
	MUST(cuMemRelease(again));
	MUST(cuMemRelease(h));
	MUST(cuMemGetInfo(&free_now, &total));
	EXPECT(free_now == free_before - GRANULARITY);
	MUST(cuMemcpyDtoH(bytes, at + GRANULARITY + 100, 64));
	EXPECT(bytes[0] == 0xA5 && bytes[63] == 0xA5);
	MUST(cuMemsetD32(at + GRANULARITY, 0x01020304, 16));
	MUST(cuMemcpyDtoH(bytes, at + GRANULARITY, 64));
	EXPECT(bytes[0] == 4 && bytes[63] == 1);
	MUST(cuMemUnmap(at + GRANULARITY, GRANULARITY));
	MUST(cuMemAddressFree(at, 2 * GRANULARITY));
	MUST(cuMemGetInfo(&free_now, &total));
	EXPECT(free_now == free_before);
	end();
	return 0;
}

static void send_fd(int channel, int fd)
{
	char byte = 'f', control[CMSG_SPACE(sizeof(int))] = "";
	struct iovec part = { &byte, 1 };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	EXPECT(sendmsg(channel, &m, 0) == 1);
}

static int receive_fd(int channel)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec part = { &byte, 1 };
	struct msghdr m = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = sizeof(control) };
	int fd;

	EXPECT(recvmsg(channel, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m));
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	return fd;
}

static size_t free_bytes(void)
{
	size_t free_now, total;

	MUST(cuMemGetInfo(&free_now, &total));
	return free_now;
}

/* The child makes memory, exports it, writes a word and is killed; the parent reads the word, and the
 * memory returns with the parent's last descriptor and mapping, not before. */
static int memory_outlives_its_maker(void)
{
	int pair[2], fd, status;
	uint32_t word = 0;
	CUmemGenericAllocationHandle h;
	CUdeviceptr at;
	pid_t child;

	EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	child = fork();
	if (child == 0) {
		begin();
		at = reserve(GRANULARITY);
		h = create(GRANULARITY);
		MUST(cuMemMap(at, GRANULARITY, 0, h, 0));
		MUST(give_access(at, GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
		MUST(cuMemsetD32(at, 0xfeedbeef, 1));
		MUST(cuCtxSynchronize());
		MUST(cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
		send_fd(pair[1], fd);
		pause();
	}
	begin();
	fd = receive_fd(pair[0]);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	EXPECT(free_bytes() == (256u << 20) - GRANULARITY);
	MUST(cuMemImportFromShareableHandle(&h, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	close(fd);
	at = reserve(GRANULARITY);
	MUST(cuMemMap(at, GRANULARITY, 0, h, 0));
	MUST(give_access(at, GRANULARITY, CU_MEM_ACCESS_FLAGS_PROT_READ));
	MUST(cuMemRelease(h));
	MUST(cuMemcpyDtoH(&word, at, 4));
	EXPECT(word == 0xfeedbeef);
	EXPECT(free_bytes() == (256u << 20) - GRANULARITY);
	MUST(cuMemUnmap(at, GRANULARITY));
	MUST(cuMemAddressFree(at, GRANULARITY));
	EXPECT(free_bytes() == 256u << 20);
	end();
	return 0;
}

/* Not a breach: a descriptor comes from outside. */
static int foreign_descriptors_are_refused(void)
{
	CUmemGenericAllocationHandle h;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	begin();
	EXPECT(cuMemImportFromShareableHandle(&h, (void *)(intptr_t)null, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) ==
	       CUDA_ERROR_INVALID_VALUE);
	EXPECT(cuMemImportFromShareableHandle(&h, (void *)(intptr_t)-1, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) ==
	       CUDA_ERROR_INVALID_VALUE);
	end();
	return 0;
}

/* What is exported is no file that host code could look into. */
static int exported_descriptor_cannot_be_mapped(void)
{
	CUmemGenericAllocationHandle h;
	char byte;
	int fd;

	begin();
	h = create(GRANULARITY);
	MUST(cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	EXPECT(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED);
	EXPECT(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
	EXPECT(read(fd, &byte, 1) == -1);
	close(fd);
	MUST(cuMemRelease(h));
	end();
	return 0;
}

static int memory_is_finite(void)
{
	CUmemAllocationProp p = properties();
	CUmemGenericAllocationHandle h[200];
	unsigned n = 0;

	begin();
	while (n < 200 && cuMemCreate(&h[n], GRANULARITY, &p, 0) == CUDA_SUCCESS)
		n++;
	EXPECT(n == 128);
	while (n)
		MUST(cuMemRelease(h[--n]));
	end();
	return 0;
}

static int hint_is_only_a_hint(void)
{
	CUdeviceptr a, b;
	const CUdeviceptr wanted = 0x200000000000;

	begin();
	MUST(cuMemAddressReserve(&a, GRANULARITY, 0, wanted, 0));
	MUST(cuMemAddressReserve(&b, GRANULARITY, 0, wanted, 0));
	EXPECT(a != b && b != wanted);
	MUST(cuMemAddressFree(a, GRANULARITY));
	MUST(cuMemAddressFree(b, GRANULARITY));
	end();
	return 0;
}

static int hint_may_be_ignored(void)
{
	CUdeviceptr a;

	begin();
	MUST(cuMemAddressReserve(&a, GRANULARITY, 0, 0x200000000000, 0));
	EXPECT(a != 0x200000000000);
	MUST(cuMemAddressFree(a, GRANULARITY));
	end();
	return 0;
}

/* Held work has not happened: the event is not ready, pinned memory keeps its old bytes. */
static int held_stream_has_done_nothing(void)
{
	CUdeviceptr at;
	CUstream s;
	CUevent e;
	unsigned char *pinned;

	begin();
	MUST(cuMemAlloc(&at, 4096));
	MUST(cuMemHostAlloc((void **)&pinned, 4096, 0));
	MUST(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	MUST(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
	pinned[0] = 1;
	hold(true);
	MUST(cuMemsetD8Async(at, 7, 4096, s));
	MUST(cuMemcpyDtoHAsync(pinned, at, 4096, s));
	MUST(cuEventRecord(e, s));
	usleep(20000);
	EXPECT(cuEventQuery(e) == CUDA_ERROR_NOT_READY && cuStreamQuery(s) == CUDA_ERROR_NOT_READY);
	EXPECT(((volatile unsigned char *)pinned)[0] == 1);
	hold(false);
	MUST(cuEventSynchronize(e));
	EXPECT(((volatile unsigned char *)pinned)[0] == 7 && cuEventQuery(e) == CUDA_SUCCESS);
	MUST(cuEventDestroy(e));
	MUST(cuStreamDestroy(s));
	MUST(cuMemFreeHost(pinned));
	MUST(cuMemFree(at));
	end();
	return 0;
}

/* Pageable memory is read at once: what is written afterwards does not go along. */
static int pageable_source_is_taken_at_once(void)
{
	CUdeviceptr at;
	unsigned char byte = 5;

	begin();
	MUST(cuMemAlloc(&at, 1));
	hold(true);
	MUST(cuMemcpyHtoDAsync(at, &byte, 1, NULL));
	byte = 6;
	hold(false);
	MUST(cuMemcpyDtoH(&byte, at, 1));
	EXPECT(byte == 5);
	MUST(cuMemFree(at));
	end();
	return 0;
}

static int event_orders_streams(void)
{
	CUdeviceptr at;
	CUstream a, b;
	CUevent e;
	unsigned char bytes[64];

	begin();
	MUST(cuMemAlloc(&at, 64));
	MUST(cuStreamCreate(&a, CU_STREAM_NON_BLOCKING));
	MUST(cuStreamCreate(&b, CU_STREAM_NON_BLOCKING));
	MUST(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING));
	for (int i = 1; i < 100; i++) {
		MUST(cuMemsetD8Async(at, (unsigned char)i, 64, a));
		MUST(cuEventRecord(e, a));
		MUST(cuStreamWaitEvent(b, e, 0));
		MUST(cuMemcpyDtoHAsync(bytes, at, 64, b));
		EXPECT(bytes[0] == i && bytes[63] == i);
	}
	MUST(cuEventDestroy(e));
	MUST(cuStreamDestroy(a));
	MUST(cuStreamDestroy(b));
	MUST(cuMemFree(at));
	end();
	return 0;
}

static int between_processes(void)
{
	int pair[2], status;
	CUipcEventHandle h;
	CUevent e;
	char byte = 0;
	pid_t child;

	EXPECT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	child = fork();
	if (child == 0) {
		begin();
		MUST(cuEventCreate(&e, CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS));
		MUST(cuIpcGetEventHandle(&h, e));
		hold(true);
		MUST(cuEventRecord(e, NULL));
		EXPECT(write(pair[1], &h, sizeof(h)) == sizeof(h));
		EXPECT(read(pair[1], &byte, 1) == 1);
		hold(false);
		MUST(cuEventSynchronize(e));
		MUST(cuEventDestroy(e));
		MUST(cuDevicePrimaryCtxRelease(0));
		_exit(0);
	}
	begin();
	EXPECT(read(pair[0], &h, sizeof(h)) == sizeof(h));
	MUST(cuIpcOpenEventHandle(&e, h));
	EXPECT(cuEventQuery(e) == CUDA_ERROR_NOT_READY);
	EXPECT(write(pair[0], &byte, 1) == 1);
	MUST(cuEventSynchronize(e));
	EXPECT(cuEventQuery(e) == CUDA_SUCCESS);
	MUST(cuEventDestroy(e));
	waitpid(child, &status, 0);
	EXPECT(status == 0);
	end();
	return 0;
}

static int one_process_only(void)
{
	int pair[2], status;
	char byte = 0;
	CUcontext context;
	pid_t child;

	EXPECT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	child = fork();
	if (child == 0) {
		begin();
		EXPECT(write(pair[1], &byte, 1) == 1);
		pause();
	}
	EXPECT(read(pair[0], &byte, 1) == 1);
	MUST(cuInit(0));
	EXPECT(cuDevicePrimaryCtxRetain(&context, 0) == CUDA_ERROR_DEVICE_UNAVAILABLE);
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	MUST(cuDevicePrimaryCtxRetain(&context, 0));
	end();
	return 0;
}

/* Base name and version give the form of that version; nothing has the macro's name. */
static int entry_points_have_versions(void)
{
	CUdriverProcAddressQueryResult status;
	void *old = NULL, *new = NULL;

	MUST(cuInit(0));
	MUST(cuGetProcAddress("cuMemAlloc", &new, 12000, 0, &status));
	EXPECT(new == (void *)cuMemAlloc && status == CU_GET_PROC_ADDRESS_SUCCESS);
	EXPECT(cuGetProcAddress("cuMemAlloc_v2", &new, 12000, 0, &status) == CUDA_ERROR_NOT_FOUND);
	EXPECT(status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND && new == NULL);
	MUST(cuGetProcAddress("cuCtxCreate", &old, 11000, 0, &status));
	MUST(cuGetProcAddress("cuCtxCreate", &new, 13000, 0, &status));
	EXPECT(old != new && new == (void *)cuCtxCreate);
	EXPECT(cuGetProcAddress("cuMemCreate", &new, 9000, 0, &status) == CUDA_ERROR_NOT_FOUND);
	EXPECT(status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
	return 0;
}

static int old_driver_lacks_new_names(void)
{
	CUdriverProcAddressQueryResult status;
	void *p;

	MUST(cuInit(0));
	EXPECT(cuGetProcAddress("cuMemCreate", &p, 13000, 0, &status) == CUDA_ERROR_NOT_FOUND);
	EXPECT(status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
	return 0;
}

#define K(name, ...) { #name, name, 0, 0, NULL, __VA_ARGS__ }
const struct rule rules_plain[] = {
	K(nothing, NULL),
	K(keeps_memory, NULL),
	K(memory_outlives_its_maker, NULL),
	K(foreign_descriptors_are_refused, NULL),
	K(exported_descriptor_cannot_be_mapped, NULL),
	K(memory_is_finite, NULL),
	K(hint_is_only_a_hint, NULL),
	K(hint_may_be_ignored, "FAKECUDA_IGNORE_HINT=1"),
	K(held_stream_has_done_nothing, NULL),
	K(pageable_source_is_taken_at_once, NULL),
	K(event_orders_streams, NULL),
	K(between_processes, NULL),
	K(one_process_only, "FAKECUDA_EXCLUSIVE=1"),
	K(entry_points_have_versions, NULL),
	K(old_driver_lacks_new_names, "FAKECUDA_DRIVER_VERSION=10010"),
};
const size_t n_rules_plain = sizeof(rules_plain) / sizeof(rules_plain[0]);
