/* gpu.c - see gpu.h.  One thread; the driver is opened once, in the process that uses it, never before a fork. */
#include "tests/gpu/gpu.h"

#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/gpu/probe.h"

struct driver gpu_driver;
struct driver_facts gpu_facts;
uint64_t gpu_granularity_bytes;
bool gpu_is_double;

void gpu_fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

void gpu_must(const char *call, int result)
{
	if (result != DRIVER_OK)
		gpu_fail("%s: %s (%s, %d)", call, driver_meaning(result), driver_name(result), result);
}

#define MUST(call, ...) gpu_must(#call, gpu_driver.call(__VA_ARGS__))

void gpu_open(bool with_context)
{
	char error[DRIVER_ERROR_MAX];
	struct driver_context *context;
	size_t granularity;

	if (driver_open(&gpu_driver, error) < 0 || driver_device(&gpu_driver, 0, &gpu_facts, error) < 0) {
		printf("skipped: no CUDA device: %s\n", error);
		exit(0);
	}
	gpu_is_double = getenv("FAKECUDA_DIR") != NULL;
	if (with_context) {
		MUST(cuDevicePrimaryCtxRetain, &context, gpu_facts.device);
		MUST(cuCtxSetCurrent, context);
	}
	struct driver_memory memory = driver_extent_memory(&gpu_facts);
	MUST(cuMemGetAllocationGranularity, &granularity, &memory, DRIVER_GRANULARITY_BEST);
	gpu_granularity_bytes = granularity;
}

uint64_t gpu_create(uint64_t bytes)
{
	struct driver_memory memory = driver_extent_memory(&gpu_facts);
	uint64_t handle;

	MUST(cuMemCreate, &handle, bytes, &memory, 0);
	return handle;
}

int gpu_export(uint64_t handle)
{
	int fd;

	MUST(cuMemExportToShareableHandle, &fd, handle, DRIVER_HANDLE_FD, 0);
	return fd;
}

uint64_t gpu_import(int fd)
{
	uint64_t handle;

	MUST(cuMemImportFromShareableHandle, &handle, (void *)(intptr_t)fd, DRIVER_HANDLE_FD);
	return handle;
}

int gpu_access(uint64_t at, uint64_t bytes, int access)
{
	struct driver_access wanted = { { DRIVER_LOCATION_DEVICE, gpu_facts.device }, access };

	return gpu_driver.cuMemSetAccess(at, bytes, &wanted, 1);
}

uint64_t gpu_map(uint64_t handle, uint64_t bytes, int access)
{
	uint64_t at;

	MUST(cuMemAddressReserve, &at, bytes, 0, 0, 0);
	MUST(cuMemMap, at, bytes, 0, handle, 0);
	MUST(cuMemRelease, handle);
	gpu_must("cuMemSetAccess", gpu_access(at, bytes, access));
	return at;
}

void gpu_unmap(uint64_t at, uint64_t bytes)
{
	MUST(cuMemUnmap, at, bytes);
	MUST(cuMemAddressFree, at, bytes);
}

/* build/tests/X and its kernels, build/obj/tests/gpu/kernels.fatbin. */
static void *read_image(void)
{
	char path[PATH_MAX] = "";
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 64);
	void *image;
	FILE *f;

	path[n > 0 ? n : 0] = '\0';
	strcpy(strrchr(path, '/'), "/../obj/tests/gpu/kernels.fatbin");
	f = fopen(path, "r");
	if (!f)
		gpu_fail("%s is not there: `make gpu-check` builds it where nvcc is", path);
	fseek(f, 0, SEEK_END);
	long bytes = ftell(f);
	rewind(f);
	image = malloc((size_t)bytes);
	if (!image || fread(image, 1, (size_t)bytes, f) != (size_t)bytes)
		gpu_fail("cannot read %s", path);
	fclose(f);
	return image;
}

struct driver_function *gpu_kernel(const char *name)
{
	static struct driver_module *module;
	struct driver_function *function;

	if (!module) {
		void *image = read_image();
		MUST(cuModuleLoadData, &module, image);
		free(image);
	}
	MUST(cuModuleGetFunction, &function, module, name);
	return function;
}

struct driver_stream *gpu_write(uint64_t at, uint64_t bytes, uint64_t cycles_max)
{
	struct driver_function *function = gpu_kernel("probe_write");
	struct probe_write_args a = { (void *)(uintptr_t)at, bytes / 4, cycles_max };
	void *parameters[] = { &a };
	struct driver_stream *stream;

	MUST(cuStreamCreate, &stream, DRIVER_STREAM_NON_BLOCKING);
	MUST(cuLaunchKernel, function, (unsigned)gpu_facts.multiprocessors, 1, 1, 256, 1, 1, 0, stream, parameters,
	     NULL);
	return stream;
}

uint64_t gpu_free_bytes(void)
{
	size_t unused, total;

	MUST(cuMemGetInfo, &unused, &total);
	return unused;
}

pid_t gpu_child(const char *role, int *ret_socket)
{
	int sockets[2];
	pid_t pid;

	fflush(stdout);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0 || (pid = fork()) < 0)
		gpu_fail("no child: %m");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(sockets[1], GPU_SOCKET + 20);
		dup2(GPU_SOCKET + 20, GPU_SOCKET);
		close(GPU_SOCKET + 20);
		execl("/proc/self/exe", "gpu_probe", role, NULL);
		_exit(127);
	}
	close(sockets[1]);
	*ret_socket = sockets[0];
	return pid;
}

void gpu_send(int socket, char what, int fd)
{
	struct iovec iov = { &what, 1 };
	union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		message.msg_control = control.bytes;
		message.msg_controllen = sizeof(control.bytes);
		control.header = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	if (sendmsg(socket, &message, MSG_NOSIGNAL) != 1)
		gpu_fail("sendmsg: %m");
}

char gpu_receive(int socket, int *ret_fd)
{
	char what = 0;
	struct iovec iov = { &what, 1 };
	union { struct cmsghdr header; char bytes[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };

	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1)
		return 0;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (ret_fd)
		*ret_fd = -1;
	if (header && ret_fd)
		memcpy(ret_fd, CMSG_DATA(header), sizeof(int));
	return what;
}

void gpu_expect(int socket, char what, int *ret_fd)
{
	char found = gpu_receive(socket, ret_fd);

	if (found != what)
		gpu_fail("the other process %s (wanted '%c')", found ? "said something else" : "ended", what);
}

uint64_t gpu_now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}
