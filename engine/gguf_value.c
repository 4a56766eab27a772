/* gguf_value.c - typed access to an open GGUF file, and the table of tensor element types.
 *
 * Owns nothing; reads what gguf.c has checked.  Everything here is a pure function of the file and
 * may run on any thread.  Never converts silently: a value of another type is an error that names
 * the key, what it is and what was expected. */
#include "engine/gguf_file.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	uint32_t bytes;
} value_types[] = {
	[GGUF_U8] = { "u8", 1 }, [GGUF_I8] = { "i8", 1 }, [GGUF_U16] = { "u16", 2 },
	[GGUF_I16] = { "i16", 2 }, [GGUF_U32] = { "u32", 4 }, [GGUF_I32] = { "i32", 4 },
	[GGUF_F32] = { "f32", 4 }, [GGUF_BOOL] = { "bool", 1 }, [GGUF_STRING] = { "string", 0 },
	[GGUF_ARRAY] = { "array", 0 }, [GGUF_U64] = { "u64", 8 }, [GGUF_I64] = { "i64", 8 },
	[GGUF_F64] = { "f64", 8 },
};

/* Element types of GGUF files written so far.  Numbers missing here were withdrawn by the format's
 * authors or never reach a file. */
static const struct gguf_element elements[] = {
	[0] = { "F32", 1, 4 },         [1] = { "F16", 1, 2 },         [2] = { "Q4_0", 32, 18 },
	[3] = { "Q4_1", 32, 20 },      [6] = { "Q5_0", 32, 22 },      [7] = { "Q5_1", 32, 24 },
	[8] = { "Q8_0", 32, 34 },      [10] = { "Q2_K", 256, 84 },    [11] = { "Q3_K", 256, 110 },
	[12] = { "Q4_K", 256, 144 },   [13] = { "Q5_K", 256, 176 },   [14] = { "Q6_K", 256, 210 },
	[16] = { "IQ2_XXS", 256, 66 }, [17] = { "IQ2_XS", 256, 74 },  [18] = { "IQ3_XXS", 256, 98 },
	[19] = { "IQ1_S", 256, 50 },   [20] = { "IQ4_NL", 32, 18 },   [21] = { "IQ3_S", 256, 110 },
	[22] = { "IQ2_S", 256, 82 },   [23] = { "IQ4_XS", 256, 136 }, [24] = { "I8", 1, 1 },
	[25] = { "I16", 1, 2 },        [26] = { "I32", 1, 4 },        [27] = { "I64", 1, 8 },
	[28] = { "F64", 1, 8 },        [29] = { "IQ1_M", 256, 56 },   [30] = { "BF16", 1, 2 },
	[34] = { "TQ1_0", 256, 54 },   [35] = { "TQ2_0", 256, 66 },   [39] = { "MXFP4", 32, 17 },
	[40] = { "NVFP4", 64, 36 },    [41] = { "Q1_0", 128, 18 },
};

#define N_ITEMS(array) (sizeof(array) / sizeof((array)[0]))

uint32_t gguf_type_bytes(uint32_t type)
{
	return type < N_ITEMS(value_types) ? value_types[type].bytes : 0;
}

const char *gguf_type_name(uint32_t type)
{
	return type < N_ITEMS(value_types) ? value_types[type].name : "unknown type";
}

const struct gguf_element *gguf_element(uint32_t type)
{
	return type < N_ITEMS(elements) && elements[type].name ? &elements[type] : NULL;
}

int gguf_error(const struct gguf *g, char *err, size_t errlen, const char *format, ...)
{
	va_list ap;
	int n;

	if (!errlen)
		return -EINVAL;
	n = snprintf(err, errlen, "%s: ", g->path);
	if (n >= 0 && (size_t)n < errlen) {
		va_start(ap, format);
		vsnprintf(err + n, errlen - (size_t)n, format, ap);
		va_end(ap);
	}
	return -EINVAL;
}

const char *gguf_quote(struct gguf_string s, char buffer[GGUF_QUOTE_BYTES])
{
	uint64_t n = s.len < 40 ? s.len : 40;
	size_t at = 0;

	buffer[at++] = '"';
	for (uint64_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s.text[i];
		buffer[at++] = c < 0x20 || c >= 0x7f ? '?' : (char)c;
	}
	strcpy(buffer + at, s.len > n ? "...\"" : "\"");
	return buffer;
}

bool gguf_string_is(struct gguf_string s, const char *text)
{
	return s.len == strlen(text) && !memcmp(s.text, text, s.len);
}

static int compare_key(const struct gguf_entry *entry, const char *key, size_t key_len)
{
	uint64_t n = entry->key.len < key_len ? entry->key.len : key_len;
	int order = memcmp(entry->key.text, key, n);

	if (order)
		return order;
	return entry->key.len < key_len ? -1 : entry->key.len > key_len;
}

static const struct gguf_entry *find_entry(const struct gguf *g, const char *key)
{
	size_t key_len = strlen(key);
	uint64_t low = 0, high = g->n_entries;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		int order = compare_key(&g->entries[middle], key, key_len);

		if (!order)
			return &g->entries[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

bool gguf_has(const struct gguf *g, const char *key)
{
	return find_entry(g, key) != NULL;
}

/* The entry's integer; returns false if it is of no integer type or negative. */
static bool read_unsigned(const struct gguf_entry *e, uint64_t *ret_value)
{
	uint64_t raw = 0;
	unsigned bits = (unsigned)e->bytes * 8;

	switch (e->type) {
	case GGUF_U8: case GGUF_U16: case GGUF_U32: case GGUF_U64:
		memcpy(&raw, e->value, e->bytes);
		break;
	case GGUF_I8: case GGUF_I16: case GGUF_I32: case GGUF_I64:
		memcpy(&raw, e->value, e->bytes);
		if (raw >> (bits - 1))
			return false;
		break;
	default:
		return false;
	}
	*ret_value = raw;
	return true;
}

int gguf_get_u32(const struct gguf *g, const char *key, uint32_t *ret_value, char *err,
		 size_t errlen)
{
	const struct gguf_entry *e = find_entry(g, key);
	uint64_t value;

	if (!e)
		return GGUF_E_ABSENT;
	if (!read_unsigned(e, &value))
		return gguf_error(g, err, errlen,
				  "%s is %s, expected a whole number from 0 to 2^32-1", key,
				  e->type == GGUF_I32 || e->type == GGUF_I64 ||
						  e->type == GGUF_I16 || e->type == GGUF_I8
					  ? "negative"
					  : gguf_type_name(e->type));
	if (value > UINT32_MAX)
		return gguf_error(g, err, errlen, "%s is %llu, expected at most 4294967295", key,
				  (unsigned long long)value);
	*ret_value = (uint32_t)value;
	return 0;
}

int gguf_get_f32(const struct gguf *g, const char *key, float *ret_value, char *err, size_t errlen)
{
	const struct gguf_entry *e = find_entry(g, key);
	double wide;
	float value;

	if (!e)
		return GGUF_E_ABSENT;
	if (e->type == GGUF_F32) {
		memcpy(&value, e->value, sizeof value);
	} else if (e->type == GGUF_F64) {
		memcpy(&wide, e->value, sizeof wide);
		/* out of float's range a conversion is undefined, so decide before */
		value = fabs(wide) <= 3.4e38 ? (float)wide : INFINITY;
	} else {
		return gguf_error(g, err, errlen, "%s is %s, expected f32", key,
				  gguf_type_name(e->type));
	}
	if (!isfinite(value))
		return gguf_error(g, err, errlen, "%s is not a finite number", key);
	*ret_value = value;
	return 0;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *ret_value, char *err, size_t errlen)
{
	const struct gguf_entry *e = find_entry(g, key);

	if (!e)
		return GGUF_E_ABSENT;
	if (e->type != GGUF_BOOL)
		return gguf_error(g, err, errlen, "%s is %s, expected bool", key,
				  gguf_type_name(e->type));
	*ret_value = *e->value != 0;
	return 0;
}

int gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *ret_value,
		    char *err, size_t errlen)
{
	const struct gguf_entry *e = find_entry(g, key);

	if (!e)
		return GGUF_E_ABSENT;
	if (e->type != GGUF_STRING)
		return gguf_error(g, err, errlen, "%s is %s, expected string", key,
				  gguf_type_name(e->type));
	*ret_value = (struct gguf_string){ (const char *)e->value, e->bytes };
	return 0;
}

int gguf_get_array(const struct gguf *g, const char *key, enum gguf_type type,
		   struct gguf_array *ret_value, char *err, size_t errlen)
{
	const struct gguf_entry *e = find_entry(g, key);

	if (!e)
		return GGUF_E_ABSENT;
	if (e->type != GGUF_ARRAY)
		return gguf_error(g, err, errlen, "%s is %s, expected array of %s", key,
				  gguf_type_name(e->type), gguf_type_name(type));
	if (e->element != type)
		return gguf_error(g, err, errlen, "%s is array of %s, expected array of %s", key,
				  gguf_type_name(e->element), gguf_type_name(type));
	*ret_value = (struct gguf_array){ e->value, e->bytes, e->n, e->element };
	return 0;
}

bool gguf_next_string(struct gguf_array *array, struct gguf_string *ret_string)
{
	uint64_t len;

	if (!array->n)
		return false;
	memcpy(&len, array->data, sizeof len);
	*ret_string = (struct gguf_string){ (const char *)array->data + sizeof len, len };
	array->data += sizeof len + len;
	array->bytes -= sizeof len + len;
	array->n--;
	return true;
}

uint64_t gguf_n_tensors(const struct gguf *g)
{
	return g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint64_t index)
{
	return index < g->n_tensors ? &g->tensors[index] : NULL;
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name)
{
	uint64_t low = 0, high = g->n_tensors;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		int order = strcmp(g->tensors[middle].name, name);

		if (!order)
			return &g->tensors[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

const char *gguf_path(const struct gguf *g)
{
	return g->path;
}

const struct gguf_identity *gguf_identity(const struct gguf *g)
{
	return &g->identity;
}
