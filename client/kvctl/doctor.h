/* doctor.h - one line of `kvctl doctor`, for its files. */
#ifndef CLIENT_KVCTL_DOCTOR_H
#define CLIENT_KVCTL_DOCTOR_H

#include "client/kvctl/kvctl.h"

enum level { OK, WARN, FAIL };

struct doctor {
	const struct kvctl_view *v;
	struct kvd_connection *c;  /* NULL: kvd does not answer */
	const char *root;          /* "" but in tests */
	json_t *all;
	unsigned failed;
	uint32_t pid;              /* kvd's, 0: not known */
	uint64_t pool_bytes;
};

/* doctor_say.c: the sentence in printf's way; the remedy is said where the level is not OK. */
__attribute__((format(printf, 4, 6)))
void doctor_say(struct doctor *d, const char *check, enum level level, const char *format, const char *remedy, ...);

/* doctor_gpu.c: the driver, and the GPU whose memory kvd owns. */
void doctor_gpu(struct doctor *d);

#endif
