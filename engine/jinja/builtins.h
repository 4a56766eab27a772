/* builtins.h - the tables of filters, tests, methods and globals, and their common tools. */
#ifndef ENGINE_JINJA_BUILTINS_H
#define ENGINE_JINJA_BUILTINS_H

#include "engine/jinja/object.h"

#define BUILTIN_ARGS_MAX 8

/* NULL if there is no such thing. */
const struct builtin *jinja_filter_find(struct value name);
const struct builtin *jinja_test_find(struct value name);
const struct builtin *jinja_global_find(struct value name);
const struct builtin *jinja_method_find(struct value object, struct value name);

/* The table of one file; the last line has no name. */
extern const struct builtin jinja_filters_text[], jinja_filters_list[], jinja_filters_select[];
extern const struct builtin jinja_methods_string[], jinja_methods_find[], jinja_methods_dict[],
	jinja_methods_list[], jinja_methods_mutable[], jinja_methods_counter[],
	jinja_methods_loop[];

/* Match a call's arguments to the builtin's parameters and call it. */
struct value jinja_builtin_call(struct run *run, const struct builtin *builtin, struct value self,
	const struct call *call);

/* A bound method or a global as a value. */
struct value jinja_function(struct run *run, const struct builtin *builtin, struct value self);

/* Reading arguments; what names the thing in messages. */
int64_t jinja_arg_int(struct run *run, struct value arg, int64_t fallback, const char *what);
bool jinja_arg_bool(struct run *run, struct value arg, bool fallback);
struct value jinja_arg_string(struct run *run, struct value arg, const char *what);

/* Filters and tests by a name that the template gives at run time: map("upper"). */
struct value jinja_filter_by_name(
	struct run *run, struct value name, struct value value, const struct call *call);
bool jinja_test_by_name(
	struct run *run, struct value name, struct value value, const struct call *call);

/* "a.b.0" of a value, for attribute= parameters; an integer is an index.  A fallback other than
 * MISSING or NONE takes the place of every undefined value on the way. */
struct value jinja_path(
	struct run *run, struct value object, struct value path, struct value fallback);

/* text operations that several builtins share (string.c) */
struct value jinja_strip(
	struct run *run, struct value text, struct value chars, bool left, bool right);
struct value jinja_replace(
	struct run *run, struct value text, struct value old, struct value new, int64_t count);
enum text_case { CASE_UPPER, CASE_LOWER, CASE_CAPITAL, CASE_TITLE, CASE_SWAP };
struct value jinja_change_case(struct run *run, struct value text, enum text_case to);
enum text_align { ALIGN_LEFT, ALIGN_RIGHT, ALIGN_CENTER };
struct value jinja_pad(
	struct run *run, struct value text, int64_t width, uint32_t fill, enum text_align align);
struct list *jinja_split_lines(struct run *run, struct value text, bool keep_ends);
bool jinja_is_case(struct run *run, struct value text, bool upper);

/* format.c: "%s" % x and "{}".format(x) */
struct value jinja_percent(struct run *run, struct value format, struct value args);
struct value jinja_brace_format(struct run *run, struct value format, const struct call *call);

/* number.c */
struct value jinja_to_int(struct run *run, struct value value, struct value fallback, int64_t base);
struct value jinja_to_float(struct run *run, struct value value, struct value fallback);
struct value jinja_round(struct run *run, struct value value, int64_t digits, struct value method);

#endif
