/* control.h - the page by which a test steers the doubles of all processes: FAKECUDA_DIR/control.
 *
 * Words are written by the test and read by the doubles, apart from `breaches`, `calls`, which count. */
#ifndef TESTS_FAKECUDA_CONTROL_H
#define TESTS_FAKECUDA_CONTROL_H

#include <stdint.h>

#define FAKE_CONTROL_MAGIC 0x616b6566u

struct fake_control {
	uint32_t magic;
	uint32_t hold;                 /* != 0: no queued work begins */
	uint32_t lost;                 /* != 0: the device is lost, every call returns this code */
	uint32_t breaches;             /* of all processes */
	uint32_t fired;                /* FAKECUDA_FAIL came to pass; it does so once until the test sets this to 0 */
	uint64_t calls;
};

#endif
