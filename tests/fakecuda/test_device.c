/* test_device.c - kvd's three ways to a GPU on the double: extents (vmm_cuda.c), the mover's bytes (device_cuda.c), an
 * engine's window (window_cuda.c); bad drivers and devices; and each driver call of theirs failing once.
 *
 * A breach of the driver's contract fails a test (device_end()).  What is left behind is counted: descriptors here,
 * bytes of the device by filling it afterwards. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/engine.h"
#include "kvd/cuda/driver.h"
#include "kvd/mover/device.h"
#include "kvd/mover/move.h"
#include "kvd/vmm.h"
#include "tests/lib/device.h"
#include "tests/lib/suite.h"

#define EXTENT (2ull << 20)
#define EXTENTS 4u
#define CALLS_MAX 60

static char error[VMM_ERROR_MAX];
static struct vmm_facts facts;

static const struct kvd_geometry geometry = {
	.extent_bytes = EXTENT, .plane_bytes = 16 * 40960, .block_bytes = 40960, .n_planes = 3, .n_frames = 16,
	.slot_bits = 6,
};

static void begin(void)
{
	setenv("KVD_TEST_DEVICE", "cuda", 1);
	setenv("FAKECUDA_MEMORY", "64M", 0);
	/* This program is kvd, mover and engine in one. */
	setenv("FAKECUDA_NO_CONTEXT", "nobody", 1);
	device_begin();
}

static unsigned descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static struct vmm *open_vmm(const char *device)
{
	struct vmm *vmm;
	int r = vmm_find(device, &facts, error);

	ck_assert_msg(r == 0, "%s", error);
	r = vmm_open(device, EXTENT, EXTENTS, &vmm, error);
	ck_assert_msg(r == 0, "%s", error);
	return vmm;
}

/* ---- vmm_cuda.c ---- */

START_TEST(extents_are_made_and_taken_over)
{
	struct vmm *first, *second;
	int fds[EXTENTS], foreign = memfd_create("foreign", MFD_CLOEXEC);

	begin();
	first = open_vmm("cuda");
	ck_assert_int_eq(vmm_extent_fd(first, 1, true), -ENOENT);
	for (uint32_t i = 0; i < EXTENTS; i++) {
		ck_assert_int_eq(vmm_extent_create(first, i), 0);
		ck_assert_int_eq(vmm_extent_create(first, i), 0);
		fds[i] = dup(vmm_extent_fd(first, i, true));
	}
	vmm_close(first);
	second = open_vmm("cuda:0");
	for (uint32_t i = 1; i < EXTENTS; i++)
		ck_assert_int_eq(vmm_extent_adopt(second, i, fds[i]), 0);
	ck_assert_int_eq(ftruncate(foreign, (off_t)EXTENT), 0);
	ck_assert_int_eq(vmm_extent_adopt(second, 0, foreign), -EINVAL);
	ck_assert_int_eq(vmm_extent_adopt(second, 0, fds[0]), 0);
	vmm_close(second);
	device_end();
}
END_TEST

START_TEST(memory_of_another_device_is_no_extent)
{
	struct vmm *other, *vmm;
	int fd;

	setenv("FAKECUDA_DEVICES", "2", 1);
	begin();
	other = open_vmm("cuda:1");
	ck_assert_int_eq(vmm_extent_create(other, 0), 0);
	fd = dup(vmm_extent_fd(other, 0, true));
	vmm = open_vmm("cuda:0");
	ck_assert_int_eq(vmm_extent_adopt(vmm, 0, fd), -EINVAL);
	ck_assert_msg(strstr(vmm_why(vmm), "another device"), "%s", vmm_why(vmm));
	close(fd);
	vmm_close(vmm);
	vmm_close(other);
	device_end();
}
END_TEST

START_TEST(a_full_device_is_named)
{
	struct vmm *vmm;
	uint32_t i = 0;

	setenv("FAKECUDA_MEMORY", "6M", 1);
	begin();
	vmm = open_vmm("cuda");
	while (i < EXTENTS && vmm_extent_create(vmm, i) == 0)
		i++;
	ck_assert_uint_lt(i, EXTENTS);
	ck_assert_msg(strstr(vmm_why(vmm), "cuMemCreate") && strstr(vmm_why(vmm), "smaller --pool"), "%s",
		      vmm_why(vmm));
	vmm_close(vmm);
	vmm = open_vmm("cuda");
	ck_assert_int_eq(vmm_extent_create(vmm, 0), 0);
	vmm_close(vmm);
	device_end();
}
END_TEST

static const struct { const char *variable, *value, *device, *says; int error; } bad[] = {
	{ "FAKECUDA_DRIVER_VERSION", "11080", "cuda", "too old", -ENOSYS },
	{ "FAKECUDA_NO_DEVICE", "1", "cuda", "no device", -ENODEV },
	{ "FAKECUDA_EXCLUSIVE", "1", "cuda", "EXCLUSIVE_PROCESS", -EBUSY },
	{ "FAKECUDA_NO_VMM", "1", "cuda", "cannot share memory", -EOPNOTSUPP },
	{ "FAKECUDA_DEVICES", "2", "cuda:2", "the driver shows 2 devices", -ENXIO },
	{ "FAKECUDA_FAIL", "cuInit:1:803", "cuda", "two versions", -ENOSYS },
	{ "FAKECUDA_FAIL", "cuDeviceTotalMem:1:46", "cuda", "for itself", -EBUSY },
	{ "KVD_NOTHING", "1", "cuda:", "write host, cuda or cuda:N", -EINVAL },
};

START_TEST(bad_drivers_and_devices_are_named)
{
	int r;

	setenv(bad[_i].variable, bad[_i].value, 1);
	begin();
	r = vmm_find(bad[_i].device, &facts, error);
	ck_assert_msg(r == bad[_i].error && strstr(error, bad[_i].says), "%s=%s: %d, %s", bad[_i].variable,
		      bad[_i].value, r, error);
	device_end();
}
END_TEST

START_TEST(granularity_is_the_devices)
{
	struct vmm *vmm;

	setenv("FAKECUDA_GRANULARITY", "4194304", 1);
	begin();
	ck_assert_int_eq(vmm_find("cuda", &facts, error), 0);
	ck_assert_uint_eq(facts.granularity_bytes, 4u << 20);
	ck_assert_int_eq(vmm_open("cuda", EXTENT, EXTENTS, &vmm, error), -EINVAL);
	ck_assert_msg(strstr(error, "larger --extent"), "%s", error);
	device_end();
}
END_TEST

/* ---- device_cuda.c ---- */

static void open_move(struct move_window *window, struct vmm *vmm)
{
	int r = move_open_on(window, 0, facts.uuid, EXTENT, EXTENTS, error);

	ck_assert_msg(r == 0, "%s", error);
	for (uint32_t i = 0; i < EXTENTS; i++) {
		ck_assert_int_eq(vmm_extent_create(vmm, i), 0);
		ck_assert_int_eq(move_map(window, i, vmm_extent_fd(vmm, i, true)), 0);
	}
}

static int job(struct move_window *window, uint32_t kind, uint32_t source, uint32_t peer, uint32_t target,
	       uint32_t *ret_differs)
{
	struct mover_job m = { .kind = kind, .source = source, .peer = peer, .target = target, .geometry = geometry };
	struct mover_reply reply;

	move_run(window, &m, &reply);
	if (ret_differs)
		*ret_differs = reply.differs;
	return reply.error;
}

static const uint8_t *frame_bytes(struct move_window *window, uint32_t frame)
{
	static uint8_t page[3 * 40960];
	const uint8_t *planes[3];

	ck_assert_int_eq(window->device->calls->read(window->device, &geometry, frame, page, planes), 0);
	ck_assert_ptr_eq(planes[2], page + 2 * geometry.block_bytes);
	return page;
}

static void frame_fill(struct move_window *window, uint32_t frame, uint8_t seed, size_t wrong_at)
{
	static uint8_t page[3 * 40960];

	for (size_t i = 0; i < sizeof(page); i++)
		page[i] = (uint8_t)(i * 7 + i / 251 + seed);
	if (wrong_at < sizeof(page))
		page[wrong_at] ^= 1;
	ck_assert_int_eq(window->device->calls->write(window->device, &geometry, frame, page), 0);
}

static bool all(const uint8_t *at, uint8_t byte)
{
	for (size_t i = 0; i < 3 * 40960; i++)
		if (at[i] != byte)
			return false;
	return true;
}

START_TEST(pages_are_scrubbed_copied_compared)
{
	static const size_t wrong[] = { 0, 1, 40959, 40960, 3 * 40960 - 1 };
	const uint32_t a = 0 << 6 | 3, b = 1 << 6 | 15, c = 3 << 6 | 0;
	struct move_window window;
	struct vmm *vmm;
	uint32_t differs;

	begin();
	vmm = open_vmm("cuda");
	open_move(&window, vmm);
	ck_assert_msg(!all(frame_bytes(&window, a), 0), "fresh memory of a device is not zero");
	for (uint32_t i = 0; i < EXTENTS; i++)
		ck_assert_int_eq(job(&window, MOVER_POPULATE, 0, 0, i, NULL), 0);
	ck_assert(all(frame_bytes(&window, a), 0));
	frame_fill(&window, a, 1, SIZE_MAX);
	ck_assert(all(frame_bytes(&window, a + 1), 0) && all(frame_bytes(&window, a - 1), 0));
	ck_assert_int_eq(job(&window, MOVER_COPY, a, 0, b, NULL), 0);
	ck_assert_int_eq(job(&window, MOVER_COMPARE_COPY, a, b, c, &differs), 0);
	ck_assert_uint_eq(differs, 0);
	ck_assert_int_eq(job(&window, MOVER_COMPARE_COPY, c, b, c, &differs), 0);
	ck_assert_uint_eq(differs, 0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		frame_fill(&window, b, 1, wrong[i]);
		ck_assert_int_eq(job(&window, MOVER_COMPARE_COPY, a, b, c, &differs), 0);
		ck_assert_uint_eq(differs, 1);
	}
	ck_assert_int_eq(job(&window, MOVER_SCRUB, 0, 0, a, NULL), 0);
	ck_assert(all(frame_bytes(&window, a), 0));
	ck_assert_int_eq(job(&window, MOVER_COVER, c, b, 0, NULL), 0);
	ck_assert_int_eq(job(&window, MOVER_COVER_SCRUB, 0, 0, 0, NULL), 0);
	ck_assert_int_eq(job(&window, MOVER_SCRUB_EXTENT, 0, 0, 3, NULL), 0);
	ck_assert(all(frame_bytes(&window, c), 0));
	ck_assert_int_eq(job(&window, MOVER_COPY, 9u << 6, 0, a, NULL), -EINVAL);
	move_close(&window);
	vmm_close(vmm);
	device_end();
}
END_TEST

/* Blocks larger than a chunk of the comparison: columns. */
START_TEST(large_blocks_are_compared_in_columns)
{
	static uint8_t block[3u << 19];
	struct kvd_geometry g = { .extent_bytes = EXTENT, .plane_bytes = sizeof(block), .block_bytes = sizeof(block),
				  .n_planes = 1, .n_frames = 1, .slot_bits = 6 };
	struct move_window window;
	struct vmm *vmm;
	bool equal;

	begin();
	vmm = open_vmm("cuda");
	open_move(&window, vmm);
	for (int at = -1; at < 3; at++) {
		memset(block, 7, sizeof(block));
		ck_assert_int_eq(window.device->calls->write(window.device, &g, 0, block), 0);
		if (at >= 0)
			block[at == 0 ? 0 : at == 1 ? 1u << 20 : sizeof(block) - 1] = 8;
		ck_assert_int_eq(window.device->calls->write(window.device, &g, 1 << 6, block), 0);
		ck_assert_int_eq(window.device->calls->equal(window.device, &g, 0, 1 << 6, &equal), 0);
		ck_assert_int_eq(equal, at < 0);
	}
	move_close(&window);
	vmm_close(vmm);
	device_end();
}
END_TEST

START_TEST(a_lost_device_is_said)
{
	struct move_window window;
	struct vmm *vmm;

	begin();
	vmm = open_vmm("cuda");
	open_move(&window, vmm);
	device_lose(719);
	ck_assert_int_eq(job(&window, MOVER_SCRUB, 0, 0, 0, NULL), DEVICE_LOST);
	ck_assert_int_eq(job(&window, MOVER_FLUSH, 0, 0, 1, NULL), DEVICE_LOST);
	_exit(device_log_count("breach") ? 1 : 0); /* nothing can be given back */
}
END_TEST

/* ---- window_cuda.c ---- */

static struct kvd_connection connection;

static void engine_make(struct kvd_engine *e)
{
	*e = (struct kvd_engine){ .connection = &connection };
	connection.welcome = (struct kvd_msg_welcome){ .pool_bytes = EXTENTS * EXTENT, .extent_bytes = EXTENT,
						       .device_kind = KVD_DEVICE_CUDA };
	memcpy(connection.welcome.device_uuid, facts.uuid, sizeof(facts.uuid));
	e->geometry.extent_bytes = EXTENT;
}

START_TEST(an_engine_maps_extents)
{
	struct kvd_engine e;
	struct vmm *vmm;
	int foreign = memfd_create("foreign", MFD_CLOEXEC);

	setenv("FAKECUDA_DEVICES", "2", 1);
	begin();
	vmm = open_vmm("cuda:1");
	for (uint32_t i = 0; i < EXTENTS; i++)
		ck_assert_int_eq(vmm_extent_create(vmm, i), 0);
	engine_make(&e);
	ck_assert_msg(kvd_engine_window_reserve(&e) == 0, "%s", e.error);
	ck_assert_int_eq(e.window_calls->map(&e, 2, true, vmm_extent_fd(vmm, 2, true)), 0);
	ck_assert_int_eq(e.window_calls->map(&e, 0, false, vmm_extent_fd(vmm, 0, false)), 0);
	ck_assert_int_lt(e.window_calls->map(&e, 1, true, foreign), 0);
	ck_assert_msg(strstr(e.error, "cannot be imported"), "%s", e.error);
	ck_assert_int_eq(e.window_calls->unmap(&e, 2), 0);
	ck_assert_int_eq(e.window_calls->unmap(&e, 2), 0);
	ck_assert_int_eq(e.window_calls->map(&e, 2, false, vmm_extent_fd(vmm, 2, false)), 0);
	kvd_engine_window_release(&e);
	ck_assert_ptr_null(e.window);
	/* The mover's context in the same process finds what the engine left. */
	vmm_close(vmm);
	close(foreign);
	device_end();
}
END_TEST

START_TEST(an_engine_without_kvds_device_is_told)
{
	struct kvd_engine e;

	begin();
	vmm_close(open_vmm("cuda"));
	engine_make(&e);
	connection.welcome.device_uuid[3] ^= 1;
	ck_assert_int_eq(kvd_engine_window_reserve(&e), -ENODEV);
	ck_assert_msg(strstr(e.error, "CUDA_VISIBLE_DEVICES"), "%s", e.error);
	kvd_engine_window_release(&e);
	device_end();
}
END_TEST

/* ---- every call fails once ---- */

/* All that a pool of four extents, a mover and an engine ask of the driver.  True: something said that it failed. */
static bool everything(void)
{
	struct move_window window = { 0 };
	struct kvd_engine e = { 0 };
	struct vmm *vmm = NULL;
	int r = vmm_find("cuda", &facts, error);

	if (r == 0)
		r = vmm_open("cuda", EXTENT, EXTENTS, &vmm, error);
	for (uint32_t i = 0; r == 0 && i < EXTENTS; i++)
		r = vmm_extent_create(vmm, i);
	if (r == 0)
		r = move_open_on(&window, 0, facts.uuid, EXTENT, EXTENTS, error);
	for (uint32_t i = 0; r == 0 && i < EXTENTS; i++)
		r = move_map(&window, i, vmm_extent_fd(vmm, i, true));
	if (r == 0)
		r = job(&window, MOVER_POPULATE, 0, 0, 0, NULL);
	if (r == 0)
		r = job(&window, MOVER_SCRUB, 0, 0, 1 << 6, NULL);
	if (r == 0)
		r = job(&window, MOVER_COPY, 0, 0, 1 << 6, NULL);
	if (r == 0)
		r = job(&window, MOVER_COMPARE_COPY, 0, 1 << 6, 2 << 6, NULL);
	engine_make(&e);
	if (r == 0)
		r = kvd_engine_window_reserve(&e);
	for (uint32_t i = 0; r == 0 && i < EXTENTS; i++)
		r = e.window_calls->map(&e, i, i & 1, vmm_extent_fd(vmm, i, i & 1));
	if (r == 0)
		r = e.window_calls->unmap(&e, 1);
	kvd_engine_window_release(&e);
	move_close(&window);
	vmm_close(vmm);
	return r != 0;
}

static const char *const calls[] = {
	"cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetUuid", "cuDeviceGetAttribute",
	"cuMemGetAllocationGranularity", "cuMemCreate", "cuMemExportToShareableHandle",
	"cuMemImportFromShareableHandle", "cuMemMap", "cuMemSetAccess", "cuMemAddressReserve",
	"cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuStreamCreateWithPriority", "cuEventCreate",
	"cuMemsetD32Async", "cuMemsetD2D8Async", "cuMemcpy2DAsync", "cuMemHostAlloc", "cuEventRecord",
	"cuEventSynchronize", "cuStreamSynchronize", "cuCtxSynchronize", "cuMemUnmap",
};

static bool gives_back(const char *call)
{
	return !strcmp(call, "cuCtxSetCurrent") || !strcmp(call, "cuCtxSynchronize") || !strcmp(call, "cuMemUnmap");
}

/* The Nth call of one function fails, N from 1 until none is left to fail; each in a process of its own. */
START_TEST(every_call_fails_once)
{
	unsigned n;

	begin();
	for (n = 1; n <= CALLS_MAX; n++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			char fail[96];
			unsigned before;
			bool failed;

			snprintf(fail, sizeof(fail), "%s:%u:2", calls[_i], n);
			setenv("FAKECUDA_FAIL", fail, 1);
			(void)!freopen("/dev/null", "w", stderr);
			/* What loading the libraries opens is not ours. */
			if (vmm_find("cuda", &facts, error) < 0)
				_exit(10);
			before = descriptors();
			failed = everything();
			if (descriptors() != before)
				_exit(30);
			/* Giving back is all that may fail unnoticed. */
			_exit(failed ? 10 : device_log_count("fired") >= n && !gives_back(calls[_i]) ? 40 : 11);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_msg(WIFEXITED(status), "%s %u: signal %d", calls[_i], n, WTERMSIG(status));
		ck_assert_msg(WEXITSTATUS(status) == 10 || WEXITSTATUS(status) == 11, "%s %u: %s", calls[_i], n,
			      WEXITSTATUS(status) == 30   ? "a descriptor is left"
			      : WEXITSTATUS(status) == 40 ? "it failed and nobody noticed"
							  : "it ended otherwise");
		if (WEXITSTATUS(status) == 11)
			break;
	}
	ck_assert_uint_gt(n, 1);
	/* Nothing of the device is held by anybody: all of it can be had. */
	setenv("FAKECUDA_FAIL", "", 1);
	ck_assert(!everything());
	device_end();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("device");
	TCase *tcase = tcase_create("device");

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, extents_are_made_and_taken_over);
	tcase_add_test(tcase, memory_of_another_device_is_no_extent);
	tcase_add_test(tcase, a_full_device_is_named);
	tcase_add_loop_test(tcase, bad_drivers_and_devices_are_named, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_test(tcase, granularity_is_the_devices);
	tcase_add_test(tcase, pages_are_scrubbed_copied_compared);
	tcase_add_test(tcase, large_blocks_are_compared_in_columns);
	tcase_add_test(tcase, a_lost_device_is_said);
	tcase_add_test(tcase, an_engine_maps_extents);
	tcase_add_test(tcase, an_engine_without_kvds_device_is_told);
	tcase_add_loop_test(tcase, every_call_fails_once, 0, sizeof(calls) / sizeof(calls[0]));
	suite_add_tcase(suite, tcase);
	return suite_result(suite);
}
