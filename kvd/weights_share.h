/* weights_share.h - one laid-out copy of a model's weights per host.
 *
 * The first engine of a model offers a sealed memfd, kvd keeps the descriptor while any engine of
 * that fingerprint is attached and gives it to whoever asks.  kvd never maps it: it cannot be hurt
 * by it. */
#ifndef KVD_WEIGHTS_SHARE_H
#define KVD_WEIGHTS_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#include "kvd/limits.h"
#include "kvd/proto.h"

struct daemon;
struct peer;

struct weights_entry {
	bool used;
	uint8_t fingerprint[16];
	char layout[KVD_NAME_MAX];
	int fd;
};

struct weights_share { struct weights_entry entries[LIMIT_WEIGHTS]; };

void weights_share_ask(struct peer *peer, const struct kvd_msg_weights *m);
/* fd stays the caller's. */
void weights_share_offer(struct peer *peer, const struct kvd_msg_weights *m, int fd);
/* Take over what a killed kvd had kept. */
void weights_share_adopt(struct daemon *daemon);
/* An engine of this fingerprint is gone: close what nobody attached can use. */
void weights_share_forget(struct daemon *daemon, const uint8_t fingerprint[16]);
void weights_share_close(struct daemon *daemon);

#endif
