/* value.h - what a template computes with.
 *
 * A value is 24 bytes, passed by copy; what it points to lives in the arena and never changes
 * once another value can see it, except namespaces, iterators and loops, as in Jinja. */
#ifndef ENGINE_JINJA_VALUE_H
#define ENGINE_JINJA_VALUE_H

#include <jansson.h>
#include <string.h>

#include "engine/jinja/run.h"

enum kind {
	MISSING,     /* an argument that was not given; templates never see it */
	UNDEFINED,   /* prints "", is false, has no attributes; bytes/n say what was not there */
	NONE,
	BOOL,        /* integer is 0 or 1 */
	INT,
	FLOAT,
	STRING,      /* bytes/n, valid UTF-8, not NUL-terminated */
	LIST,
	TUPLE,       /* in list */
	DICT,
	NAMESPACE,   /* its attributes are in dict */
	RANGE,
	VIEW,        /* dict.keys(), .values(), .items(): of dict, which one in detail */
	ITERATOR,    /* can be walked once, as a Python generator */
	FUNCTION,    /* of builtins.h, or a method bound to a value */
	MACRO,
	LOOP,        /* the "loop" of a for */
	COUNTER,     /* cycler or joiner */
};

enum { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };

struct value {
	uint8_t kind;
	uint8_t detail;
	union {
		int64_t integer;
		double real;
		const char *bytes;
		struct list *list;
		struct dict *dict;
		struct range *range;
		struct iterator *iterator;
		struct function *function;
		struct macro *macro;
		struct loop *loop;
		struct counter *counter;
	};
	size_t n;
};

struct list {
	size_t n, size;
	struct value *items;
};

struct dict_entry {
	struct value key, value;
	uint64_t hash;
};

struct dict {
	size_t n, size;
	struct dict_entry *entries;  /* in order of insertion */
	uint32_t *slots;             /* entry number + 1, 0 = empty; NULL while n is small */
	size_t n_slots;              /* a power of two, at most half full */
};

struct range {
	int64_t start, step;
	size_t n;
};

struct iterator {
	struct list *list;
	size_t at;
	const char *name;            /* Python's name of the type, for repr */
};

/* For "%.*s" in messages: the beginning of a string. */
#define WORDS(value) (int)((value).n < 200 ? (value).n : 200), (value).bytes

/* Constructors. */
static inline struct value value_missing(void) { return (struct value){ .kind = MISSING }; }
static inline struct value value_none(void) { return (struct value){ .kind = NONE }; }
static inline struct value value_bool(bool b)
{
	return (struct value){ .kind = BOOL, .integer = b };
}
static inline struct value value_int(int64_t i)
{
	return (struct value){ .kind = INT, .integer = i };
}
static inline struct value value_float(double d)
{
	return (struct value){ .kind = FLOAT, .real = d };
}
static inline struct value value_string(const char *bytes, size_t n)
{
	return (struct value){ .kind = STRING, .bytes = bytes, .n = n };
}
static inline struct value value_text(const char *s) { return value_string(s, strlen(s)); }
static inline struct value value_buffer(const struct buffer *b)
{
	return value_string(b->bytes ? b->bytes : "", b->n);
}
static inline struct value value_list(struct list *list)
{
	return (struct value){ .kind = LIST, .list = list };
}
static inline struct value value_tuple(struct list *list)
{
	return (struct value){ .kind = TUPLE, .list = list };
}
static inline struct value value_dict(struct dict *dict)
{
	return (struct value){ .kind = DICT, .dict = dict };
}

/* An undefined value; what it says about itself when it is misused. */
struct value jinja_undefined(struct run *run, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* A string built from a format; for messages and names. */
struct value jinja_format(struct run *run, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

struct list *jinja_list_new(struct run *run, size_t size);
void jinja_list_push(struct run *run, struct list *list, struct value value);
struct value jinja_iterator(struct run *run, struct list *list, const char *name);
struct value jinja_pair(struct run *run, struct value first, struct value second);

struct dict *jinja_dict_new(struct run *run);
void jinja_dict_set(struct run *run, struct dict *dict, struct value key, struct value value);
const struct value *jinja_dict_get(struct run *run, const struct dict *dict, struct value key);
const struct value *jinja_dict_get_text(struct run *run, const struct dict *dict, const char *key);

/* From JSON; nesting is bounded by limits.depth. */
struct value jinja_from_json(struct run *run, const json_t *json);

/* "str", "dict object", ...: the names that Python would use in an error. */
const char *jinja_kind_name(struct value value);

/* An undefined value was used where something is needed: fails with its own words. */
void jinja_need_defined(struct run *run, struct value value);

bool jinja_truth(struct run *run, struct value value);
bool jinja_equal(struct run *run, struct value a, struct value b);
bool jinja_same(struct value a, struct value b);                          /* Python's "is" */
int jinja_compare(
	struct run *run, struct value a, struct value b, const char *op); /* <0 0 >0; 2 unordered */
bool jinja_contains(struct run *run, struct value needle, struct value haystack);
uint64_t jinja_hash(struct run *run, struct value value);                 /* fails for unhashable */

bool jinja_has_length(struct value value);
size_t jinja_length(struct run *run, struct value value);

/* Everything that iterating gives; consumes an iterator.  The list may be the value's own:
 * read it only.  Fails if the value is not iterable. */
bool jinja_is_iterable(struct value value);
struct list *jinja_items(struct run *run, struct value value);

static inline bool value_is_number(struct value v)
{
	return v.kind == BOOL || v.kind == INT || v.kind == FLOAT;
}
static inline bool value_is_whole(struct value v) { return v.kind == BOOL || v.kind == INT; }
static inline bool value_is_sequence(struct value v) { return v.kind == LIST || v.kind == TUPLE; }
static inline double value_real(struct value v)
{
	return v.kind == FLOAT ? v.real : (double)v.integer;
}
static inline bool value_text_is(struct value v, const char *s)
{
	return v.kind == STRING && v.n == strlen(s) && memcmp(v.bytes, s, v.n) == 0;
}

/* text.c: str(), repr() and JSON. */
void jinja_put_str(struct run *run, struct buffer *buffer, struct value value);
void jinja_put_repr(struct run *run, struct buffer *buffer, struct value value);
void jinja_put_float(struct run *run, struct buffer *buffer, double real);
struct value jinja_str(struct run *run, struct value value); /* a string as it is, else its str() */

struct json_style {
	struct value indent;          /* a string of each level's indentation; NONE: one line */
	struct value item_separator, key_separator;
	bool ascii, sort;
};
void jinja_put_json(
	struct run *run, struct buffer *buffer, struct value value, const struct json_style *style);

#endif
