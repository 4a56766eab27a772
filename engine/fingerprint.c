/* fingerprint.c - hash a model's tensors and numbers; remember the slow part between runs.
 *
 * Owns the cache directory's format: one line of text per file,
 *     kvd-fingerprint 1 DEVICE INODE SIZE MTIME_NS CTIME_NS HASH
 * under the name of the same five numbers in hexadecimal.  The line repeats its name so that a
 * renamed or damaged file is noticed; anything but an exact match counts as absent.  ctime stands
 * beside mtime because a copy that preserves times may change bytes behind an unchanged mtime.
 *
 * Runs while a model opens, on any thread; two processes may write one entry at the same time: each
 * writes a temporary of its own and renames.  Never fails upward. */
#include "engine/fingerprint.h"
#include "engine/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* Raise when the bytes fed to the hash change their meaning or order. */
#define FORMAT_VERSION 1u
#define LINE_BYTES 256u

/* What one tensor contributes.  The running digest goes in, so that the order counts and nothing
 * needs memory.  role and layer stand for the name: files may name the same thing differently. */
struct link {
	uint8_t before[16];
	uint8_t content[16];
	uint64_t role, layer, type, n_rows, n_cols;
};

static void digest_bytes(const void *bytes, size_t n, uint8_t ret_digest[16])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, n));
	memcpy(ret_digest, canonical.digest, 16);
}

static void add_tensor(uint8_t digest[16], uint64_t role, uint64_t layer, const struct tensor *t)
{
	struct link link = { .role = role, .layer = layer };

	memcpy(link.before, digest, 16);
	if (t->data) {
		link.type = t->type;
		link.n_rows = t->n_rows;
		link.n_cols = t->n_cols;
		digest_bytes(t->data, t->bytes, link.content);
	}
	digest_bytes(&link, sizeof link, digest);
}

static void hash_tensors(const struct model *m, uint8_t ret_digest[16])
{
	const uint64_t whole = UINT32_MAX; /* "layer" of what belongs to none */

	memset(ret_digest, 0, 16);
	add_tensor(ret_digest, 0, whole, &m->tok_embd);
	add_tensor(ret_digest, 1, whole, &m->output_norm);
	if (m->output.data != m->tok_embd.data)
		add_tensor(ret_digest, 2, whole, &m->output);
	add_tensor(ret_digest, 3, whole, &m->rope_freqs);
	for (uint32_t i = 0; i < m->config.n_layers; i++) {
		const struct model_layer *l = &m->layers[i];
		const struct tensor *parts[] = {
			&l->attn_norm, &l->wq, &l->wk, &l->wv, &l->wo,
			&l->ffn_norm, &l->w_gate, &l->w_up, &l->w_down,
		};
		for (uint32_t p = 0; p < sizeof parts / sizeof parts[0]; p++)
			add_tensor(ret_digest, p, i, parts[p]);
	}
}

/* Directory of the cache, created where missing.  Returns false if there is no place for one. */
static bool cache_directory(char path[PATH_MAX])
{
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	const char *const tail[] = { "/kvd", "/fingerprints" };
	int n;

	/* The XDG rule: a relative path is to be ignored. */
	if (cache && cache[0] == '/')
		n = snprintf(path, PATH_MAX, "%s", cache);
	else if (home && home[0] == '/')
		n = snprintf(path, PATH_MAX, "%s/.cache", home);
	else
		return false;
	if (n < 0 || n > PATH_MAX - 128)
		return false;
	mkdir(path, 0700);
	for (unsigned i = 0; i < 2; i++) {
		n += snprintf(path + n, (size_t)(PATH_MAX - n), "%s", tail[i]);
		mkdir(path, 0700);
	}
	return true;
}

static bool entry_path(const struct gguf_identity *id, char path[PATH_MAX])
{
	size_t used;

	if (!id->inode || !cache_directory(path))
		return false;
	used = strlen(path);
	return snprintf(path + used, PATH_MAX - used,
			"/%" PRIx64 "-%" PRIx64 "-%" PRIx64 "-%" PRIx64 "-%" PRIx64,
			id->device, id->inode, id->size_bytes, (uint64_t)id->mtime_nsec,
			(uint64_t)id->ctime_nsec) < (int)(PATH_MAX - used);
}

/* The line of an entry up to its hash; what is read must begin with exactly this. */
static size_t line_head(const struct gguf_identity *id, char line[LINE_BYTES])
{
	int n = snprintf(line, LINE_BYTES,
			 "kvd-fingerprint %u %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64
			 " %" PRId64 " ",
			 FORMAT_VERSION, id->device, id->inode, id->size_bytes, id->mtime_nsec,
			 id->ctime_nsec);
	return (size_t)n;
}

static int hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool cache_load(const struct gguf_identity *id, uint8_t ret_digest[16])
{
	char path[PATH_MAX], line[LINE_BYTES], want[LINE_BYTES];
	uint8_t digest[16];
	size_t head = line_head(id, want);
	ssize_t n;
	int fd;

	if (!entry_path(id, path))
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (fd < 0)
		return false;
	n = read(fd, line, sizeof line);
	close(fd);
	if (n != (ssize_t)head + 33 || memcmp(line, want, head) || line[n - 1] != '\n')
		return false;
	for (unsigned i = 0; i < 16; i++) {
		int high = hex_value(line[head + 2 * i]), low = hex_value(line[head + 2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		digest[i] = (uint8_t)(high << 4 | low);
	}
	memcpy(ret_digest, digest, 16);
	return true;
}

static void cache_store(const struct gguf_identity *id, const uint8_t digest[16])
{
	char path[PATH_MAX], temporary[PATH_MAX + 16], line[LINE_BYTES];
	size_t n = line_head(id, line);
	bool written;
	int fd;

	if (!entry_path(id, path))
		return;
	for (unsigned i = 0; i < 16; i++)
		n += (size_t)snprintf(line + n, 3, "%02x", digest[i]);
	line[n++] = '\n';
	snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
	fd = mkostemp(temporary, O_CLOEXEC); /* 0600 by its contract */
	if (fd < 0)
		return;
	written = write(fd, line, n) == (ssize_t)n;
	close(fd);
	if (!written || rename(temporary, path))
		unlink(temporary);
}

void fingerprint_compute(const struct model *m, uint8_t ret_digest[16])
{
	const struct model_config *c = &m->config;
	const struct gguf_identity *id = gguf_identity(m->file);
	struct {
		uint8_t tensors[16];
		uint32_t version, arch, n_layers, n_embd, n_heads, n_kv_heads, head_dim, n_ff,
			n_vocab;
		uint32_t rope_dims, tied;
		float rope_base, rope_scale, rms_eps;
	} all = {
		.version = FORMAT_VERSION,
		.arch = XXH32(c->arch, strlen(c->arch), 0),
		.n_layers = c->n_layers, .n_embd = c->n_embd, .n_heads = c->n_heads,
		.n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim, .n_ff = c->n_ff,
		.n_vocab = c->n_vocab, .rope_dims = c->rope_dims,
		.tied = m->output.data == m->tok_embd.data,
		.rope_base = c->rope_base, .rope_scale = c->rope_scale, .rms_eps = c->rms_eps,
	};
	_Static_assert(sizeof all == 16 + 14 * 4, "padding would be hashed");

	if (!cache_load(id, all.tensors)) {
		hash_tensors(m, all.tensors);
		cache_store(id, all.tensors);
	}
	digest_bytes(&all, sizeof all, ret_digest);
}
