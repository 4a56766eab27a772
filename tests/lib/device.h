/* device.h - the device that the integration tests run on: KVD_TEST_DEVICE=host (or unset), or cuda.
 *
 * For cuda the driver is the double (tests/fakecuda): device_begin() makes a directory of its own in /dev/shm
 * and points this process's children to it; device_end() fails the test if any of them broke the driver's
 * contract, and gives back the memory.  One device per test process, for all its hosts.
 * With KVD_TEST_DRIVER=real (make gpu-check) none of this happens: the machine's own driver and device are used.
 * Settings of the double that a test makes with setenv() before device_begin() are kept. */
#ifndef TESTS_DEVICE_H
#define TESTS_DEVICE_H

#include <stdbool.h>
#include <stddef.h>

/* "host" or "cuda", for --device. */
const char *device_name(void);
bool device_is_cuda(void);

/* Counted: each begin wants its end.  host_start() and host_stop() call them. */
void device_begin(void);
void device_end(void);

/* The double's log so far, malloc'ed, "" if there is none. */
char *device_log(void);
/* Lines of the log that begin with this word. */
unsigned device_log_count(const char *word);
/* Hold all queued work, or lose the device (0: not): words of the double's control page. */
void device_hold(bool hold);
/* FAKECUDA_FAIL may come to pass once more; did it since? */
void device_rearm(void);
bool device_has_fired(void);
void device_lose(unsigned code);

#endif
