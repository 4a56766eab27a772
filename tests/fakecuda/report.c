/* report.c - the double's settings, its log, and the door of every function: what may fail on demand, who may
 * call when.  The log is append-only, one write() a line:
 *   breach PID PROGRAM FUNCTION: SENTENCE      the caller broke the contract
 *   fault PID PROGRAM CODE: SENTENCE           the device met an error that stays
 *   fired PID PROGRAM FUNCTION N CODE          FAKECUDA_FAIL came to pass
 *   left PID PROGRAM: ...                      what was not given back when the process ended */
#include "tests/fakecuda/fake.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct fake fake = { .lock = PTHREAD_MUTEX_INITIALIZER };

static int log_fd = -1, trace_fd = -1;
static __thread const char *calling = "?";
static __thread CUresult fail_late;    /* of the call that this thread is in */
static bool fail_here;                 /* FAKECUDA_FAIL_PROGRAM is this one, or unset */
static uint64_t n_calls;

struct failure {
	char function[64];
	unsigned long number;          /* 0: none any more */
	CUresult code;
};
static struct failure failures[8];
static unsigned n_failures;

static size_t size_of(const char *name, size_t otherwise)
{
	return fake_bytes(getenv(name), otherwise);
}

static bool flag_of(const char *name)
{
	return size_of(name, 0) != 0;
}

static int open_file(const char *name)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	int high;

	if (fd < 0)
		return -1;
	(void)!fchmod(fd, 0666);       /* processes of other uids write to it as well */
	high = fcntl(fd, F_DUPFD_CLOEXEC, 200);
	if (high < 0)
		return fd;
	close(fd);
	return high;
}

static void parse_failures(const char *text)
{
	const char *program = getenv("FAKECUDA_FAIL_PROGRAM");

	fail_here = !program || !strcmp(program, fake.program);
	while (text && *text && n_failures < 8) {
		struct failure *f = &failures[n_failures];
		unsigned code;

		if (sscanf(text, "%63[^:]:%lu:%u", f->function, &f->number, &code) != 3)
			break;
		f->code = (CUresult)code;
		n_failures++;
		text = strchr(text, ',');
		text += text != NULL;
	}
}

/* Descriptors of device memory that came through exec(): somebody forgot CLOEXEC. */
static void look_for_inherited(void)
{
	DIR *d = getenv("LISTEN_FDS") ? NULL : opendir("/proc/self/fd");

	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.' && slot_is_device_file(atoi(e->d_name)))
			fake_breach(CUDA_SUCCESS, "descriptor %s of device memory came through exec(): it was "
				    "exported without FD_CLOEXEC", e->d_name);
	if (d)
		closedir(d);
}

static void map_control(void)
{
	char path[240];
	int fd;

	snprintf(path, sizeof(path), "%s/control", fake.dir);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		return;
	(void)!fchmod(fd, 0666);
	if (ftruncate(fd, 4096) == 0) {
		void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p != MAP_FAILED) {
			fake.control = p;
			fake.control->magic = FAKE_CONTROL_MAGIC;
		}
	}
	close(fd);
}

static void child_after_fork(void)
{
	fake.forked = fake.initialised;
}

static __attribute__((constructor)) void read_settings(void)
{
	const char *dir = getenv("FAKECUDA_DIR"), *log = getenv("FAKECUDA_LOG"), *trace = getenv("FAKECUDA_TRACE");
	char path[240];

	snprintf(fake.program, sizeof(fake.program), "%s", program_invocation_short_name);
	fake.set = (struct fake_settings){
		.memory_bytes = size_of("FAKECUDA_MEMORY", 4ull << 30),
		.granularity = size_of("FAKECUDA_GRANULARITY", 2u << 20),
		.driver_version = (int)size_of("FAKECUDA_DRIVER_VERSION", 13000),
		.n_devices = (int)size_of("FAKECUDA_DEVICES", 1),
		.delay_usec = (unsigned)size_of("FAKECUDA_DELAY_USEC", 0),
		.seed = (unsigned)size_of("FAKECUDA_SEED", 1),
		.abort_on_breach = flag_of("FAKECUDA_ABORT"),
		.ignore_hint = flag_of("FAKECUDA_IGNORE_HINT"),
		.no_ipc = flag_of("FAKECUDA_NO_IPC"),
		.no_rdma = flag_of("FAKECUDA_NO_RDMA"),
		.no_vmm = flag_of("FAKECUDA_NO_VMM"),
		.exclusive = flag_of("FAKECUDA_EXCLUSIVE"),
	};
	parse_failures(getenv("FAKECUDA_FAIL"));
	if (trace)
		trace_fd = open_file(trace);
	if (!dir || strlen(dir) >= sizeof(fake.dir))
		return;
	strcpy(fake.dir, dir);
	snprintf(path, sizeof(path), "%s/log", dir);
	log_fd = open_file(log ? log : path);
	map_control();
	pthread_atfork(NULL, NULL, child_after_fork);
	look_for_inherited();
}

static void log_line(const char *head, const char *format, va_list args)
{
	char line[600];
	int n = snprintf(line, sizeof(line) - 2, "%s %d %s ", head, (int)getpid(), fake.program);

	n += vsnprintf(line + n, sizeof(line) - 2 - (size_t)n, format, args);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (log_fd >= 0)
		(void)!write(log_fd, line, (size_t)n);
	if (log_fd < 0 || getenv("FAKECUDA_VERBOSE"))
		(void)!write(2, line, (size_t)n);
}

void fake_log(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_line("note", format, args);
	va_end(args);
}

static void count_breach(const char *format, va_list args)
{
	char sentence[480];

	vsnprintf(sentence, sizeof(sentence), format, args);
	if (fake.control)
		__atomic_add_fetch(&fake.control->breaches, 1, __ATOMIC_RELAXED);
	/* log_line() wants a list */
	char head[600];
	int n = snprintf(head, sizeof(head) - 1, "breach %d %s %s: %s\n", (int)getpid(),
			 fake.program, calling, sentence);
	(void)!write(log_fd >= 0 ? log_fd : 2, head, (size_t)(n < (int)sizeof(head) - 1 ? n : (int)sizeof(head) - 1));
}

CUresult fake_breach(CUresult code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	count_breach(format, args);
	va_end(args);
	if (fake.set.abort_on_breach)
		abort();
	return code;
}

_Noreturn void fake_undefined(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	count_breach(format, args);
	va_end(args);
	abort();
}

CUresult fake_fault(CUresult code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_line("fault", format, args);
	va_end(args);
	fake.sticky = code;
	return code;
}

/* Errors of the device stay; those of a call do not. */
static bool stays(CUresult code)
{
	return code >= CUDA_ERROR_ILLEGAL_ADDRESS && code != CUDA_ERROR_NOT_SUPPORTED &&
	       code != CUDA_ERROR_NOT_PERMITTED && code < CUDA_ERROR_MPS_CONNECTION_FAILED;
}

void fake_lock(void)
{
	pthread_mutex_lock(&fake.lock);
}

void fake_unlock(void)
{
	pthread_mutex_unlock(&fake.lock);
}

CUresult fake_unlocked(CUresult result)
{
	CUresult late = fail_late;

	fail_late = CUDA_SUCCESS;
	if (late && stays(late))
		fake.sticky = late;
	fake_unlock();
	return late ? late : result;
}

static bool destroys(const char *function)
{
	static const char *const words[] = { "Release", "Free", "Destroy", "Unmap", "Unload", "Unregister" };

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strstr(function, words[i]))
			return true;
	return false;
}

/* "cuMemAlloc_v2" is cuMemAlloc to those who ask. */
static bool is_function(const char *name, const char *wanted)
{
	size_t n = strlen(wanted);

	return !strncmp(name, wanted, n) && (name[n] == '\0' || (name[n] == '_' && name[n + 1] == 'v'));
}

static CUresult fail_on_demand(const char *function)
{
	uint64_t number = __atomic_add_fetch(&n_calls, 1, __ATOMIC_RELAXED);

	if (!fail_here)
		return CUDA_SUCCESS;
	if (trace_fd >= 0) {
		char line[128];
		int n = snprintf(line, sizeof(line), "%llu %s\n", (unsigned long long)number, function);
		(void)!write(trace_fd, line, (size_t)n);
	}
	for (unsigned i = 0; i < n_failures; i++) {
		struct failure *f = &failures[i];

		if (f->function[0] != '*' && !is_function(function, f->function))
			continue;
		if (__atomic_load_n(&f->number, __ATOMIC_RELAXED) == 0 ||
		    __atomic_sub_fetch(&f->number, 1, __ATOMIC_RELAXED) != 0)
			continue;
		/* In one process of the program only: the one that takes its place finds the driver well. */
		if (fake.control && __atomic_exchange_n(&fake.control->fired, 1, __ATOMIC_RELAXED))
			continue;
		char line[160];
		int n = snprintf(line, sizeof(line), "fired %d %s %s %llu %d\n", (int)getpid(), fake.program, function,
				 (unsigned long long)number, (int)f->code);
		(void)!write(log_fd >= 0 ? log_fd : 2, line, (size_t)n);
		if (destroys(function)) {
			fail_late = f->code;
			return CUDA_SUCCESS;
		}
		if (stays(f->code))
			fake.sticky = f->code;
		return f->code;
	}
	return CUDA_SUCCESS;
}

CUresult fake_enter(const char *function, enum need need)
{
	CUresult r;

	calling = function;
	fail_late = CUDA_SUCCESS;
	if (fake.control)
		__atomic_add_fetch(&fake.control->calls, 1, __ATOMIC_RELAXED);
	if (queue_in_callback())
		return fake_breach(CUDA_ERROR_NOT_PERMITTED, "a host callback calls the driver");
	r = fail_on_demand(function);
	if (r)
		return r;
	if (need == NEED_NOTHING)
		return CUDA_SUCCESS;
	if (fake.forked)
		return fake_breach(CUDA_ERROR_NOT_INITIALIZED, "called in a child after fork(): the driver does not "
				   "survive it");
	if (!fake.initialised)
		return fake_breach(CUDA_ERROR_NOT_INITIALIZED, "called before cuInit()");
	if (fake.control && fake.control->lost)
		return (CUresult)fake.control->lost;
	if (fake.sticky)
		return fake.sticky;
	if (need == NEED_CONTEXT && !context_current())
		return fake_breach(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread");
	return CUDA_SUCCESS;
}

/* What a process that ends in good order has not given back. */
static __attribute__((destructor)) void tell_what_is_left(void)
{
	unsigned mappings, reservations, n_memory = handle_count(KIND_MEMORY), n_stream = handle_count(KIND_STREAM),
		 n_event = handle_count(KIND_EVENT), n_module = handle_count(KIND_MODULE),
		 n_graph = handle_count(KIND_GRAPH) + handle_count(KIND_EXEC),
		 n_context = handle_count(KIND_CONTEXT), n_pinned = host_count();
	char line[300];
	int n;

	if (fake.forked || fake.sticky || !fake.initialised)
		return;
	va_counts(&mappings, &reservations);
	if (!(mappings | reservations | n_memory | n_stream | n_event | n_module | n_graph | n_context | n_pinned))
		return;
	n = snprintf(line, sizeof(line), "left %d %s: memory %u mappings %u reservations %u contexts %u streams %u "
		     "events %u modules %u graphs %u pinned %u\n", (int)getpid(), fake.program, n_memory, mappings,
		     reservations, n_context, n_stream, n_event, n_module, n_graph, n_pinned);
	(void)!write(log_fd >= 0 ? log_fd : 2, line, (size_t)n);
}
