/* fake.h - inside of the strict double of libcuda.so.1 (see README.md beside it for rules and environment).
 *
 * One process, one lock (fake.lock) over every table below; the device's work runs on one thread of the
 * double's own (queue.c), without the lock.  Memory lives in files that several processes share (slot.c), and
 * goes when the last descriptor or mapping of it is gone, as a SIGKILL leaves it.
 * A function begins with ENTER(): it may be told to fail, and it may be too early or too late to be called.
 * A breach of the driver's contract is written to the log by one write(), so that a killed process's breaches
 * are kept; then the call returns what the driver would, or the process aborts (FAKECUDA_ABORT=1, and always
 * where the driver's behaviour would be undefined: a stale handle). */
#ifndef TESTS_FAKECUDA_FAKE_H
#define TESTS_FAKECUDA_FAKE_H

#include <cuda.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "tests/fakecuda/control.h"

#define API __attribute__((visibility("default"))) CUresult CUDAAPI

enum need { NEED_NOTHING, NEED_INIT, NEED_CONTEXT };
enum kind { KIND_FREE, KIND_MEMORY, KIND_CONTEXT, KIND_STREAM, KIND_EVENT, KIND_MODULE, KIND_FUNCTION, KIND_GRAPH,
	    KIND_EXEC, KIND_NODE, KINDS };

struct fake_settings {
	size_t granularity, memory_bytes;
	int driver_version, n_devices;
	unsigned delay_usec, seed;
	bool abort_on_breach, ignore_hint, no_ipc, no_rdma, no_vmm, exclusive, no_cooperative;
};

struct fake {
	pthread_mutex_t lock;
	bool initialised, forked;
	CUresult sticky;               /* what every call returns after a fault */
	struct fake_settings set;
	struct fake_control *control;  /* shared by all processes of one directory */
	char dir[200];
	char program[32];
};
extern struct fake fake;

/* ---- report.c ---- */
CUresult fake_enter(const char *function, enum need need);
#define ENTER(need) do { CUresult enter_ = fake_enter(__func__, need); if (enter_) return enter_; } while (0)
void fake_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A breach; returns the code. */
CUresult fake_breach(CUresult code, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void fake_undefined(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* What an error leaves behind: everything fails from now on. */
CUresult fake_fault(CUresult code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void fake_lock(void);
void fake_unlock(void);
/* Lets go of the lock.  Where FAKECUDA_FAIL wants a destroying call to fail, it fails here, with its effect: the
 * driver gives errors of earlier work from such calls, and nobody could give the thing back a second time. */
CUresult fake_unlocked(CUresult result);
#define LOCKED(expression) do { fake_lock(); return fake_unlocked(expression); } while (0)

/* ---- handle.c: every handle has a kind and a generation, so that a stale one is known ---- */
uint64_t handle_new(enum kind kind, void *object);
void *handle_get(enum kind kind, uint64_t handle); /* ends the process if stale or of another kind */
void *handle_drop(enum kind kind, uint64_t handle);
unsigned handle_count(enum kind kind);
void handle_each(enum kind kind, void (*visit)(void *object, uint64_t handle, void *arg), void *arg);
#define HANDLE(h) ((uint64_t)(uintptr_t)(h))

/* ---- slot.c: memory of a device, shared between processes ---- */
struct slot {
	int device, fd, exported_fd;   /* each holds a lock that says "in use"; -1: none */
	uint32_t index;
	size_t bytes;
};
CUresult slot_open_devices(void);
CUresult slot_take(int device, size_t bytes, bool exportable, struct slot *ret);
CUresult slot_from_fd(int fd, struct slot *ret);        /* INVALID_VALUE: not one of ours */
void slot_give(struct slot *slot);
void *slot_map(const struct slot *slot, void *at, int protection);
void slot_usage(int device, size_t *ret_free, size_t *ret_total);
CUresult slot_claim_device(int device);                 /* this process has a context now; one in exclusive mode */
bool slot_has_process(int device, unsigned pid);
void slot_close_devices(void);
size_t fake_bytes(const char *text, size_t otherwise);  /* "256M" */
bool slot_is_device_file(int fd);

/* ---- va.c: addresses, mappings, what may be touched ---- */
struct memory {
	uint64_t handle;
	unsigned references, mappings;
	struct slot slot;
	bool exportable, imported, rdma;
};
struct mapping {
	struct mapping *next;
	uintptr_t start;
	size_t bytes;
	struct memory *memory;         /* NULL: cuMemAlloc's own */
	struct slot slot;
	unsigned access;               /* CU_MEM_ACCESS_FLAGS_PROT_... */
	char *alias;                   /* the double's own view, always writable */
	uintptr_t user_start;          /* cuMemAlloc: what the caller got, and asked */
	size_t user_bytes;
};
struct mapping *va_find(uintptr_t address);
bool va_is_device(uintptr_t address);                   /* inside a reservation or an allocation */
/* One mapping after the other covers [address, +bytes) with this access?  0, INVALID_VALUE (not mapped) or
 * ILLEGAL_ADDRESS (mapped, no such access). */
CUresult va_check(uintptr_t address, size_t bytes, bool write);
/* The double's view of an address, and how far it reaches. */
char *va_alias(uintptr_t address, size_t *ret_bytes);
void va_open(void);                                     /* for a launch: device addresses work */
void va_close(void);
CUresult va_allocate(size_t bytes, uintptr_t *ret);
CUresult va_free(uintptr_t address);
void va_counts(unsigned *ret_mappings, unsigned *ret_reservations);
bool va_mapping_bounds(uintptr_t address, uintptr_t *ret_start, size_t *ret_bytes);

/* ---- host.c: pinned host memory ---- */
bool host_is_pinned(uintptr_t address, size_t bytes);
unsigned host_count(void);

/* ---- context.c ---- */
struct context {
	uint64_t handle;
	int device;
	unsigned flags, references;
	bool primary;
};
struct context *context_current(void);                  /* NULL: none */

/* ---- queue.c: the device's work ---- */
struct stream;
struct event;
struct op {
	struct op *next;
	struct stream *stream;
	uint64_t ticket, after_usec;
	bool running;
	CUresult (*run)(struct op *op);
	void (*drop)(struct op *op);   /* frees what it owns; may be NULL */
	bool (*ready)(struct op *op);  /* NULL: always */
	const char *what;
};
enum { TAILS_MAX = 16 };
struct nodes_after { unsigned n; uint32_t nodes[TAILS_MAX]; };
struct stream {
	uint64_t handle;
	struct context *context;
	bool blocking;                 /* waits for the default stream, and it for this one */
	struct capture *capture;       /* what is asked of it becomes a graph's node */
	struct nodes_after tails;      /* of the capture: what its next node waits for */
};
extern struct stream fake_default_stream;
/* Takes op over.  Into the stream's capture, if there is one. */
CUresult queue_add(struct stream *stream, struct op *op);
bool queue_is_idle(struct stream *stream);              /* NULL: of all streams */
CUresult queue_wait(struct stream *stream);
bool queue_is_done(uint64_t ticket);
CUresult queue_wait_ticket(uint64_t ticket);
void queue_catch_faults(void);
void queue_device_code(bool begins);                    /* its addresses work, faults are the device's, no lock */
bool queue_in_device(void);                             /* this thread is the device's */
bool queue_in_callback(void);
CUresult stream_get(CUstream handle, struct stream **ret);

/* ---- event.c ---- */
void event_reap(void);                                  /* files of processes that are gone */
struct event {
	uint64_t handle;
	unsigned flags, references;
	bool recorded, foreign;
	uint64_t ticket;               /* of the newest record */
	uint64_t done_usec;
	struct event_file *file;       /* shared with other processes; NULL: none */
	struct capture *captured;      /* recorded inside this capture */
	struct nodes_after tails;
};

/* ---- graph.c ---- */
bool capture_forbids(void);                             /* a capture runs that this call would break, and breaks */
CUresult capture_allows(struct stream *stream);         /* may work be queued here, not captured? */
CUresult capture_add(struct stream *stream, struct op *op);
CUresult capture_record(struct stream *stream, struct event *event);
CUresult capture_join(struct stream *stream, struct event *event);
void capture_forget(struct stream *stream);

/* ---- module.c ---- */
enum { PARAMETERS_MAX = 16 };
struct function {
	uint64_t handle;
	char name[64];
	unsigned n_parameters, parameter_bytes;
	struct { uint32_t offset, bytes; } parameters[PARAMETERS_MAX];
	unsigned registers, shared_bytes, local_bytes, max_threads;
	unsigned dynamic_bytes_max;    /* what cuFuncSetAttribute() allowed */
	const struct emulated_kernel *emulated;
};
struct module {
	uint64_t handle;
	struct context *context;
	unsigned n_functions;
	struct function *functions;
};
/* The functions of a fatbin or cubin.  Reads nothing outside of what the image says it has. */
CUresult image_parse(const void *image, struct module *ret);

#endif
