/* fuzz_tokenizer.c - any bytes as text, for each pre-tokenizer and for SentencePiece.
 *
 * The first byte chooses tokenizer and flags, the rest is the text.  Encoding must succeed, stay
 * within the promised number of ids, and give the text back (U+FFFD for what was no text). */
#include "engine/gguf.h"
#include "engine/tokenizer.h"
#include "engine/utf8_stream.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tests/lib/gguf_maker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const pres[] = { "default", "gpt-2", "smollm", "llama-bpe", "qwen2", NULL };
enum { QWEN2 = 4, SPM = 5, N_KINDS = 6 };

static struct tokenizer *tokenizers[N_KINDS];

/* 256 byte tokens, then words; merges join the bytes of the words. */
static void add_bpe(struct gguf_maker *m)
{
	static const char *const words[] = {
		"ab", "aa", "aaaa", "th", "the", "\xc4\xa0t", "\xc4\xa0the", "\xc3\xa2\xc4\xa4"
	};
	static const char *const merges[] = { "a b", "a a", "aa aa", "t h", "th e", "\xc4\xa0 t",
		"\xc4\xa0t he" };
	static char bytes[256][3];
	const char *texts[256 + 8 + 4];
	int32_t types[256 + 8 + 4];
	unsigned n = 0;

	for (unsigned b = 0; b < 256; b++) {
		bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
		unsigned c = itself      ? b
			     : b <= 0x20 ? 0x100 + b
			     : b <= 0xa0 ? 0x121 + b - 0x7f
					 : 0x143;

		bytes[b][0] = (char)(c < 0x80 ? c : 0xc0 | c >> 6);
		bytes[b][1] = (char)(c < 0x80 ? 0 : 0x80 | (c & 0x3f));
		types[n] = 1;
		texts[n++] = bytes[b];
	}
	for (unsigned i = 0; i < 8; i++) {
		types[n] = 1;
		texts[n++] = words[i];
	}
	types[n] = 1, texts[n++] = "he";
	types[n] = 3, texts[n++] = "<|im_end|>";
	types[n] = 3, texts[n++] = "<|";
	types[n] = 4, texts[n++] = "<t>";
	maker_strings(m, "tokenizer.ggml.tokens", texts, n);
	maker_array(m, "tokenizer.ggml.token_type", GGUF_I32, n, types, n * sizeof *types);
	maker_strings(m, "tokenizer.ggml.merges", merges, 7);
	maker_u32(m, "tokenizer.ggml.bos_token_id", 265);
}

static void add_spm(struct gguf_maker *m)
{
	static const char *const words[] = { "<unk>",
					     "<s>",
					     "</s>",
					     "\xe2\x96\x81",
					     "a",
					     "aa",
					     "aaaa",
					     "\xe2\x96\x81"
					     "a",
					     "t",
					     "h",
					     "th",
					     "\xe2\x96\x81th",
					     "<",
					     "s",
					     "<s",
					     "\xc3\xa9" };
	static char bytes[256][8];
	const char *texts[16 + 256];
	int32_t types[16 + 256];
	float scores[16 + 256];
	unsigned n = 0;

	for (; n < 16; n++) {
		texts[n] = words[n];
		types[n] = n == 0 ? 2 : n < 3 ? 3 : 1;
		scores[n] = -(float)(n * 7 % 16);
	}
	for (unsigned b = 0; b < 256; b++, n++) {
		snprintf(bytes[b], sizeof bytes[b], "<0x%02X>", b);
		texts[n] = bytes[b];
		types[n] = 6;
		scores[n] = 0;
	}
	maker_strings(m, "tokenizer.ggml.tokens", texts, n);
	maker_array(m, "tokenizer.ggml.token_type", GGUF_I32, n, types, n * sizeof *types);
	maker_array(m, "tokenizer.ggml.scores", GGUF_F32, n, scores, n * sizeof *scores);
}

/* Kept until the process ends: the tokenizers point into the files. */
static struct tokenizer *make(const char *pre)
{
	struct gguf_maker m;
	struct tokenizer *t;
	struct gguf *g;
	uint8_t *file;
	char err[256];
	size_t size;

	maker_init(&m);
	maker_string(&m, "tokenizer.ggml.model", pre ? "gpt2" : "llama");
	if (pre)
		maker_string(&m, "tokenizer.ggml.pre", pre);
	if (pre)
		add_bpe(&m);
	else
		add_spm(&m);
	file = maker_file(&m, &size);
	maker_free(&m);
	if (gguf_open_memory(file, size, "fuzz", &g, err, sizeof err) ||
	    tokenizer_new(g, &t, err, sizeof err)) {
		fprintf(stderr, "%s\n", err);
		abort();
	}
	return t;
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
