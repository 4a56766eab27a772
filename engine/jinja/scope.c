/* scope.c - variables: scopes nest, inner ones come first.
 *
 * A scope is searched from its newest binding; blocks of templates bind a handful of names.
 * What no scope knows is looked for in the caller's context, then among the global functions. */
#include "engine/jinja/builtins.h"
#include "engine/jinja/object.h"

struct scope *jinja_scope_new(struct run *run, struct scope *outer)
{
	struct scope *scope = jinja_alloc(run, sizeof(*scope));

	*scope = (struct scope){ .outer = outer };
	return scope;
}

void jinja_scope_set(struct run *run, struct scope *scope, struct value name, struct value value)
{
	for (size_t i = scope->n; i-- > 0; ) {
		if (scope->bindings[i].name == name.bytes) {
			scope->bindings[i].value = value;
			return;
		}
	}
	jinja_step(run, scope->n / 8);
	if (scope->n == scope->size) {
		size_t size = scope->size ? scope->size * 2 : 2;
		scope->bindings = jinja_realloc(run, scope->bindings,
			scope->size * sizeof(scope->bindings[0]),
			size * sizeof(scope->bindings[0]));
		scope->size = size;
	}
	scope->bindings[scope->n++] = (struct binding){ .name = name.bytes, .value = value };
}

struct value jinja_scope_get(struct run *run, struct scope *scope, struct value name)
{
	const struct value *given;
	const struct builtin *builtin;

	for (; scope; scope = scope->outer) {
		for (size_t i = scope->n; i-- > 0; )
			if (scope->bindings[i].name == name.bytes)
				return scope->bindings[i].value;
		jinja_step(run, 1 + scope->n / 8);
	}
	given = jinja_dict_get(run, run->context, name);
	if (given)
		return *given;
	builtin = jinja_global_find(name);
	if (builtin)
		return jinja_function(run, builtin, value_missing());
	return jinja_undefined(
		run, "'%.*s' is undefined", WORDS(name));
}
