/* tokenizer_split.c - cut a text into the words that byte-level BPE never joins.
 *
 * Owns struct splitter: for one pre-tokenizer, a short list of regular expressions.  The first cuts
 * the text into its matches and what lies between them; each following one cuts those pieces again,
 * seeing only the piece, as the models' own tokenizers do in training.
 *
 * \s is spelled out as Unicode's White_Space: PCRE2's own \s counts U+180E too, which the
 * tokenizers that the models were trained with don't.  The text is well-formed UTF-8 by contract,
 * so that PCRE2's own check, which would read the whole text again for each word, is off.  Matching
 * is linear: no expression below can give back more than one run of white space per word. */
#include "engine/tokenizer_parts.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <errno.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STAGES_MAX 4u
#define SPACES "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}" \
	"\\x{202f}\\x{205f}\\x{3000}"
#define SPACE "[" SPACES "]"
#define NO_SPACE_AHEAD "(?![^" SPACES "])"     /* \s+(?!\S): leaves the last one to the word */
#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"

#define GPT2 CONTRACTIONS "| ?\\p{L}+| ?\\p{N}+| ?[^" SPACES "\\p{L}\\p{N}]+|" \
	SPACE "+" NO_SPACE_AHEAD "|" SPACE "+"
#define LLAMA3(digits) \
	"(?i:" CONTRACTIONS ")|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" SPACES \
	"\\p{L}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACE "+" NO_SPACE_AHEAD "|" SPACE "+"

static const struct kind {
	const char *names[4];          /* of tokenizer.ggml.pre */
	const char *stages[STAGES_MAX];
	bool ignores_merges, normalizes, adds_bos;
} kinds[] = {
	{ .names = { "default" },
	  .stages = { "[\\p{P}$+<=>^~|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]" } },
	{ .names = { "gpt-2", "phi-2" }, .stages = { GPT2 } },
	{ .names = { "smollm" }, .stages = { "\\p{N}", GPT2 } },
	{ .names = { "llama-bpe", "llama3", "llama-v3" },
	  .stages = { LLAMA3("\\p{N}{1,3}") },
	  .ignores_merges = true,
	  .adds_bos = true },
	{ .names = { "qwen2", "deepseek-r1-qwen" },
	  .stages = { LLAMA3("\\p{N}") },
	  .normalizes = true },
};

struct splitter {
	pcre2_code *stages[STAGES_MAX];
	unsigned n_stages;
	bool has_jit;
	pcre2_match_context *limits;
};

struct walk {
	const struct splitter *s;
	pcre2_match_data *match;
	word_visitor visit;
	void *context;
};

#define N_ITEMS(array) (sizeof(array) / sizeof((array)[0]))

static const struct kind *find_kind(struct gguf_string pre)
{
	for (unsigned k = 0; k < N_ITEMS(kinds); k++)
		for (unsigned n = 0; n < N_ITEMS(kinds[k].names) && kinds[k].names[n]; n++)
			if (gguf_string_is(pre, kinds[k].names[n]))
				return &kinds[k];
	return NULL;
}

static int refuse(struct tokenizer *t, struct gguf_string pre, char *err, size_t errlen)
{
	char quoted[GGUF_QUOTE_BYTES], known[256];
	int at = 0;

	for (unsigned k = 0; k < N_ITEMS(kinds); k++)
		for (unsigned n = 0; n < N_ITEMS(kinds[k].names) && kinds[k].names[n]; n++)
			at += snprintf(known + at, sizeof known - (size_t)at, "%s%s",
				       at ? ", " : "", kinds[k].names[n]);
	return gguf_error(t->file, err, errlen,
			  "tokenizer.ggml.pre is %s; the pre-tokenizers supported are: %s",
			  gguf_quote(pre, quoted), known);
}

int splitter_new(struct tokenizer *t, struct gguf_string pre, char *err, size_t errlen)
{
	const struct kind *kind = find_kind(pre);
	struct splitter *s;
	int code;
	PCRE2_SIZE offset;

	if (!kind)
		return refuse(t, pre, err, errlen);
	t->splitter = s = calloc(1, sizeof *s);
	if (!s || !(s->limits = pcre2_match_context_create(NULL)))
		return -ENOMEM;
	/* A long run of white space costs one step per character; that is no reason to give up. */
	pcre2_set_match_limit(s->limits, UINT32_MAX);
	s->has_jit = true;
	for (; s->n_stages < STAGES_MAX && kind->stages[s->n_stages]; s->n_stages++) {
		pcre2_code *stage =
			pcre2_compile((PCRE2_SPTR)kind->stages[s->n_stages], PCRE2_ZERO_TERMINATED,
				      PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
		if (!stage)
			return gguf_error(t->file, err, errlen,
					  "the installed PCRE2 cannot compile the expressions of "
					  "tokenizer.ggml.pre (error %d at %zu); it needs Unicode "
					  "support",
					  code, (size_t)offset);
		s->stages[s->n_stages] = stage;
		/* JIT writes code and then runs it, which hardened services forbid. */
		if (pcre2_jit_compile(stage, PCRE2_JIT_COMPLETE))
			s->has_jit = false;
	}
	t->ignores_merges = kind->ignores_merges;
	t->normalizes = kind->normalizes;
	t->adds_bos = kind->adds_bos;
	return 0;
}

void splitter_free(struct splitter *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < s->n_stages; i++)
		pcre2_code_free(s->stages[i]);
	pcre2_match_context_free(s->limits);
	free(s);
}

/* The next match at or after offset.  Returns 1 and its bounds, 0 if there is none, or -errno. */
static int find(const struct walk *w, unsigned stage, const char *text, size_t len, size_t offset,
		size_t *ret_start, size_t *ret_end)
{
	const struct splitter *s = w->s;
	int rc = PCRE2_ERROR_JIT_STACKLIMIT;

	if (s->has_jit)
		rc = pcre2_jit_match(s->stages[stage], (PCRE2_SPTR)text, len, offset, 0, w->match,
				     s->limits);
	/* JIT has limits of its own (stack); the interpreter works without. */
	if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
		rc = pcre2_match(s->stages[stage], (PCRE2_SPTR)text, len, offset,
				 PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, s->limits);
	if (rc == PCRE2_ERROR_NOMATCH)
		return 0;
	if (rc < 0)
		return rc == PCRE2_ERROR_NOMEMORY || rc == PCRE2_ERROR_HEAPLIMIT ? -ENOMEM : -EIO;
	*ret_start = pcre2_get_ovector_pointer(w->match)[0];
	*ret_end = pcre2_get_ovector_pointer(w->match)[1];
	return 1;
}

/* Recursion is as deep as there are stages: STAGES_MAX. */
static int cut(const struct walk *w, unsigned stage, const char *text, size_t len)
{
	size_t done = 0, start, end;
	int rc;

	if (!len)
		return 0;
	if (stage == w->s->n_stages)
		return w->visit(w->context, text, len);
	while (done < len) {
		rc = find(w, stage, text, len, done, &start, &end);
		if (rc < 0)
			return rc;
		/* An empty match can't advance; no expression above has one. */
		if (!rc || end <= start)
			start = end = len;
		rc = cut(w, stage + 1, text + done, start - done);
		if (!rc)
			rc = cut(w, stage + 1, text + start, end - start);
		if (rc)
			return rc;
		done = end;
	}
	return 0;
}

int splitter_walk(const struct splitter *s, const char *text, size_t len, word_visitor visit,
		  void *context)
{
	struct walk w = { .s = s, .visit = visit, .context = context };
	int rc;

	w.match = pcre2_match_data_create(1, NULL);
	if (!w.match)
		return -ENOMEM;
	rc = cut(&w, 0, text, len);
	pcre2_match_data_free(w.match);
	return rc;
}
