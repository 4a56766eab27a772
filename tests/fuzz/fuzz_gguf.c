/* fuzz_gguf.c - any bytes as a GGUF file: container, model, tokenizer.
 *
 * Whatever opens must be readable to its last byte, and its tokenizer must take any text. */
#include "engine/gguf.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void read_all(const void *bytes, uint64_t n)
{
	const uint8_t *b = bytes;

	for (uint64_t i = 0; i < n; i++)
		sink ^= b[i];
}

static void read_tensors(const struct gguf *g)
{
	const struct gguf_tensor *t;

	for (uint64_t i = 0; (t = gguf_tensor_at(g, i)); i++) {
		read_all(t->data, t->bytes);
		if (gguf_find_tensor(g, t->name) != t)
			abort();
	}
}

static void read_metadata(const struct gguf *g)
{
	static const char *const keys[] = {
		"general.architecture",
		"general.alignment",
		"general.name",
		"tokenizer.ggml.tokens",
		"tokenizer.ggml.scores",
		"llama.rope.freq_base",
		"x",
	};
	char err[128];

	for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		struct gguf_array array;
		struct gguf_string s;
		uint32_t u;
		float f;
		bool b;

		gguf_get_u32(g, keys[i], &u, err, sizeof err);
		gguf_get_f32(g, keys[i], &f, err, sizeof err);
		gguf_get_bool(g, keys[i], &b, err, sizeof err);
		if (!gguf_get_string(g, keys[i], &s, err, sizeof err))
			read_all(s.text, s.len);
		if (!gguf_get_array(g, keys[i], GGUF_F32, &array, err, sizeof err))
			read_all(array.data, array.bytes);
		if (!gguf_get_array(g, keys[i], GGUF_STRING, &array, err, sizeof err))
			while (gguf_next_string(&array, &s))
				read_all(s.text, s.len);
	}
}

static void use_tokenizer(const struct gguf *g)
{
	static const char text[] = "Hello <|im_end|> w\xc3\xb6rld 123\n\n  \xff\xe2\x82 aaaa "
				   "e\xcc\x81";
	int32_t ids[TOKENIZER_IDS_ROOM(sizeof text)];
	char piece[TOKENIZER_PIECE_MAX], err[256];
	struct tokenizer *t;
	size_t n;

	if (tokenizer_new(g, &t, err, sizeof err))
		return;
	for (unsigned flags = 0; flags < 4; flags++) {
		if (tokenizer_encode(t, text, sizeof text - 1, flags, ids,
				     sizeof ids / sizeof ids[0], &n))
			abort();
		for (size_t i = 0; i < n; i++) {
			if (tokenizer_piece(t, ids[i], piece, sizeof piece, true) < 0)
				abort();
			tokenizer_is_end(t, ids[i]);
		}
	}
	tokenizer_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* as aligned as a mapping, and exactly as long */
	uint8_t *file = NULL;
	struct model *m;
	struct gguf *g;
	char err[256];

	if (posix_memalign((void **)&file, 64, size ? size : 1))
		return 0;
	memcpy(file, data, size);
	if (!gguf_open_memory(file, size, "fuzz", &g, err, sizeof err)) {
		read_tensors(g);
		read_metadata(g);
		use_tokenizer(g);
		gguf_close(g);
	}
	if (!model_open_memory(file, size, "fuzz", &m, err, sizeof err)) {
		for (uint32_t i = 0; i < m->config.n_layers; i++)
			read_all(m->layers[i].w_down.data, m->layers[i].w_down.bytes);
		model_close(m);
	}
	free(file);
	return 0;
}
