/* fake_kvd_client.h - a client of a fake kvd, for Check programs: start the script, connect to it. */
#ifndef TESTS_FAKE_KVD_CLIENT_H
#define TESTS_FAKE_KVD_CLIENT_H

#include <check.h>
#include "kvd/kvd.h"
#include "tests/lib/fake_kvd.h"

static inline struct kvd_connection *fake_kvd_connect(struct fake_kvd *fake, void (*serve)(int listen_fd))
{
	struct kvd_connection *c;
	fake_kvd_start(fake, serve);
	int r = kvd_connect(fake->path, "test", NULL, &c);
	ck_assert_msg(r == 0, "%s", kvd_error(c));
	return c;
}

#endif
