/* chat.h - from a conversation to the text that a model was trained on.
 *
 * The model file brings a template, the client brings messages in the OpenAI form; neither is
 * trusted.  The variables that a template finds are those that Hugging Face's
 * apply_chat_template() gives it, so that public templates work as their authors tested them. */
#ifndef ENGINE_CHAT_H
#define ENGINE_CHAT_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

struct chat_options {
	bool add_generation_prompt; /* end with the words that make the model answer */
	const char *bos_token;      /* UTF-8; NULL: the template finds none */
	const char *eos_token;
	const char *tools_json;     /* a JSON array of tools, or NULL */
	const char *extra_json; /* a JSON object of more variables (enable_thinking); NULL: none;
	                             * they win over those above */
	time_t now;                 /* what strftime_now() tells */
};

/* Render messages_json, a JSON array of objects, with a template of template_len bytes.
 *
 * ret_text     malloc'ed, NUL-terminated, the caller frees it; untouched on failure
 * err          one sentence on failure
 * Returns      0; -EINVAL: template or input is not usable; -EBADMSG: the template itself refused
 *              these messages; -EOVERFLOW: a limit of engine/jinja/jinja.h was reached; -ENOMEM.
 * Thread       any */
int chat_render(const char *template, size_t template_len, const char *messages_json,
	const struct chat_options *options, char **ret_text, size_t *ret_len, char *err,
	size_t errlen);

#endif
