/* ast.h - the syntax tree: one kind of node with up to five children.
 *
 * Lists of nodes hang together by next.  Names are interned: equal names have equal pointers. */
#ifndef ENGINE_JINJA_AST_H
#define ENGINE_JINJA_AST_H

#include "engine/jinja/value.h"

enum node_type {
	/* expressions; children in the order a, b, c */
	NODE_CONST, /* value */
	NODE_NAME, /* value: the name */
	NODE_NSREF, /* value: the namespace's name; a: CONST, the attribute.  A target only. */
	NODE_TUPLE,
	NODE_LIST, /* a: items */
	NODE_DICT, /* a: key, value, key, value, ... */
	NODE_ATTRIBUTE, /* a, value: the attribute */
	NODE_ITEM, /* a[b] */
	NODE_SLICE, /* [a:b:c], each may be NULL; as b of an ITEM only */
	NODE_CALL, /* a: what; b: ARGUMENTs */
	NODE_FILTER, /* a: what (NULL: the text of a block); value: name; b: ARGUMENTs */
	NODE_TEST, /* the same */
	NODE_ARGUMENT, /* a; value: keyword or MISSING; op: '*' for *a, 's' for **a */
	NODE_NOT,
	NODE_NEGATE,
	NODE_PLUS, /* a */
	NODE_AND,
	NODE_OR, /* a, b */
	NODE_BINARY, /* a, b; op: token type */
	NODE_CONCAT, /* a: operands */
	NODE_COMPARE, /* a: first; b: COMPARANDs */
	NODE_COMPARAND, /* a; op: token type, or 'i' for in, 'n' for not in */
	NODE_CONDITION, /* a if b else c (NULL) */
	/* statements */
	NODE_TEXT, /* value */
	NODE_OUTPUT, /* a */
	NODE_IF, /* a: test; body; other: else, an IF for elif */
	NODE_FOR, /* a: target; b: of what; c: filter or NULL; body; other: else; flag: recursive */
	NODE_SET, /* a: target; b */
	NODE_SET_BLOCK, /* a: target; b: filters or NULL; body */
	NODE_WITH, /* a: targets; b: values, as many; body */
	NODE_MACRO, /* value: name; a: PARAMETERs; body; flag: MACRO_ bits */
	NODE_PARAMETER, /* value: name; a: default or NULL */
	NODE_CALL_BLOCK, /* a: the CALL; b: a MACRO named caller */
	NODE_FILTER_BLOCK, /* b: filters; body */
	NODE_SCOPE, /* body, in a scope of its own: {% generation %} */
	NODE_BREAK,
	NODE_CONTINUE,
};

/* which of the special names a macro's body mentions, and so which surplus arguments it takes */
enum { MACRO_CALLER = 1, MACRO_VARARGS = 2, MACRO_KWARGS = 4 };

struct filter;
struct test;

struct node {
	uint8_t type, op, flag;
	uint32_t line, column;
	struct node *next;
	struct node *a, *b, *c, *body, *other;
	struct value value;
	const void *builtin;     /* FILTER: struct filter; TEST: struct test; NULL: no such */
};

/* Names that the language itself binds. */
struct names {
	struct dict *all;
	struct value loop, caller, varargs, kwargs;
};

struct value jinja_intern(struct run *run, struct names *names, struct value name);

/* Source to tree; fails with position on bad syntax. */
struct node *jinja_parse(struct run *run, struct names *names, const char *source, size_t n);

#endif
