/* event.c - events, between streams and between processes.
 *
 * An event is ready when the record that was newest at the time of asking has been reached.  An event of two
 * processes is a small file in FAKECUDA_DIR with two counters, records asked and records reached; its name
 * carries the pid of its maker, and cuInit() removes those of the dead.  What becomes of an event whose maker
 * dies is not documented: here it stays as it was, so that whoever waits needs a deadline. */
#include "tests/fakecuda/fake.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct event_file { uint64_t asked, reached; };
struct ipc_name { uint32_t magic, pid, number, device; };
#define IPC_MAGIC 0x31637069u

struct event_op {
	struct op op;
	struct event *event;
	uint64_t value, ticket;        /* of the record meant */
};

static uint64_t now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static void event_path(char *ret, size_t max, const struct ipc_name *name)
{
	snprintf(ret, max, "%s/event.%u.%u", fake.dir, name->pid, name->number);
}

void event_reap(void)
{
	DIR *d = opendir(fake.dir);
	unsigned pid, number;

	for (struct dirent *e; d && (e = readdir(d));)
		if (sscanf(e->d_name, "event.%u.%u", &pid, &number) == 2 && kill((pid_t)pid, 0) != 0 && errno == ESRCH)
			unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
}

static void event_drop(struct event *e)
{
	if (--e->references)
		return;
	if (e->file)
		munmap(e->file, 4096);
	free(e);
}

static void drop_reference(struct op *op)
{
	event_drop(((struct event_op *)op)->event);
}

static bool is_done(const struct event *e)
{
	if (e->file)
		return __atomic_load_n(&e->file->reached, __ATOMIC_ACQUIRE) >=
		       __atomic_load_n(&e->file->asked, __ATOMIC_ACQUIRE);
	return !e->recorded || queue_is_done(e->ticket);
}

static CUresult event_open(unsigned flags, struct event **ret)
{
	struct event *e = calloc(1, sizeof(*e));

	if (!e)
		return CUDA_ERROR_OUT_OF_MEMORY;
	e->references = 1;
	e->flags = flags;
	e->handle = handle_new(KIND_EVENT, e);
	*ret = e;
	return CUDA_SUCCESS;
}

static CUresult event_create(CUevent *ret, unsigned flags)
{
	struct event *e;
	CUresult r;

	if (flags & ~(unsigned)(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "event flags %#x", flags);
	if ((flags & CU_EVENT_INTERPROCESS) && !(flags & CU_EVENT_DISABLE_TIMING))
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "an interprocess event needs CU_EVENT_DISABLE_TIMING");
	r = event_open(flags, &e);
	if (r == CUDA_SUCCESS)
		*ret = (CUevent)e->handle;
	return r;
}

API cuEventCreate(CUevent *event, unsigned int flags)
{
	ENTER(NEED_CONTEXT);
	LOCKED(event_create(event, flags));
}

static void unlink_one(void *object, uint64_t handle, void *unused)
{
	const struct event *e = object;
	struct ipc_name name = { .pid = (uint32_t)getpid(), .number = (uint32_t)handle };
	char path[240];

	if (e->file && !e->foreign) {
		event_path(path, sizeof(path), &name);
		unlink(path);
	}
}

static CUresult event_destroy(uint64_t handle)
{
	unlink_one(handle_get(KIND_EVENT, handle), handle, NULL);
	event_drop(handle_drop(KIND_EVENT, handle));
	return CUDA_SUCCESS;
}

API cuEventDestroy(CUevent event)
{
	CUresult r = fake_enter(__func__, NEED_INIT);

	if (r && r != fake.sticky)
		return r;
	LOCKED(event_destroy(HANDLE(event)));
}

static CUresult run_record(struct op *op)
{
	struct event_op *r = (struct event_op *)op;

	r->event->done_usec = now_usec();
	if (r->event->file) {
		uint64_t seen = __atomic_load_n(&r->event->file->reached, __ATOMIC_RELAXED);
		while (seen < r->value && !__atomic_compare_exchange_n(&r->event->file->reached, &seen, r->value, false,
								       __ATOMIC_RELEASE, __ATOMIC_RELAXED))
			;
	}
	return CUDA_SUCCESS;
}

static struct event_op *event_op_new(struct event *e, CUresult (*run)(struct op *), const char *what)
{
	struct event_op *op = calloc(1, sizeof(*op));

	if (op) {
		*op = (struct event_op){ .op = { .run = run, .drop = drop_reference, .what = what }, .event = e };
		e->references++;
	}
	return op;
}

static CUresult event_record(CUevent handle, CUstream on)
{
	struct event *e = handle_get(KIND_EVENT, HANDLE(handle));
	struct event_op *op;
	struct stream *s;
	CUresult r = stream_get(on, &s);

	if (r)
		return r;
	if (s->capture)
		return capture_record(s, e);
	op = event_op_new(e, run_record, "an event's record");
	if (!op)
		return CUDA_ERROR_OUT_OF_MEMORY;
	e->captured = NULL;
	e->recorded = true;
	if (e->file)
		op->value = __atomic_add_fetch(&e->file->asked, 1, __ATOMIC_RELEASE);
	r = queue_add(s, &op->op);
	if (r == CUDA_SUCCESS)
		e->ticket = op->op.ticket;
	return r;
}

API cuEventRecord(CUevent event, CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(event_record(event, stream));
}

static CUresult event_query(uint64_t handle)
{
	const struct event *e = handle_get(KIND_EVENT, handle);

	if (e->captured)
		return fake_breach(CUDA_ERROR_CAPTURED_EVENT, "asking an event that was recorded in a capture");
	return is_done(e) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

API cuEventQuery(CUevent event)
{
	ENTER(NEED_CONTEXT);
	LOCKED(event_query(HANDLE(event)));
}

static CUresult event_synchronize(uint64_t handle)
{
	struct event *e = handle_get(KIND_EVENT, handle);
	if (e->captured)
		return fake_breach(CUDA_ERROR_CAPTURED_EVENT, "waiting for an event that was recorded in a capture");
	if (!e->file)
		return e->recorded ? queue_wait_ticket(e->ticket) : CUDA_SUCCESS;
	e->references++;
	while (!is_done(e) && !fake.sticky) {
		fake_unlock();
		usleep(100);
		fake_lock();
	}
	event_drop(e);
	return fake.sticky;
}

API cuEventSynchronize(CUevent event)
{
	ENTER(NEED_CONTEXT);
	LOCKED(event_synchronize(HANDLE(event)));
}

static CUresult elapsed(float *ret, uint64_t from, uint64_t to)
{
	const struct event *a = handle_get(KIND_EVENT, from), *b = handle_get(KIND_EVENT, to);

	if ((a->flags | b->flags) & CU_EVENT_DISABLE_TIMING)
		return fake_breach(CUDA_ERROR_INVALID_HANDLE, "time between events that keep none");
	if (!a->recorded || !b->recorded)
		return fake_breach(CUDA_ERROR_INVALID_HANDLE, "time between events of which one was never recorded");
	if (!is_done(a) || !is_done(b))
		return CUDA_ERROR_NOT_READY;
	*ret = (float)((double)b->done_usec - (double)a->done_usec) / 1000.0f;
	return CUDA_SUCCESS;
}

API cuEventElapsedTime(float *ms, CUevent start, CUevent end)
{
	ENTER(NEED_CONTEXT);
	LOCKED(elapsed(ms, HANDLE(start), HANDLE(end)));
}

/* The form before version 12.8, under its own name. */
API elapsed_time_v1(float *ms, CUevent start, CUevent end) __asm__("cuEventElapsedTime");
API elapsed_time_v1(float *ms, CUevent start, CUevent end)
{
	ENTER(NEED_CONTEXT);
	LOCKED(elapsed(ms, HANDLE(start), HANDLE(end)));
}

static bool wait_ready(struct op *op)
{
	struct event_op *w = (struct event_op *)op;

	if (w->event->file)
		return __atomic_load_n(&w->event->file->reached, __ATOMIC_ACQUIRE) >= w->value;
	return w->ticket == 0 || queue_is_done(w->ticket);
}

static CUresult run_wait(struct op *op)
{
	return CUDA_SUCCESS;
}

static CUresult stream_wait(CUstream handle, CUevent event, unsigned flags)
{
	struct event *e = handle_get(KIND_EVENT, HANDLE(event));
	struct event_op *op;
	struct stream *s;
	CUresult r = stream_get(handle, &s);

	if (r)
		return r;
	if (flags & ~(unsigned)CU_EVENT_WAIT_EXTERNAL)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "wait flags %#x", flags);
	if (e->captured || s->capture)
		return capture_join(s, e);
	op = event_op_new(e, run_wait, "a wait for an event");
	if (!op)
		return CUDA_ERROR_OUT_OF_MEMORY;
	op->op.ready = wait_ready;
	op->ticket = e->recorded ? e->ticket : 0;
	op->value = e->file ? __atomic_load_n(&e->file->asked, __ATOMIC_ACQUIRE) : 0;
	return queue_add(s, &op->op);
}

API cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags)
{
	ENTER(NEED_CONTEXT);
	LOCKED(stream_wait(stream, event, flags));
}

/* ---- between processes ---- */

static CUresult map_file(const struct ipc_name *name, int flags, struct event_file **ret)
{
	char path[240];
	int fd;
	void *p = MAP_FAILED;

	event_path(path, sizeof(path), name);
	fd = open(path, O_RDWR | O_CLOEXEC | flags, 0666);
	if (fd < 0)
		return CUDA_ERROR_INVALID_HANDLE;
	if (flags)
		(void)!fchmod(fd, 0666);
	if (!flags || ftruncate(fd, 4096) == 0)
		p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*ret = p;
	return CUDA_SUCCESS;
}

static CUresult ipc_export(CUipcEventHandle *ret, uint64_t handle)
{
	struct event *e = handle_get(KIND_EVENT, handle);
	struct ipc_name name = { .magic = IPC_MAGIC, .pid = (uint32_t)getpid(), .number = (uint32_t)handle };
	CUresult r;

	if (!(e->flags & CU_EVENT_INTERPROCESS))
		return fake_breach(CUDA_ERROR_INVALID_HANDLE, "the event was not created as an interprocess one");
	if (fake.set.no_ipc)
		return CUDA_ERROR_NOT_SUPPORTED;
	if (!e->file) {
		r = map_file(&name, O_CREAT | O_EXCL, &e->file);
		if (r)
			return r;
		if (e->recorded) {
			e->file->asked = 1;
			e->file->reached = queue_is_done(e->ticket);
		}
	}
	memset(ret, 0, sizeof(*ret));
	memcpy(ret, &name, sizeof(name));
	return CUDA_SUCCESS;
}

API cuIpcGetEventHandle(CUipcEventHandle *handle, CUevent event)
{
	ENTER(NEED_CONTEXT);
	LOCKED(ipc_export(handle, HANDLE(event)));
}

static CUresult ipc_open(CUevent *ret, const CUipcEventHandle *handle)
{
	struct ipc_name name;
	struct event_file *file;
	struct event *e;
	CUresult r;

	memcpy(&name, handle, sizeof(name));
	if (fake.set.no_ipc)
		return CUDA_ERROR_INVALID_CONTEXT;
	if (name.magic != IPC_MAGIC)
		return CUDA_ERROR_INVALID_HANDLE;
	if (name.pid == (uint32_t)getpid())
		return fake_breach(CUDA_ERROR_INVALID_CONTEXT,
				   "an event's handle is opened by the process that made it");
	r = map_file(&name, 0, &file);
	if (r)
		return r;
	r = event_open(CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING, &e);
	if (r) {
		munmap(file, 4096);
		return r;
	}
	e->file = file;
	e->foreign = true;
	*ret = (CUevent)e->handle;
	return CUDA_SUCCESS;
}

API cuIpcOpenEventHandle(CUevent *event, CUipcEventHandle handle)
{
	ENTER(NEED_CONTEXT);
	LOCKED(ipc_open(event, &handle));
}

static __attribute__((destructor)) void unlink_own_files(void)
{
	if (!fake.forked)
		handle_each(KIND_EVENT, unlink_one, NULL);
}
