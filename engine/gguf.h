/* gguf.h - a GGUF v2/v3 file, mapped read-only and checked from the first byte to the last length.
 *
 * Knows the container only: typed metadata by key, tensors by name.  What the keys mean is the
 * business of model.c and tokenizer.c.  After gguf_open() every pointer handed out lies inside the
 * mapping and stays valid until gguf_close(); no accessor below can read outside the file.
 *
 * The file must not be shortened or rewritten in place while it is mapped: the kernel would answer
 * with SIGBUS, or the weights would change under us.  Replace model files by rename.
 *
 * Thread: an open file is never changed, so that any thread may read it. */
#ifndef ENGINE_GGUF_H
#define ENGINE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Types of metadata values; numbers are the file's. */
enum gguf_type {
	GGUF_U8 = 0, GGUF_I8 = 1, GGUF_U16 = 2, GGUF_I16 = 3, GGUF_U32 = 4, GGUF_I32 = 5,
	GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_U64 = 10,
	GGUF_I64 = 11, GGUF_F64 = 12,
};

/* A getter's answer when the file has no such key; the out-parameter and err are untouched. */
#define GGUF_E_ABSENT 1

#define GGUF_DIMS_MAX 4u
#define GGUF_NAME_MAX 127u         /* bytes of a tensor name; writers in use stop at 63 */
#define GGUF_QUOTE_BYTES 64u       /* room gguf_quote() wants */

/* Bytes in the mapping, not NUL-terminated, of any content. */
struct gguf_string {
	const char *text;
	uint64_t len;
};

/* An array value: n elements of one plain type (never an array), unaligned, little-endian.
 * Strings are (u64 length, bytes) one after the other: walk them with gguf_next_string(). */
struct gguf_array {
	const uint8_t *data;
	uint64_t bytes;
	uint64_t n;
	enum gguf_type type;
};

struct gguf_tensor {
	const char *name;              /* 1..GGUF_NAME_MAX printable ASCII, NUL-terminated */
	const uint8_t *data;           /* bytes; aligned to the file's alignment, at least 8 */
	uint64_t bytes;                /* dims' product in the type's blocks */
	uint64_t dims[GGUF_DIMS_MAX];  /* dims[0] is contiguous; unused ones are 1 */
	uint32_t n_dims;               /* 1..4, as in the file */
	uint32_t type;                 /* one that gguf_element() knows */
};

/* How one element type lies in memory: blocks of block_elements elements in block_bytes bytes. */
struct gguf_element {
	const char *name;
	uint32_t block_elements;
	uint32_t block_bytes;
};

/* Which file this is, as of gguf_open(); all zero for gguf_open_memory(). */
struct gguf_identity {
	uint64_t device, inode, size_bytes;
	int64_t mtime_nsec, ctime_nsec; /* since 1970 */
};

struct gguf;

/* Map a file and check its whole structure: header, metadata, tensor table, and that every
 * tensor's bytes lie in the file, aligned, without overlap, and end it.  Tensor bytes are not read.
 *
 * ret_gguf  owned by the caller, gguf_close() frees it; untouched on failure
 * err       one sentence naming file and field on failure; untouched on success
 * Returns   0; -EINVAL if it is not a sound GGUF file; -errno of open, fstat, mmap or malloc. */
int gguf_open(const char *path, struct gguf **ret_gguf, char *err, size_t errlen);

/* The same over bytes that the caller keeps unchanged until gguf_close().  label stands in errors
 * where a path would.  data should be 32-byte aligned if tensors are to be computed with. */
int gguf_open_memory(const void *data, uint64_t size_bytes, const char *label,
		     struct gguf **ret_gguf, char *err, size_t errlen);
void gguf_close(struct gguf *g);

const char *gguf_path(const struct gguf *g);
const struct gguf_identity *gguf_identity(const struct gguf *g);

/* Metadata.  Return 0; GGUF_E_ABSENT; or -EINVAL with a sentence if the value has another type or
 * does not fit.  u32 takes any integer type in range, f32 takes f64 as well; floats must be finite.
 * A string or array points into the mapping. */
bool gguf_has(const struct gguf *g, const char *key);
int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret_value, char *err,
		 size_t errlen);
int gguf_get_f32(const struct gguf *g, const char *key, float *ret_value, char *err, size_t errlen);
int gguf_get_bool(const struct gguf *g, const char *key, bool *ret_value, char *err, size_t errlen);
int gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *ret_value,
		    char *err, size_t errlen);
int gguf_get_array(const struct gguf *g, const char *key, enum gguf_type type,
		   struct gguf_array *ret_value, char *err, size_t errlen);

/* Take the next string off an array of strings: advances data, lowers n and bytes.
 * Returns false when none is left. */
bool gguf_next_string(struct gguf_array *array, struct gguf_string *ret_string);

bool gguf_string_is(struct gguf_string s, const char *text);

/* A string's first 40 bytes made fit for an error message: quoted, control bytes as '?'. */
const char *gguf_quote(struct gguf_string s, char buffer[GGUF_QUOTE_BYTES]);

uint64_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t index);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name);

/* Layout of an element type number, NULL if no such type is known (a superset of what the engine
 * computes with, so that errors can name what a file contains). */
const struct gguf_element *gguf_element(uint32_t type);

/* Put "PATH: sentence" into err.  Returns -EINVAL, for callers to pass on. */
int gguf_error(const struct gguf *g, char *err, size_t errlen, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

#endif
