/* prompt.c - messages to template to ids, with a fence around what people wrote.
 *
 * The rendered text is tokenised with control tokens recognised, because the template writes them.
 * So that "<|im_start|>" inside a message stays text, each control token's text in a message is
 * replaced by a mark (U+FDD0 number U+FDD1, noncharacters that no text needs) before rendering;
 * afterwards the marks become that text again, tokenised as text.  A mark that a client forges
 * can only become text, too.
 * Runs on the engine's thread; nothing is kept from one request to the next. */
#include "engine/prompt.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "engine/chat.h"
#include "kvd/proto.h"

#define MARK_BEGIN "\xef\xb7\x90"
#define MARK_END "\xef\xb7\x91"
#define MARK_BYTES 3u
#define MARK_MAX (2 * MARK_BYTES + 10u)

static char *token_text(const struct tokenizer *t, int32_t id)
{
	char text[TOKENIZER_PIECE_MAX];
	int n = id < 0 ? 0 : tokenizer_piece(t, id, text, sizeof(text), true);

	return n > 0 ? strndup(text, (size_t)n) : NULL;
}

int prompt_init(struct prompt_maker *p, const struct tokenizer *t)
{
	uint32_t n = 0;

	*p = (struct prompt_maker){ .tokenizer = t };
	if (!tokenizer_chat_template(t, &p->template_text, &p->template_bytes))
		p->template_text = NULL;
	p->bos = token_text(t, tokenizer_bos(t));
	p->eos = token_text(t, tokenizer_eos(t));
	for (uint32_t id = 0; id < tokenizer_n_vocab(t); id++)
		n += tokenizer_is_control(t, (int32_t)id);
	p->controls = calloc(n ? n : 1, sizeof(*p->controls));
	if (!p->controls)
		return -ENOMEM;
	for (uint32_t id = 0; id < tokenizer_n_vocab(t); id++) {
		char *text =
			tokenizer_is_control(t, (int32_t)id) ? token_text(t, (int32_t)id) : NULL;
		if (text)
			p->controls[p->n_controls++] = text;
	}
	return 0;
}

void prompt_deinit(struct prompt_maker *p)
{
	for (uint32_t i = 0; i < p->n_controls; i++)
		free(p->controls[i]);
	free(p->controls);
	free(p->bos);
	free(p->eos);
	*p = (struct prompt_maker){ 0 };
}

/* The longest control text that stands at this place; n_controls if none does. */
static uint32_t control_at(const struct prompt_maker *p, const char *at, size_t left)
{
	uint32_t found = p->n_controls;
	size_t longest = 0;

	for (uint32_t i = 0; i < p->n_controls; i++) {
		size_t n = strlen(p->controls[i]);
		if (n > longest && n <= left && memcmp(at, p->controls[i], n) == 0) {
			found = i;
			longest = n;
		}
	}
	return found;
}

/* Could a control text begin with this byte?  Most bytes of a text cannot. */
static void first_bytes(const struct prompt_maker *p, bool ret_first[256])
{
	memset(ret_first, 0, 256);
	for (uint32_t i = 0; i < p->n_controls; i++)
		ret_first[(uint8_t)p->controls[i][0]] = true;
}

/* text with every control text replaced by its mark; NULL on lack of memory. */
static char *mark_text(const struct prompt_maker *p, const char *text, size_t n, size_t *ret_n)
{
	size_t n_found = 0, out = 0;
	bool first[256];
	char *marked;

	first_bytes(p, first);
	for (size_t i = 0; i < n; i++)
		n_found +=
			first[(uint8_t)text[i]] && control_at(p, text + i, n - i) < p->n_controls;
	marked = malloc(n + n_found * MARK_MAX + 1);
	if (!marked)
		return NULL;
	for (size_t i = 0; i < n;) {
		uint32_t control =
			first[(uint8_t)text[i]] ? control_at(p, text + i, n - i) : p->n_controls;
		if (control == p->n_controls) {
			marked[out++] = text[i++];
			continue;
		}
		out += (size_t)snprintf(marked + out, MARK_MAX + 1, MARK_BEGIN "%u" MARK_END, control);
		i += strlen(p->controls[control]);
	}
	marked[out] = 0;
	*ret_n = out;
	return marked;
}

/* A copy of a JSON value with all strings and keys marked; NULL on lack of memory. */
static json_t *mark_value(const struct prompt_maker *p, json_t *value)
{
	json_t *copy, *child, *marked;
	const char *key;
	size_t index, n;
	char *text;

	switch (json_typeof(value)) {
	case JSON_STRING:
		text = mark_text(p, json_string_value(value), json_string_length(value), &n);
		copy = text ? json_stringn_nocheck(text, n) : NULL;
		free(text);
		return copy;
	case JSON_ARRAY:
		copy = json_array();
		json_array_foreach(value, index, child) {
			marked = mark_value(p, child);
			if (!marked || json_array_append_new(copy, marked) != 0)
				goto fail;
		}
		return copy;
	case JSON_OBJECT:
		copy = json_object();
		json_object_foreach(value, key, child) {
			text = mark_text(p, key, strlen(key), &n);
			marked = text ? mark_value(p, child) : NULL;
			if (!marked || json_object_set_new_nocheck(copy, text, marked) != 0) {
				free(text);
				goto fail;
			}
			free(text);
		}
		return copy;
	default:
		return json_incref(value);
	}
fail:
	json_decref(copy);
	return NULL;
}

/* The messages as marked JSON text; malloc'ed. */
static int read_messages(const struct prompt_maker *p, const char *text, size_t n_text,
			 char **ret_json, char *err, size_t errlen)
{
	json_error_t error;
	json_t *messages = json_loadb(text, n_text, JSON_REJECT_DUPLICATES, &error), *marked;

	if (!messages) {
		snprintf(err, errlen, "messages: not valid JSON at line %d column %d: %.120s",
			 error.line, error.column, error.text);
		return KVD_S_BAD_REQUEST;
	}
	if (!json_is_array(messages) || json_array_size(messages) < 1) {
		json_decref(messages);
		snprintf(err, errlen, "messages: a JSON array with at least one message is needed");
		return KVD_S_BAD_REQUEST;
	}
	marked = mark_value(p, messages);
	*ret_json = marked ? json_dumps(marked, JSON_COMPACT) : NULL;
	json_decref(marked);
	json_decref(messages);
	if (*ret_json)
		return 0;
	snprintf(err, errlen, "messages: the engine has no memory for them");
	return KVD_S_LIMIT;
}

/* A well-formed mark at this place?  Its bytes, or 0. */
static size_t mark_at(const struct prompt_maker *p, const char *at, size_t left,
		      uint32_t *ret_control)
{
	size_t i = MARK_BYTES;
	uint64_t number = 0;

	if (left < MARK_BYTES || memcmp(at, MARK_BEGIN, MARK_BYTES) != 0)
		return 0;
	for (; i < left && i < MARK_BYTES + 10 && at[i] >= '0' && at[i] <= '9'; i++)
		number = number * 10 + (uint64_t)(at[i] - '0');
	if (i == MARK_BYTES || left - i < MARK_BYTES || memcmp(at + i, MARK_END, MARK_BYTES) != 0 ||
	    number >= p->n_controls)
		return 0;
	*ret_control = (uint32_t)number;
	return i + MARK_BYTES;
}

struct ids {
	int32_t *ids;
	size_t n, max;
};

static int append(const struct prompt_maker *p, const char *text, size_t n_text, unsigned flags,
		  struct ids *out)
{
	size_t used = out->n < out->max ? out->n : out->max, n = 0;
	int r;

	if (!n_text && !(flags & TOKENIZER_ADD_BOS))
		return 0;
	r = tokenizer_encode(p->tokenizer, text, n_text, flags, out->ids + used, out->max - used,
			     &n);
	out->n += n;
	return r == -ENOBUFS ? 0 : r;
}

/* Tokenise with control tokens recognised; marked: marks turn back into plain text. */
static int encode_text(const struct prompt_maker *p, const char *text, size_t n, bool marked,
		       struct ids *out)
{
	unsigned flags = TOKENIZER_PARSE_SPECIAL;
	size_t begin = 0, length;
	uint32_t control;
	int r = 0;

	/* templates write BOS themselves; a prompt has one */
	if (tokenizer_adds_bos(p->tokenizer) && !(p->bos && n >= strlen(p->bos) &&
						  memcmp(text, p->bos, strlen(p->bos)) == 0))
		flags |= TOKENIZER_ADD_BOS;
	for (size_t i = 0; i < n && r == 0; i++) {
		length = marked && text[i] == MARK_BEGIN[0] ? mark_at(p, text + i, n - i, &control)
							    : 0;
		if (!length)
			continue;
		r = append(p, text + begin, i - begin, flags, out);
		if (r == 0)
			r = append(p, p->controls[control], strlen(p->controls[control]), 0, out);
		flags &= ~(unsigned)TOKENIZER_ADD_BOS;
		begin = i + length;
		i = begin - 1;
	}
	return r == 0 ? append(p, text + begin, n - begin, flags, out) : r;
}

static int render(const struct prompt_maker *p, const char *text, size_t n_text, char **ret_text,
		  size_t *ret_n, char *err, size_t errlen)
{
	struct chat_options options = { .add_generation_prompt = true, .bos_token = p->bos,
					.eos_token = p->eos, .now = time(NULL) };
	char *messages, sentence[200] = "";
	int r;

	if (!p->template_text) {
		snprintf(err, errlen,
			 "messages: the model has no chat template; send the prompt itself (kvrun "
			 "--raw)");
		return KVD_S_BAD_REQUEST;
	}
	r = read_messages(p, text, n_text, &messages, err, errlen);
	if (r != 0)
		return r;
	r = chat_render(p->template_text, p->template_bytes, messages, &options, ret_text, ret_n,
			sentence, sizeof(sentence));
	free(messages);
	if (r == 0)
		return 0;
	snprintf(err, errlen, "messages: %s", sentence);
	return r == -ENOMEM ? KVD_S_LIMIT : KVD_S_BAD_REQUEST;
}

int prompt_encode(const struct prompt_maker *p, const char *text, size_t n_text, bool raw,
		  int32_t *ids, size_t max, size_t *ret_n, char *err, size_t errlen)
{
	struct ids out = { ids, 0, max };
	char *rendered = NULL;
	int r = 0;

	if (!raw) {
		r = render(p, text, n_text, &rendered, &n_text, err, errlen);
		if (r != 0)
			return r;
		text = rendered;
	}
	r = encode_text(p, n_text ? text : "", n_text, !raw, &out);
	free(rendered);
	*ret_n = out.n;
	if (r == 0)
		return 0;
	snprintf(err, errlen, "the prompt cannot be tokenised: %s", strerror(-r));
	return KVD_S_LIMIT;
}
