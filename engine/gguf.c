/* gguf.c - map a GGUF file and check its structure; the only code that sees unchecked bytes.
 *
 * Owns struct gguf: the mapping, the sorted table of metadata entries, the sorted table of tensors.
 * The file reads: magic, version, counts | metadata entries | tensor table | padding | tensor data.
 * Everything goes through struct reader, whose take_* functions compare with what is left of the
 * file before they move; sums and products of file numbers are checked for overflow.  Every count
 * is compared with the bytes its items need at least, before memory is allocated for it, so that a
 * lying count costs a sentence and not a gigabyte.
 *
 * Runs at start, on any thread.  Never writes, never reads tensor bytes, never keeps the fd. */
#include "engine/gguf.h"
#include "engine/gguf_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The largest files in use have some 60 entries and some 2,000 tensors (layers x about 10; up to
 * 20,000 where experts are stored one by one).  The limits leave an order of magnitude. */
#define ENTRIES_MAX 4096u
#define TENSORS_MAX 262144u
#define KEY_MAX 255u               /* bytes; the longest key in use has 60 */
#define ENTRY_BYTES_MIN (8u + 1u + 4u + 1u)            /* key length, key, type, value */
#define TENSOR_BYTES_MIN \
	(8u + 1u + 4u + 8u + 4u + 8u) /* name length, name, n_dims, dim, type, offset */
#define ALIGNMENT_DEFAULT 32u
#define ALIGNMENT_MIN 8u           /* the format's own rule; also what f32 and u64 loads need */
#define ALIGNMENT_MAX (1u << 20)

struct reader {
	struct gguf *g;
	uint64_t pos;                  /* <= g->size_bytes, always */
	char *err;
	size_t errlen;
};

static uint64_t left_bytes(const struct reader *r)
{
	return r->g->size_bytes - r->pos;
}

static bool take_bytes(struct reader *r, uint64_t n, const uint8_t **ret_bytes)
{
	if (n > left_bytes(r))
		return false;
	*ret_bytes = r->g->base + r->pos;
	r->pos += n;
	return true;
}

static bool take_u32(struct reader *r, uint32_t *ret_value)
{
	const uint8_t *bytes;

	if (!take_bytes(r, sizeof *ret_value, &bytes))
		return false;
	memcpy(ret_value, bytes, sizeof *ret_value);
	return true;
}

static bool take_u64(struct reader *r, uint64_t *ret_value)
{
	const uint8_t *bytes;

	if (!take_bytes(r, sizeof *ret_value, &bytes))
		return false;
	memcpy(ret_value, bytes, sizeof *ret_value);
	return true;
}

static bool take_string(struct reader *r, struct gguf_string *ret_string)
{
	const uint8_t *bytes;
	uint64_t len;

	if (!take_u64(r, &len) || !take_bytes(r, len, &bytes))
		return false;
	*ret_string = (struct gguf_string){ (const char *)bytes, len };
	return true;
}

#define FAIL(r, ...) gguf_error((r)->g, (r)->err, (r)->errlen, __VA_ARGS__)

static int fail_short(struct reader *r, const char *what)
{
	return FAIL(r,
		    "file ends at byte %llu, within %s; it is truncated or its lengths are wrong, "
		    "fetch it again",
		    (unsigned long long)r->g->size_bytes, what);
}

/* Keys and names are ASCII by the format; holding them to it keeps terminals and logs clean. */
static bool is_printable(struct gguf_string s)
{
	for (uint64_t i = 0; i < s.len; i++)
		if (s.text[i] <= 0x20 || s.text[i] >= 0x7f)
			return false;
	return true;
}

static int read_array(struct reader *r, struct gguf_entry *e)
{
	char quoted[GGUF_QUOTE_BYTES];
	const uint8_t *start;
	uint32_t type, width;

	if (!take_u32(r, &type) || !take_u64(r, &e->n))
		return fail_short(r, gguf_quote(e->key, quoted));
	width = gguf_type_bytes(type);
	if (!width && type != GGUF_STRING)
		return FAIL(r, "metadata %s is an array of %s, expected plain values or strings",
			    gguf_quote(e->key, quoted),
			    type == GGUF_ARRAY ? "arrays" : "an unknown type");
	if (e->n > left_bytes(r) / (width ? width : sizeof(uint64_t)))
		return FAIL(r,
			    "metadata %s claims %llu elements of type %s, but only %llu bytes are "
			    "left",
			    gguf_quote(e->key, quoted), (unsigned long long)e->n,
			    gguf_type_name(type), (unsigned long long)left_bytes(r));
	e->element = type;
	start = r->g->base + r->pos;
	if (width) {
		r->pos += e->n * width;
	} else {
		for (uint64_t i = 0; i < e->n; i++) {
			struct gguf_string item;

			if (!take_string(r, &item))
				return FAIL(r,
					    "string %llu of %llu in metadata %s reaches past the "
					    "end of the file",
					    (unsigned long long)i, (unsigned long long)e->n,
					    gguf_quote(e->key, quoted));
		}
	}
	e->value = start;
	e->bytes = (uint64_t)(r->g->base + r->pos - start);
	return 0;
}

static int read_value(struct reader *r, struct gguf_entry *e, uint32_t type)
{
	char quoted[GGUF_QUOTE_BYTES];
	struct gguf_string text;

	e->type = type;
	if (type == GGUF_ARRAY)
		return read_array(r, e);
	if (type == GGUF_STRING) {
		if (!take_string(r, &text))
			return fail_short(r, gguf_quote(e->key, quoted));
		e->value = (const uint8_t *)text.text;
		e->bytes = text.len;
		return 0;
	}
	e->bytes = gguf_type_bytes(type);
	if (!e->bytes)
		return FAIL(r, "metadata %s has value type %u, GGUF knows 0 to 12",
			    gguf_quote(e->key, quoted), type);
	if (!take_bytes(r, e->bytes, &e->value))
		return fail_short(r, gguf_quote(e->key, quoted));
	if (type == GGUF_BOOL && *e->value > 1)
		return FAIL(r, "metadata %s is a bool with value %u, expected 0 or 1",
			    gguf_quote(e->key, quoted), *e->value);
	return 0;
}

static int order_entries(const void *a, const void *b)
{
	const struct gguf_string x = ((const struct gguf_entry *)a)->key;
	const struct gguf_string y = ((const struct gguf_entry *)b)->key;
	int order = memcmp(x.text, y.text, x.len < y.len ? x.len : y.len);

	return order ? order : x.len < y.len ? -1 : x.len > y.len;
}

static int read_metadata(struct reader *r)
{
	struct gguf *g = r->g;
	char quoted[GGUF_QUOTE_BYTES], what[96];
	int rc;

	g->entries = calloc(g->n_entries ? g->n_entries : 1, sizeof *g->entries);
	if (!g->entries)
		return -ENOMEM;
	for (uint64_t i = 0; i < g->n_entries; i++) {
		struct gguf_entry *e = &g->entries[i];
		uint32_t type;

		snprintf(what, sizeof what, "metadata entry %llu of %llu",
			 (unsigned long long)i + 1, (unsigned long long)g->n_entries);
		if (!take_string(r, &e->key))
			return fail_short(r, what);
		if (!e->key.len || e->key.len > KEY_MAX || !is_printable(e->key))
			return FAIL(r,
				    "%s has a key of %llu bytes %s, expected 1 to %u printable "
				    "ASCII characters",
				    what, (unsigned long long)e->key.len,
				    gguf_quote(e->key, quoted), KEY_MAX);
		if (!take_u32(r, &type))
			return fail_short(r, what);
		rc = read_value(r, e, type);
		if (rc)
			return rc;
	}
	qsort(g->entries, g->n_entries, sizeof *g->entries, order_entries);
	for (uint64_t i = 1; i < g->n_entries; i++)
		if (!order_entries(&g->entries[i - 1], &g->entries[i]))
			return FAIL(r, "metadata %s stands in the file twice",
				    gguf_quote(g->entries[i].key, quoted));
	return 0;
}

/* Shape and size of one tensor; sets dims and bytes. */
static int read_shape(struct reader *r, struct gguf_tensor *t)
{
	const struct gguf_element *element;
	uint64_t n_blocks;

	if (!take_u32(r, &t->n_dims))
		return fail_short(r, t->name);
	if (t->n_dims < 1 || t->n_dims > GGUF_DIMS_MAX)
		return FAIL(r, "tensor %s has %u dimensions, expected 1 to %u", t->name, t->n_dims,
			    GGUF_DIMS_MAX);
	for (uint32_t d = 0; d < GGUF_DIMS_MAX; d++)
		t->dims[d] = 1;
	for (uint32_t d = 0; d < t->n_dims; d++) {
		if (!take_u64(r, &t->dims[d]))
			return fail_short(r, t->name);
		if (!t->dims[d])
			return FAIL(r, "tensor %s has dimension %u of size 0", t->name, d);
	}
	if (!take_u32(r, &t->type))
		return fail_short(r, t->name);
	element = gguf_element(t->type);
	if (!element)
		return FAIL(r,
			    "tensor %s has element type %u, which is not a known GGUF tensor type",
			    t->name, t->type);
	if (t->dims[0] % element->block_elements)
		return FAIL(r,
			    "tensor %s has rows of %llu elements, type %s needs a multiple of %u",
			    t->name, (unsigned long long)t->dims[0], element->name,
			    element->block_elements);
	n_blocks = t->dims[0] / element->block_elements;
	for (uint32_t d = 1; d < t->n_dims; d++)
		if (__builtin_mul_overflow(n_blocks, t->dims[d], &n_blocks))
			return FAIL(r, "tensor %s has a shape whose product overflows 64 bits",
				    t->name);
	if (__builtin_mul_overflow(n_blocks, (uint64_t)element->block_bytes, &t->bytes))
		return FAIL(r, "tensor %s has a shape whose size in bytes overflows 64 bits",
			    t->name);
	return 0;
}

/* One row of the tensor table.  data holds the offset within the data section until
 * place_tensors() knows where that begins. */
static int read_tensor(struct reader *r, struct gguf_tensor *t, uint64_t index, char *name)
{
	struct gguf_string text;
	char quoted[GGUF_QUOTE_BYTES], what[96];
	uint64_t offset;
	int rc;

	snprintf(what, sizeof what, "entry %llu of %llu of the tensor table",
		 (unsigned long long)index + 1, (unsigned long long)r->g->n_tensors);
	if (!take_string(r, &text))
		return fail_short(r, what);
	if (!text.len || text.len > GGUF_NAME_MAX || !is_printable(text))
		return FAIL(r,
			    "%s has a name of %llu bytes %s, expected 1 to %u printable ASCII "
			    "characters",
			    what, (unsigned long long)text.len, gguf_quote(text, quoted),
			    GGUF_NAME_MAX);
	memcpy(name, text.text, text.len);
	name[text.len] = '\0';
	t->name = name;
	rc = read_shape(r, t);
	if (rc)
		return rc;
	if (!take_u64(r, &offset))
		return fail_short(r, what);
	if (offset % r->g->alignment)
		return FAIL(r,
			    "tensor %s lies at offset %llu, which is not a multiple of the "
			    "alignment %llu",
			    t->name, (unsigned long long)offset,
			    (unsigned long long)r->g->alignment);
	t->data = (const uint8_t *)(uintptr_t)offset;
	return 0;
}

static int order_names(const void *a, const void *b)
{
	return strcmp(((const struct gguf_tensor *)a)->name, ((const struct gguf_tensor *)b)->name);
}

static int order_data(const void *a, const void *b)
{
	const struct gguf_tensor *x = a, *y = b;

	return x->data < y->data ? -1 : x->data > y->data;
}

/* Turn offsets into pointers; refuse what leaves the file or overlaps. */
static int place_tensors(struct reader *r)
{
	struct gguf *g = r->g;
	uint64_t start = (r->pos + g->alignment - 1) & ~(g->alignment - 1);
	uint64_t room = start < g->size_bytes ? g->size_bytes - start : 0;
	uint64_t end = 0;

	qsort(g->tensors, g->n_tensors, sizeof *g->tensors, order_data);
	for (uint64_t i = 0; i < g->n_tensors; i++) {
		struct gguf_tensor *t = &g->tensors[i];
		uint64_t offset = (uintptr_t)t->data;

		if (offset > room || t->bytes > room - offset)
			return FAIL(r,
				    "tensor %s needs %llu bytes at offset %llu of the data "
				    "section, but the file has %llu there; it is truncated or "
				    "lies, fetch it again",
				    t->name, (unsigned long long)t->bytes,
				    (unsigned long long)offset, (unsigned long long)room);
		if (offset < end)
			return FAIL(r,
				    "tensor %s begins at offset %llu, within the bytes of tensor "
				    "%s",
				    t->name, (unsigned long long)offset, g->tensors[i - 1].name);
		end = offset + t->bytes;
		t->data = g->base + start + offset;
	}
	/* Writers pad the last tensor to the alignment; anything more is no part of the file. */
	if (room - end >= g->alignment)
		return FAIL(r,
			    "the file goes on for %llu bytes after its last tensor; it is damaged or "
			    "joined with another, fetch it again",
			    (unsigned long long)(room - end));
	qsort(g->tensors, g->n_tensors, sizeof *g->tensors, order_names);
	for (uint64_t i = 1; i < g->n_tensors; i++)
		if (!order_names(&g->tensors[i - 1], &g->tensors[i]))
			return FAIL(r, "tensor %s stands in the file twice", g->tensors[i].name);
	return 0;
}

static int read_tensors(struct reader *r)
{
	struct gguf *g = r->g;
	size_t used = 0, names_bytes;
	int rc;

	/* Names are copied to get their NUL.  A name of n bytes takes n + 32 in the file, so the
	 * arena needs no more than what is left of it, and no more than the longest names need. */
	names_bytes = g->n_tensors * (GGUF_NAME_MAX + 1u);
	if (names_bytes > left_bytes(r))
		names_bytes = left_bytes(r);
	g->tensors = calloc(g->n_tensors ? g->n_tensors : 1, sizeof *g->tensors);
	g->names = malloc(names_bytes + 1);
	if (!g->tensors || !g->names)
		return -ENOMEM;
	for (uint64_t i = 0; i < g->n_tensors; i++) {
		rc = read_tensor(r, &g->tensors[i], i, g->names + used);
		if (rc)
			return rc;
		used += strlen(g->tensors[i].name) + 1;
	}
	return place_tensors(r);
}

static int read_alignment(struct reader *r)
{
	uint32_t alignment = ALIGNMENT_DEFAULT;
	int rc = gguf_get_u32(r->g, "general.alignment", &alignment, r->err, r->errlen);

	if (rc < 0)
		return rc;
	if (alignment < ALIGNMENT_MIN || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1)))
		return FAIL(r, "general.alignment is %u, expected a power of two from %u to %u",
			    alignment, ALIGNMENT_MIN, ALIGNMENT_MAX);
	r->g->alignment = alignment;
	return 0;
}

static int read_header(struct reader *r)
{
	struct gguf *g = r->g;
	const uint8_t *magic;
	uint32_t version;

	if (!take_bytes(r, 4, &magic))
		return fail_short(r, "the header");
	if (memcmp(magic, "GGUF", 4))
		return FAIL(r,
			    "not a GGUF file: it begins with bytes %02x %02x %02x %02x, expected "
			    "\"GGUF\"",
			    magic[0], magic[1], magic[2], magic[3]);
	if (!take_u32(r, &version))
		return fail_short(r, "the header");
	if (version && !(version & 0xffff))
		return FAIL(r,
			    "the file is big-endian (version reads %#x); only little-endian GGUF "
			    "is supported",
			    version);
	if (version != 2 && version != 3)
		return FAIL(r, "GGUF version is %u, supported are 2 and 3", version);
	if (!take_u64(r, &g->n_tensors) || !take_u64(r, &g->n_entries))
		return fail_short(r, "the header");
	if (g->n_entries > ENTRIES_MAX || g->n_entries > left_bytes(r) / ENTRY_BYTES_MIN)
		return FAIL(r,
			    "the header claims %llu metadata entries; at most %u are allowed and "
			    "%llu bytes are left for them",
			    (unsigned long long)g->n_entries, ENTRIES_MAX,
			    (unsigned long long)left_bytes(r));
	if (g->n_tensors > TENSORS_MAX || g->n_tensors > left_bytes(r) / TENSOR_BYTES_MIN)
		return FAIL(r,
			    "the header claims %llu tensors; at most %u are allowed and %llu "
			    "bytes are left for them",
			    (unsigned long long)g->n_tensors, TENSORS_MAX,
			    (unsigned long long)left_bytes(r));
	return 0;
}

static int read_file(struct gguf *g, char *err, size_t errlen)
{
	struct reader r = { .g = g, .err = err, .errlen = errlen };
	int rc = read_header(&r);

	if (!rc)
		rc = read_metadata(&r);
	if (!rc)
		rc = read_alignment(&r);
	if (!rc)
		rc = read_tensors(&r);
	if (rc == -ENOMEM) {
		gguf_error(g, err, errlen, "out of memory for its tables");
		return -ENOMEM;
	}
	return rc;
}

int gguf_open_memory(const void *data, uint64_t size_bytes, const char *label,
		     struct gguf **ret_gguf, char *err, size_t errlen)
{
	struct gguf *g = calloc(1, sizeof *g);
	int rc;

	if (!g || !(g->path = strdup(label))) {
		free(g);
		snprintf(err, errlen, "%s: out of memory", label);
		return -ENOMEM;
	}
	g->base = data;
	g->size_bytes = size_bytes;
	rc = read_file(g, err, errlen);
	if (rc) {
		gguf_close(g);
		return rc;
	}
	*ret_gguf = g;
	return 0;
}

/* Map path; on success the caller owns the mapping. */
static int map_file(const char *path, struct stat *ret_stat, void **ret_base, char *err,
		    size_t errlen)
{
	/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	void *base;
	int rc;

	if (fd < 0 || fstat(fd, ret_stat) < 0) {
		rc = -errno;
		snprintf(err, errlen, "%s: cannot open the model file: %s", path, strerror(-rc));
		goto out;
	}
	rc = -EINVAL;
	if (!S_ISREG(ret_stat->st_mode)) {
		snprintf(err, errlen, "%s: is not a regular file; give the path of a GGUF file",
			 path);
		goto out;
	}
	if (!ret_stat->st_size) {
		snprintf(err, errlen, "%s: is empty; fetch the model again", path);
		goto out;
	}
	base = mmap(NULL, (size_t)ret_stat->st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (base == MAP_FAILED) {
		rc = -errno;
		snprintf(err, errlen, "%s: cannot map %lld bytes: %s", path,
			 (long long)ret_stat->st_size, strerror(-rc));
		goto out;
	}
	*ret_base = base;
	rc = 0;
out:
	if (fd >= 0)
		close(fd);
	return rc;
}

int gguf_open(const char *path, struct gguf **ret_gguf, char *err, size_t errlen)
{
	struct gguf *g;
	struct stat st;
	void *base = NULL;
	int rc = map_file(path, &st, &base, err, errlen);

	if (rc)
		return rc;
	rc = gguf_open_memory(base, (uint64_t)st.st_size, path, &g, err, errlen);
	if (rc) {
		munmap(base, (size_t)st.st_size);
		return rc;
	}
	g->mapped = true;
	g->identity = (struct gguf_identity){
		.device = st.st_dev, .inode = st.st_ino, .size_bytes = (uint64_t)st.st_size,
		.mtime_nsec = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec,
		.ctime_nsec = st.st_ctim.tv_sec * 1000000000ll + st.st_ctim.tv_nsec,
	};
	*ret_gguf = g;
	return 0;
}

void gguf_close(struct gguf *g)
{
	if (!g)
		return;
	if (g->mapped)
		munmap((void *)(uintptr_t)g->base, g->size_bytes);
	free(g->entries);
	free(g->tensors);
	free(g->names);
	free(g->path);
	free(g);
}
