/* fuzz_tokenizer.c - any bytes as text, for each pre-tokenizer and for SentencePiece.
 *
 * The first byte chooses tokenizer and flags, the rest is the text.  Encoding must succeed, stay
 * within the promised number of ids, and give the text back (U+FFFD for what was no text). */
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/utf8_stream.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "tests/lib/gguf_maker.h"
#include "tests/lib/vocabulary_maker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const pres[] = { "default", "gpt-2", "smollm", "llama-bpe", "qwen2", NULL };
enum { QWEN2 = 4, SPM = 5, N_KINDS = 6 };

static struct tokenizer *tokenizers[N_KINDS];

/* Kept until the process ends: the tokenizers point into the files. */
static struct tokenizer *make(const char *pre)
{
	static struct vocabulary v;
	struct gguf_maker m;

	if (pre)
		vocabulary_small_bpe(&v);
	else
		vocabulary_small_spm(&v);
	v.pre = pre;
	maker_init(&m);
	vocabulary_write(&v, &m);
	if (pre)
		maker_u32(&m, "tokenizer.ggml.bos_token_id", 256);
	vocabulary_forget(&v);
	return subject_need(&m).t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct utf8_stream repair = UTF8_STREAM_INIT;
	unsigned kind, flags;
	const char *text;
	size_t n_ids, n_clean, n_back = 0;
	char *clean, *back;
	int32_t *ids;

	if (!tokenizers[0])
		for (unsigned i = 0; i < N_KINDS; i++)
			tokenizers[i] = make(pres[i]);
	if (!size)
		return 0;
	kind = data[0] % N_KINDS;
	flags = data[0] / N_KINDS % 4;
	text = (const char *)data + 1;
	size--;
	ids = malloc(TOKENIZER_IDS_ROOM(size) * sizeof *ids);
	clean = malloc(UTF8_STREAM_ROOM(size));
	if (!ids || !clean)
		abort();
	if (tokenizer_encode(tokenizers[kind], text, size, flags, ids, TOKENIZER_IDS_ROOM(size),
			     &n_ids))
		abort();
	n_clean = utf8_stream_push(&repair, text, size, clean);
	n_clean += utf8_stream_end(&repair, clean + n_clean);
	back = malloc(n_ids * 16 + TOKENIZER_PIECE_MAX);
	for (size_t i = 0; i < n_ids; i++) {
		int n = tokenizer_piece(tokenizers[kind], ids[i], back + n_back,
					TOKENIZER_PIECE_MAX, true);

		if (n < 0 || n > 16)
			abort();
		n_back += (size_t)n;
	}
	/* Not with qwen2, which normalizes, nor with flags (BOS, spaces after special tokens), nor
	 * where a text has the character that SentencePiece spells a space with. */
	if (!flags && size && kind != QWEN2 &&
	    !(kind == SPM && memmem(clean, n_clean, "\xe2\x96\x81", 3))) {
		size_t extra = kind == SPM && n_clean; /* the space put before a text */

		if (n_back < extra || n_back - extra != n_clean ||
		    memcmp(back + extra, clean, n_clean))
			abort();
	}
	free(back);
	free(clean);
	free(ids);
	return 0;
}
