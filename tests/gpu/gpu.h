/* gpu.h - what the probes of `make gpu-check` share: the driver opened, extents as kvd makes them, children.
 *
 * A probe is a program for one question; it prints one JSON object and exits 0, or prints a sentence and exits 1, or,
 * without a device, `skipped: no CUDA device: WHY` and exits 0.  Every unexpected result ends the probe here. */
#ifndef TESTS_GPU_GPU_H
#define TESTS_GPU_GPU_H

#include <stdbool.h>
#include <sys/types.h>

#include "kvd/cuda/driver.h"

#define GPU_ENDLESS 60000000000u   /* cycles: longer than any probe waits, and an end for who is not killed */

extern struct driver gpu_driver;
extern struct driver_facts gpu_facts;
extern uint64_t gpu_granularity_bytes;
extern bool gpu_is_double;

void gpu_open(bool with_context);
/* Ends the probe unless result is DRIVER_OK. */
void gpu_must(const char *call, int result);
__attribute__((noreturn, format(printf, 1, 2))) void gpu_fail(const char *format, ...);

uint64_t gpu_create(uint64_t bytes);                   /* a handle */
int gpu_export(uint64_t handle);
uint64_t gpu_import(int fd);
uint64_t gpu_map(uint64_t handle, uint64_t bytes, int access); /* an address; the handle is released */
int gpu_access(uint64_t at, uint64_t bytes, int access);       /* the result */
void gpu_unmap(uint64_t at, uint64_t bytes);

struct driver_function *gpu_kernel(const char *name);
/* probe_write over these bytes, on a stream of its own. */
struct driver_stream *gpu_write(uint64_t at, uint64_t bytes, uint64_t cycles_max);
uint64_t gpu_free_bytes(void);

/* This program again, in a role, with a socket at descriptor 3. */
#define GPU_SOCKET 3
pid_t gpu_child(const char *role, int *ret_socket);
void gpu_send(int socket, char what, int fd);          /* fd -1: none */
/* What was sent, or 0 for a hang-up. */
char gpu_receive(int socket, int *ret_fd);
void gpu_expect(int socket, char what, int *ret_fd);
uint64_t gpu_now_usec(void);
#endif
