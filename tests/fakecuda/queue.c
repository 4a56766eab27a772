/* queue.c - the device's work: one list in the order of the calls, one thread that does it.
 *
 * An operation may begin when all earlier ones of its stream have ended; the default stream waits for all
 * blocking streams, and they for it.  Among those that may begin a random one (FAKECUDA_SEED) is taken, not
 * before FAKECUDA_DELAY_USEC have passed, and none while the control page says `hold`: a program that forgot
 * to wait sees old bytes.
 * A touch of memory that is not mapped, or not so, ends the device's work for good: the error stays.
 * A touch of device memory by host code is written to the log, then the process gets its SIGSEGV. */
#include "tests/fakecuda/fake.h"

#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct stream fake_default_stream = { .blocking = true };

static struct op *operations;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static uint64_t last_ticket;
static bool started;
static __thread bool in_device, is_device_thread;
static __thread bool in_callback;
static bool launch_is_open;            /* device code runs without the lock, its addresses open */
static sigjmp_buf fault_exit;
static uintptr_t fault_address;
static struct sigaction old_segv, old_bus;

bool queue_in_device(void)
{
	return is_device_thread;
}

bool queue_in_callback(void)
{
	return in_callback;
}

static uint64_t now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static void on_fault(int signal, siginfo_t *info, void *unused)
{
	uintptr_t address = (uintptr_t)info->si_addr;

	if (in_device) {
		fault_address = address;
		siglongjmp(fault_exit, 1);
	}
	if (va_is_device(address))
		fake_breach(CUDA_SUCCESS, "host code touched device memory at %#zx", (size_t)address);
	/* The touch happens again, and is met by whoever was there before. */
	sigaction(signal, signal == SIGSEGV ? &old_segv : &old_bus, NULL);
}

void queue_catch_faults(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	sigaction(SIGSEGV, &action, &old_segv);
	sigaction(SIGBUS, &action, &old_bus);
}

/* ---- order ---- */

static bool waits_for(const struct op *op, const struct op *earlier)
{
	if (op->stream == earlier->stream)
		return true;
	if (op->stream == &fake_default_stream)
		return earlier->stream->blocking;
	return earlier->stream == &fake_default_stream && op->stream->blocking;
}

static bool may_begin(struct op *op, uint64_t now)
{
	if (op->running || op->after_usec > now)
		return false;
	for (const struct op *e = operations; e != op; e = e->next)
		if (waits_for(op, e))
			return false;
	return !op->ready || op->ready(op);
}

static struct op *choose(void)
{
	static uint64_t random;
	struct op *found[16];
	unsigned n = 0;
	uint64_t now = now_usec();

	if (fake.control && fake.control->hold && !fake.sticky)
		return NULL;
	for (struct op *op = operations; op && n < 16; op = op->next)
		if (fake.sticky ? !op->running : may_begin(op, now))
			found[n++] = op;
	if (n == 0)
		return NULL;
	if (!random)
		random = fake.set.seed * 2654435761u + 1;
	random = random * 6364136223846793005ull + 1442695040888963407ull;
	return fake.sticky ? found[0] : found[(random >> 33) % n];
}

static void take_out(struct op *op)
{
	struct op **at = &operations;

	while (*at != op)
		at = &(*at)->next;
	*at = op->next;
}

static void finish(struct op *op)
{
	take_out(op);
	if (op->drop)
		op->drop(op);
	free(op);
	pthread_cond_broadcast(&done);
}

static void run_one(struct op *op)
{
	volatile CUresult r = CUDA_SUCCESS;

	op->running = true;
	if (fake.sticky) {
		finish(op);
		return;
	}
	/* The operation runs under the lock; a launch or a callback lets go of it meanwhile. */
	if (sigsetjmp(fault_exit, 1) == 0) {
		r = op->run(op);
	} else {
		in_device = in_callback = false;
		if (launch_is_open) {
			fake_lock();
			va_close();
			launch_is_open = false;
		}
		fake_fault(CUDA_ERROR_ILLEGAL_ADDRESS, "700: %s touched %#zx, which is %s", op->what,
			   (size_t)fault_address, va_find(fault_address) ? "mapped without that access" : "not mapped");
	}
	if (r && !fake.sticky)
		fake_fault(r, "%d: %s", (int)r, op->what);
	finish(op);
}

/* Under the lock before and after, not between: device code may take long, and calls of other threads go on. */
void queue_device_code(bool begins)
{
	if (begins) {
		va_open();
		launch_is_open = in_device = true;
		fake_unlock();
	} else {
		fake_lock();
		launch_is_open = in_device = false;
		va_close();
	}
}

static void *device_thread(void *unused)
{
	static char signal_stack[64 * 1024];
	const stack_t alternate = { .ss_sp = signal_stack, .ss_size = sizeof(signal_stack) };
	struct op *op;

	sigaltstack(&alternate, NULL);
	is_device_thread = true;
	fake_lock();
	for (;;) {
		op = choose();
		if (op) {
			run_one(op);
		} else if (!operations) {
			pthread_cond_wait(&work, &fake.lock);
		} else {
			struct timespec soon;

			clock_gettime(CLOCK_REALTIME, &soon);
			soon.tv_nsec += 300000;
			soon.tv_sec += soon.tv_nsec / 1000000000;
			soon.tv_nsec %= 1000000000;
			pthread_cond_timedwait(&work, &fake.lock, &soon);
		}
	}
	return NULL;
}

static CUresult start(void)
{
	sigset_t all, before;
	pthread_t thread;
	int r;

	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGBUS);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&thread, NULL, device_thread, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return CUDA_ERROR_OPERATING_SYSTEM;
	pthread_detach(thread);
	started = true;
	return CUDA_SUCCESS;
}

CUresult queue_add(struct stream *stream, struct op *op)
{
	struct op **at = &operations;
	CUresult r;

	op->stream = stream;
	if (stream->capture)
		return capture_add(stream, op);
	r = capture_allows(stream);
	if (r == CUDA_SUCCESS)
		r = started ? CUDA_SUCCESS : start();
	if (r) {
		if (op->drop)
			op->drop(op);
		free(op);
		return r;
	}
	op->ticket = ++last_ticket;
	op->after_usec = fake.set.delay_usec ? now_usec() + fake.set.delay_usec : 0;
	op->next = NULL;
	while (*at)
		at = &(*at)->next;
	*at = op;
	pthread_cond_signal(&work);
	return CUDA_SUCCESS;
}

bool queue_is_done(uint64_t ticket)
{
	for (const struct op *op = operations; op; op = op->next)
		if (op->ticket == ticket)
			return false;
	return true;
}

bool queue_is_idle(struct stream *stream)
{
	for (const struct op *op = operations; op; op = op->next)
		if (!stream || op->stream == stream || (stream == &fake_default_stream && op->stream->blocking))
			return false;
	return true;
}

CUresult queue_wait(struct stream *stream)
{
	uint64_t up_to = last_ticket;

	for (;;) {
		const struct op *op = operations;

		while (op && !(op->ticket <= up_to && (!stream || op->stream == stream ||
						       (stream == &fake_default_stream && op->stream->blocking))))
			op = op->next;
		if (!op)
			return fake.sticky;
		pthread_cond_wait(&done, &fake.lock);
	}
}

CUresult queue_wait_ticket(uint64_t ticket)
{
	while (!queue_is_done(ticket))
		pthread_cond_wait(&done, &fake.lock);
	return fake.sticky;
}

/* ---- streams ---- */

CUresult stream_get(CUstream handle, struct stream **ret)
{
	if (handle == NULL || handle == CU_STREAM_LEGACY) {
		*ret = &fake_default_stream;
		return CUDA_SUCCESS;
	}
	if (handle == CU_STREAM_PER_THREAD)
		return fake_breach(CUDA_ERROR_NOT_SUPPORTED, "the per-thread default stream is not in the double");
	*ret = handle_get(KIND_STREAM, HANDLE(handle));
	if ((*ret)->context != context_current())
		return fake_breach(CUDA_ERROR_INVALID_CONTEXT,
				   "the stream belongs to another context than the current");
	return CUDA_SUCCESS;
}

static CUresult stream_create(CUstream *ret, unsigned flags)
{
	if (flags & ~(unsigned)CU_STREAM_NON_BLOCKING)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "stream flags %#x", flags);
	struct stream *s = calloc(1, sizeof(*s));

	if (!s)
		return CUDA_ERROR_OUT_OF_MEMORY;
	s->context = context_current();
	s->blocking = !(flags & CU_STREAM_NON_BLOCKING);
	s->handle = handle_new(KIND_STREAM, s);
	*ret = (CUstream)s->handle;
	return CUDA_SUCCESS;
}

API cuStreamCreate(CUstream *stream, unsigned int flags)
{
	ENTER(NEED_CONTEXT);
	LOCKED(stream_create(stream, flags));
}

API cuStreamCreateWithPriority(CUstream *stream, unsigned int flags, int priority)
{
	ENTER(NEED_CONTEXT);
	LOCKED(stream_create(stream, flags));
}

/* Its work goes on to the end; only then is the memory given back. */
static void stream_free(struct op *op)
{
	if (!op->stream->handle)
		free(op->stream);
}

static CUresult stream_nothing(struct op *op)
{
	return CUDA_SUCCESS;
}

static CUresult stream_destroy(CUstream handle)
{
	struct stream *s;
	struct op *op;
	CUresult r = CUDA_SUCCESS;

	if (!handle || handle == CU_STREAM_LEGACY)
		return fake_breach(CUDA_ERROR_INVALID_HANDLE, "the default stream cannot be destroyed");
	s = handle_drop(KIND_STREAM, HANDLE(handle));
	if (s->capture)
		r = fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the stream is destroyed while it captures");
	capture_forget(s);
	s->handle = 0;
	s->capture = NULL;
	op = calloc(1, sizeof(*op));
	if (op && started) {
		op->run = stream_nothing;
		op->drop = stream_free;
		op->what = "the end of a stream";
		queue_add(s, op);
	} else {
		free(op);
		free(s);
	}
	return r;
}

API cuStreamDestroy(CUstream stream)
{
	CUresult r = fake_enter(__func__, NEED_INIT);

	if (r && r != fake.sticky)
		return r;
	LOCKED(stream_destroy(stream));
}

static CUresult stream_synchronize(CUstream handle)
{
	struct stream *s;
	CUresult r = stream_get(handle, &s);

	if (r == CUDA_SUCCESS && (s->capture || (s == &fake_default_stream && capture_forbids())))
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "waiting for a stream that captures");
	return r ? r : queue_wait(s);
}

API cuStreamSynchronize(CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(stream_synchronize(stream));
}

static CUresult stream_query(CUstream handle)
{
	struct stream *s;
	CUresult r = stream_get(handle, &s);

	if (r == CUDA_SUCCESS && s->capture)
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "asking a stream that captures");
	if (r == CUDA_SUCCESS && !queue_is_idle(s))
		r = CUDA_ERROR_NOT_READY;
	return r;
}

API cuStreamQuery(CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(stream_query(stream));
}

API cuStreamGetCtx(CUstream stream, CUcontext *pctx)
{
	ENTER(NEED_CONTEXT);
	fake_lock();
	struct stream *s;
	CUresult r = stream_get(stream, &s);

	if (r == CUDA_SUCCESS)
		*pctx = (CUcontext)(s->context ? s->context : context_current())->handle;
	return fake_unlocked(r);
}

/* ---- host functions ---- */

struct host_op {
	struct op op;
	CUhostFn function;
	void *data;
};

static CUresult run_host(struct op *op)
{
	struct host_op *h = (struct host_op *)op;

	fake_unlock();
	in_callback = true;
	h->function(h->data);
	in_callback = false;
	fake_lock();
	return CUDA_SUCCESS;
}

static CUresult launch_host(CUstream handle, CUhostFn function, void *data)
{
	struct stream *s;
	struct host_op *h;
	CUresult r = stream_get(handle, &s);

	if (r)
		return r;
	if (!function)
		return fake_breach(CUDA_ERROR_INVALID_VALUE, "no function");
	h = calloc(1, sizeof(*h));
	if (!h)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*h = (struct host_op){ .op = { .run = run_host, .what = "a host function" }, .function = function,
			       .data = data };
	return queue_add(s, &h->op);
}

API cuLaunchHostFunc(CUstream stream, CUhostFn fn, void *userData)
{
	ENTER(NEED_CONTEXT);
	LOCKED(launch_host(stream, fn, userData));
}
