/* fingerprint.h - one number for "these weights, this arithmetic": pages of two never merge. */
#ifndef ENGINE_FINGERPRINT_H
#define ENGINE_FINGERPRINT_H

#include <stdint.h>
#include "engine/model.h"

/* Compute a model's fingerprint: xxh3-128, big-endian, over every tensor (role, type, shape, bytes)
 * in one fixed order and over each number of the configuration that changes what a token computes.
 * Names, authors, the vocabulary and the order of tensors in the file do not count.
 *
 * Reading all weights takes about 0.1 s/GB, so the tensors' part is kept in
 * ${XDG_CACHE_HOME:-~/.cache}/kvd/fingerprints/, one small file per model file, found by (device,
 * inode, size, mtime, ctime) of the file as it was opened.  A cache that is missing, damaged or not
 * writable costs the time and nothing else.
 *
 * m            opened, its fingerprint field not yet valid
 * ret_digest   16 bytes
 * Never fails.  Thread: any. */
void fingerprint_compute(const struct model *m, uint8_t ret_digest[16]);

#endif
