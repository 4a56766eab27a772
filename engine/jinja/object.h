/* object.h - the values that have behaviour: functions, macros, loops, cyclers; and scopes. */
#ifndef ENGINE_JINJA_OBJECT_H
#define ENGINE_JINJA_OBJECT_H

#include "engine/jinja/ast.h"

/* Variables of one block.  A name is found by its interned pointer; inner scopes come first. */
struct scope {
	struct scope *outer;
	struct binding { const char *name; struct value value; } *bindings;
	size_t n, size;
};

/* The arguments of one call. */
struct call {
	struct value *args;
	size_t n;
	struct keyword { struct value name, value; } *keywords;
	size_t n_keywords;
};

typedef struct value (*method_function)(
	struct run *run, struct value self, const struct value *args);
typedef struct value (*variadic_function)(
	struct run *run, struct value self, const struct call *call);

/* One line of a table of built-in things: a filter, a test, a method, a global function. */
struct builtin {
	const char *name;
	method_function function;    /* args[i] is MISSING where the caller gave none */
	const char *parameters; /* their names, "chars count"; the first n_required must be given */
	unsigned n_required;
	variadic_function variadic;  /* instead of function: takes the call as it is */
};

struct function {
	const struct builtin *builtin;
	struct value self;           /* what the method was taken from; MISSING for globals */
};

struct macro {
	const struct node *node;
	struct value name;
	struct scope *scope;         /* where it was defined: its free variables */
	struct names *names;
};

/* The state of a running for.  Items come from source, those that pass the filter; one that was
 * fetched early (for loop.last and the like) waits in ahead. */
struct loop {
	const struct node *node;
	struct scope *scope;         /* around the loop: the filter is evaluated in it */
	struct names *names;
	struct list *source;
	size_t at;                   /* next of source */
	struct list *ahead;          /* fetched, not yet taken; a list with its own cursor */
	size_t ahead_at;
	size_t index0;               /* of the current item */
	size_t depth0;               /* of recursion */
	int64_t length;              /* -1 until somebody asked */
	struct value previous, current;
	struct value changed;        /* arguments of the last loop.changed(), a list; or MISSING */
};

/* cycler and joiner. */
struct counter {
	bool is_joiner;
	struct value separator;      /* of a joiner */
	struct list *items;          /* of a cycler */
	size_t at;
};

void jinja_put_loop_repr(struct run *run, struct buffer *buffer, struct loop *loop);

/* scope.c */
struct scope *jinja_scope_new(struct run *run, struct scope *outer);
void jinja_scope_set(struct run *run, struct scope *scope, struct value name, struct value value);
struct value jinja_scope_get(struct run *run, struct scope *scope, struct value name);

/* expression and statement evaluation */
struct value jinja_eval(
	struct run *run, struct names *names, struct scope *scope, const struct node *node);
struct value jinja_call_value(struct run *run, struct value callable, const struct call *call);
struct value jinja_macro_call(struct run *run, struct macro *macro, const struct call *call);
struct value jinja_eval_filters(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct value text);

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };
enum flow jinja_exec(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct buffer *out);

/* loop.c */
enum flow jinja_exec_for(struct run *run, struct names *names, struct scope *scope,
	const struct node *node, struct buffer *out);
struct value jinja_loop_call(struct run *run, struct loop *loop, const struct call *call);
struct value jinja_loop_attribute(struct run *run, struct value loop, struct value name);
void jinja_assign(
	struct run *run, struct scope *scope, const struct node *target, struct value value);

/* operator.c */
struct value jinja_binary(struct run *run, unsigned op, struct value a, struct value b);
struct value jinja_negate(struct run *run, struct value value);
struct value jinja_item(struct run *run, struct value object, struct value index);
struct value jinja_attribute(struct run *run, struct value object, struct value name);
struct value jinja_slice(struct run *run, struct value object, struct value start,
	struct value stop, struct value step);
struct value jinja_range(struct run *run, int64_t start, int64_t stop, int64_t step);

/* items ordered by keys (as many; may be items itself), stable. */
struct list *jinja_sorted(struct run *run, struct list *items, struct list *keys, bool reverse);

#endif
