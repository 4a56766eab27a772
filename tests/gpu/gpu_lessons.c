/* gpu_lessons.c - what must be known of a driver before kvd may rely on it.  gpu_lessons QUESTION
 *
 *   facts      the driver and the device
 *   verbs      (a) create, export, import, map, set access, unmap, release: medians by size;
 *              `verbs busy`: beside a kernel
 *   exporter   (b) the exporter is killed: does an importer's mapping live on?
 *   fd         (c) the exporter is gone, a third process holds the descriptor: whose is the memory?
 *   upgrade    (d) may an importer that was given reading take writing?
 *   readonly   (e) a kernel writes into a mapping that may only be read: who dies?
 *   scrub      (f) what is in memory that another process has freed?
 *   unmap      (g) unmapping under a running kernel
 *   nocontext  (h) create, export, release by a process with cuInit only
 * Each is a process of its own, since some end a context. */
#include "tests/gpu/gpu.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MUST(call, ...) gpu_must(#call, gpu_driver.call(__VA_ARGS__))
#define PATTERN 0x5eed5eedu
#define REPEATS 7
#define BUSY_CYCLES 20000000000u   /* about ten seconds */

static void fill(uint64_t at, uint64_t bytes)
{
	MUST(cuMemsetD32Async, at, PATTERN, bytes / 4, NULL);
	MUST(cuCtxSynchronize);
}

/* Words of a mapping that are, or are not, `word`. */
static uint64_t count(uint64_t at, uint64_t bytes, uint32_t word, bool are)
{
	uint32_t *copy = malloc(bytes);
	uint64_t found = 0;

	if (!copy)
		gpu_fail("no memory for a copy of %llu bytes", (unsigned long long)bytes);
	MUST(cuMemcpyDtoH, copy, at, bytes);
	for (uint64_t i = 0; i < bytes / 4; i++)
		found += (copy[i] == word) == are;
	free(copy);
	return found;
}

static void print_result(int result)
{
	printf("\"result\": %d, \"name\": \"%s\"", result, driver_name(result));
}

static int facts(void)
{
	const struct { const char *name; unsigned attribute; } wanted[] = {
		{ "multiprocessors", DRIVER_DEVICE_MULTIPROCESSORS }, { "compute_mode", DRIVER_DEVICE_COMPUTE_MODE },
		{ "memory_khz", DRIVER_DEVICE_MEMORY_KHZ }, { "memory_bits", DRIVER_DEVICE_MEMORY_BITS },
		{ "l2_bytes", DRIVER_DEVICE_L2_BYTES }, { "shared_bytes_max", DRIVER_DEVICE_SHARED_BYTES_MAX },
		{ "vmm", DRIVER_DEVICE_VMM }, { "handle_fd", DRIVER_DEVICE_HANDLE_FD },
		{ "direct_rdma", DRIVER_DEVICE_DIRECT_RDMA }, { "integrated", DRIVER_DEVICE_INTEGRATED },
	};
	struct driver_memory memory;
	size_t least;

	gpu_open(false);
	memory = driver_extent_memory(&gpu_facts);
	MUST(cuMemGetAllocationGranularity, &least, &memory, DRIVER_GRANULARITY_LEAST);
	printf("{\"driver\": %d, \"device\": \"%s\", \"bus\": \"%s\", \"capability\": \"%d.%d\", "
	       "\"total_bytes\": %llu, \"granularity_bytes\": %llu, \"granularity_least_bytes\": "
	       "%zu",
	       gpu_driver.version, gpu_facts.name, gpu_facts.bus, gpu_facts.major, gpu_facts.minor,
	       (unsigned long long)gpu_facts.total_bytes, (unsigned long long)gpu_granularity_bytes,
	       least);
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		int value = 0;
		MUST(cuDeviceGetAttribute, &value, wanted[i].attribute, gpu_facts.device);
		printf(", \"%s\": %d", wanted[i].name, value);
	}
	printf("}\n");
	return 0;
}

/* ---- (a) ---- */

enum { CREATE, EXPORT, IMPORT, RESERVE, MAP, ACCESS, UNMAP, RELEASE, VERBS };
static const char *const verb_names[VERBS] = {
	"create", "export", "import", "reserve", "map", "access", "unmap", "release"
};

static uint64_t now_nsec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void verbs_once(uint64_t bytes, uint64_t *ret_nsec)
{
	struct driver_access access = { { DRIVER_LOCATION_DEVICE, gpu_facts.device }, DRIVER_ACCESS_READ_WRITE };
	struct driver_memory memory = driver_extent_memory(&gpu_facts);
	uint64_t handle, imported, at, start;
	int fd;

#define TIMED(verb, call, ...) do { \
		start = now_nsec(); \
		MUST(call, __VA_ARGS__); \
		ret_nsec[verb] = now_nsec() - start; \
	} while (0)
	TIMED(CREATE, cuMemCreate, &handle, bytes, &memory, 0);
	TIMED(EXPORT, cuMemExportToShareableHandle, &fd, handle, DRIVER_HANDLE_FD, 0);
	TIMED(IMPORT, cuMemImportFromShareableHandle, &imported, (void *)(intptr_t)fd, DRIVER_HANDLE_FD);
	close(fd);
	TIMED(RESERVE, cuMemAddressReserve, &at, bytes, 0, 0, 0);
	TIMED(MAP, cuMemMap, at, bytes, 0, imported, 0);
	TIMED(ACCESS, cuMemSetAccess, at, bytes, &access, 1);
	TIMED(UNMAP, cuMemUnmap, at, bytes);
	MUST(cuMemAddressFree, at, bytes);
	MUST(cuMemRelease, imported);
	TIMED(RELEASE, cuMemRelease, handle);
}

static int compare_nsec(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int verbs(bool busy)
{
	static const uint64_t sizes[] = { 2u << 20, 16u << 20, 128u << 20, 1u << 30 };

	gpu_open(true);
	if (busy) {
		uint64_t at = gpu_map(gpu_create(gpu_granularity_bytes), gpu_granularity_bytes,
				      DRIVER_ACCESS_READ_WRITE);
		gpu_write(at, gpu_granularity_bytes, BUSY_CYCLES);
	}
	printf("{\"busy\": %s, \"rows\": [", busy ? "true" : "false");
	for (size_t i = 0, printed = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t nsec[REPEATS][VERBS], column[REPEATS];

		if (sizes[i] > gpu_free_bytes() / 8)       /* several of us run at a time */
			continue;
		for (int k = 0; k < REPEATS; k++)
			verbs_once(sizes[i], nsec[k]);
		printf("%s{\"bytes\": %llu", printed++ ? ", " : "", (unsigned long long)sizes[i]);
		for (int verb = 0; verb < VERBS; verb++) {
			for (int k = 0; k < REPEATS; k++)
				column[k] = nsec[k][verb];
			qsort(column, REPEATS, sizeof(column[0]), compare_nsec);
			printf(", \"%s_usec\": %.1f", verb_names[verb], (double)column[REPEATS / 2] / 1000.0);
		}
		printf("}");
	}
	printf("]}\n");
	fflush(stdout);
	_exit(0);                  /* the kernel ends with us */
}

/* ---- (b), (c), (f): a child that makes memory, fills it, sends the descriptor and waits for its end ---- */

static uint64_t some_bytes(void)
{
	return 16 * gpu_granularity_bytes;
}

static int maker(void)
{
	gpu_open(true);
	uint64_t handle = gpu_create(some_bytes());
	int fd = gpu_export(handle);

	fill(gpu_map(handle, some_bytes(), DRIVER_ACCESS_READ_WRITE), some_bytes());
	gpu_send(GPU_SOCKET, 'e', fd);
	close(fd);
	pause();
	return 1;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int exporter(void)
{
	int socket, fd;
	pid_t pid;

	gpu_open(true);
	pid = gpu_child("maker", &socket);
	gpu_expect(socket, 'e', &fd);
	uint64_t at = gpu_map(gpu_import(fd), some_bytes(), DRIVER_ACCESS_READ_WRITE);
	close(fd);
	uint64_t before = count(at, some_bytes(), PATTERN, false);
	end(pid);
	uint64_t after = count(at, some_bytes(), PATTERN, false);
	MUST(cuMemsetD32Async, at, 1, some_bytes() / 4, NULL);
	int result = gpu_driver.cuCtxSynchronize();
	uint64_t unwritten = result ? 0 : count(at, some_bytes(), 1, false);
	printf("{\"words_wrong_before\": %llu, \"words_wrong_after\": %llu, \"words_unwritten\": %llu, ",
	       (unsigned long long)before, (unsigned long long)after, (unsigned long long)unwritten);
	print_result(result);
	printf(", \"lives_on\": %s}\n", !before && !after && !unwritten && !result ? "true" : "false");
	return 0;
}

/* Free memory, when it has stopped to grow. */
static uint64_t settled_bytes(void)
{
	uint64_t last = gpu_free_bytes(), next;

	for (int i = 0; i < 40; i++, last = next) {
		usleep(50000);
		next = gpu_free_bytes();
		if (next == last && i > 3)
			break;
	}
	return last;
}

static int descriptor(void)
{
	int socket, fd;
	pid_t pid;

	gpu_open(true);
	uint64_t before = settled_bytes();
	pid = gpu_child("maker", &socket);
	gpu_expect(socket, 'e', &fd);
	end(pid);
	uint64_t held = settled_bytes();
	close(fd);
	uint64_t after = settled_bytes();
	printf("{\"extent_bytes\": %llu, \"missing_while_held_bytes\": %lld, \"missing_after_close_bytes\": %lld, "
	       "\"descriptor_keeps_memory\": %s}\n", (unsigned long long)some_bytes(), (long long)(before - held),
	       (long long)(before - after), before - held >= some_bytes() && held < before ? "true" : "false");
	return 0;
}

static int scrub(void)
{
	int socket, fd;
	uint64_t dirty = 0, foreign = 0, bytes;

	gpu_open(true);
	bytes = some_bytes();
	pid_t pid = gpu_child("maker", &socket);
	gpu_expect(socket, 'e', &fd);
	close(fd);
	end(pid);
	for (int i = 0; i < 16; i++) {
		/* kept, so that each is another piece */
		uint64_t at = gpu_map(gpu_create(bytes), bytes, DRIVER_ACCESS_READ_WRITE);
		dirty += count(at, bytes, 0, false);
		foreign += count(at, bytes, PATTERN, true);
	}
	printf("{\"created_bytes\": %llu, \"words_not_zero\": %llu, \"words_of_the_other_process\": %llu}\n",
	       (unsigned long long)(16 * bytes), (unsigned long long)dirty, (unsigned long long)foreign);
	return 0;
}

/* ---- (d), (e), (g) ---- */

static int upgrade(void)
{
	int socket, fd;

	gpu_open(true);
	pid_t pid = gpu_child("maker", &socket);
	gpu_expect(socket, 'e', &fd);
	uint64_t at = gpu_map(gpu_import(fd), some_bytes(), DRIVER_ACCESS_READ);
	int result = gpu_access(at, some_bytes(), DRIVER_ACCESS_READ_WRITE);
	int written = result;
	if (result == DRIVER_OK) {
		MUST(cuMemsetD32Async, at, 1, some_bytes() / 4, NULL);
		written = gpu_driver.cuCtxSynchronize();
	}
	printf("{");
	print_result(result);
	printf(", \"write_result\": %d, \"upgraded\": %s}\n", written, written == DRIVER_OK ? "true" : "false");
	end(pid);
	return 0;
}

/* Imports for reading, writes by a kernel, says what came of it. */
static int trespasser(void)
{
	int fd;

	gpu_open(true);
	gpu_expect(GPU_SOCKET, 'e', &fd);
	uint64_t at = gpu_map(gpu_import(fd), some_bytes(), DRIVER_ACCESS_READ);
	struct driver_stream *stream = gpu_write(at, some_bytes(), 0);
	int result = gpu_driver.cuStreamSynchronize(stream);
	if (write(GPU_SOCKET, &result, sizeof(result)) != sizeof(result))
		return 1;
	pause();
	return 1;
}

static int readonly(void)
{
	int socket, result = -1;

	gpu_open(true);
	uint64_t handle = gpu_create(some_bytes());
	int fd = gpu_export(handle);
	uint64_t at = gpu_map(handle, some_bytes(), DRIVER_ACCESS_READ_WRITE);
	fill(at, some_bytes());
	pid_t pid = gpu_child("trespasser", &socket);
	gpu_send(socket, 'e', fd);
	bool answered = read(socket, &result, sizeof(result)) == sizeof(result);
	int ours = gpu_driver.cuCtxSynchronize();
	uint64_t changed = ours ? 0 : count(at, some_bytes(), PATTERN, false);
	printf("{\"writer_answered\": %s, ", answered ? "true" : "false");
	print_result(answered ? result : 0);
	printf(", \"owner_result\": %d, \"words_changed\": %llu, \"only_the_writer_fails\": %s}\n", ours,
	       (unsigned long long)changed, result != DRIVER_OK && !ours && !changed ? "true" : "false");
	end(pid);
	return 0;
}

static int unmap(void)
{
	gpu_open(true);
	if (gpu_is_double) {
		printf("skipped: the double calls unmapping under a kernel a breach, whatever a device does\n");
		return 0;
	}
	uint64_t bytes = gpu_granularity_bytes;
	uint64_t at = gpu_map(gpu_create(bytes), bytes, DRIVER_ACCESS_READ_WRITE);
	struct driver_stream *stream = gpu_write(at, bytes, 2000000000u);      /* about a second */
	uint64_t start = gpu_now_usec();
	int result = gpu_driver.cuMemUnmap(at, bytes);
	uint64_t took = gpu_now_usec() - start;
	int synced = gpu_driver.cuStreamSynchronize(stream);

	printf("{");
	print_result(result);
	printf(", \"took_usec\": %llu, \"kernel_result\": %d, \"kernel_name\": \"%s\"}\n",
	       (unsigned long long)took, synced, driver_name(synced));
	fflush(stdout);
	_exit(0);
}

static int nocontext(void)
{
	gpu_open(false);
	uint64_t handle = gpu_create(some_bytes());
	int fd = gpu_export(handle);

	close(fd);
	int result = gpu_driver.cuMemRelease(handle);
	printf("{\"extent_bytes\": %llu, ", (unsigned long long)some_bytes());
	print_result(result);
	printf(", \"works\": %s}\n", result == DRIVER_OK ? "true" : "false");
	return 0;
}

int main(int argc, char **argv)
{
	static const struct { const char *name; int (*run)(void); } questions[] = {
		{ "facts", facts }, { "maker", maker }, { "exporter", exporter }, { "fd", descriptor },
		{ "upgrade", upgrade }, { "trespasser", trespasser }, { "readonly", readonly }, { "scrub", scrub },
		{ "unmap", unmap }, { "nocontext", nocontext },
	};
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "verbs"))
		return verbs(argc > 2 && !strcmp(argv[2], "busy"));
	for (size_t i = 0; i < sizeof(questions) / sizeof(questions[0]); i++)
		if (!strcmp(what, questions[i].name))
			return questions[i].run();
	gpu_fail("gpu_lessons QUESTION: its source lists them");
}
