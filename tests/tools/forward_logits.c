/* forward_logits.c - logits of every position of a token file, as raw f32, for comparison with oracles.
 *
 *   forward_logits MODEL TOKENS OUT [ISA|best] [THREADS] [CHUNK]
 *
 * TOKENS: decimal ids separated by white space.  OUT: (n_tokens, n_vocab) little-endian f32. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/forward.h"
#include "tests/lib/kv_memory.h"

static uint32_t read_tokens(const char *path, int32_t *tokens, uint32_t max)
{
	FILE *f = fopen(path, "r");
	uint32_t n = 0;

	while (f && n < max && fscanf(f, "%d", &tokens[n]) == 1)
		n++;
	if (f)
		fclose(f);
	return n;
}

int main(int argc, char **argv)
{
	static int32_t tokens[65536];
	static uint32_t table[4096];
	struct forward_options o = { .n_threads = argc > 5 ? (unsigned)atoi(argv[5]) : 2, .spin_usec = 100,
		.max_rows = argc > 6 ? (unsigned)atoi(argv[6]) : 128,
		.isa = argc > 4 && strcmp(argv[4], "best") != 0 ? argv[4] : NULL };
	struct model *m;
	struct forward *f;
	struct kv_memory kv;
	char err[256] = "";

	if (argc < 4) {
		fprintf(stderr, "usage: forward_logits MODEL TOKENS OUT [ISA|best] [THREADS] [CHUNK]\n");
		return 2;
	}
	uint32_t n = read_tokens(argv[2], tokens, 65536);
	FILE *out = fopen(argv[3], "w");
	if (!out || n == 0 || model_open(argv[1], &m, err, sizeof(err)) < 0 ||
	    forward_new(m, &o, &f, err, sizeof(err)) < 0) {
		fprintf(stderr, "forward_logits: %s\n", err[0] ? err : "no tokens, or cannot write OUT");
		return 1;
	}
	kv_memory_init(&kv, &m->config, (n + KVD_PAGE_TOKENS - 1) / KVD_PAGE_TOKENS);
	for (uint32_t i = 0; i < kv.n_frames; i++)
		table[i] = kv_memory_take(&kv);
	struct step_row *rows = calloc(o.max_rows, sizeof(*rows));
	float *logits = malloc((size_t)o.max_rows * m->config.n_vocab * sizeof(float));
	const struct step_seq seq = { table };
	for (uint32_t first = 0, c; first < n; first += c) {
		c = n - first < o.max_rows ? n - first : o.max_rows;
		for (uint32_t i = 0; i < c; i++)
			rows[i] = (struct step_row){
				.token = tokens[first + i], .pos = first + i, .want_logits = 1};
		if (forward_step(f, &kv.window, &seq, 1, rows, c, logits) < 0) {
			fprintf(stderr, "forward_logits: step at %u refused\n", first);
			return 1;
		}
		fwrite(logits, sizeof(float) * m->config.n_vocab, c, out);
	}
	fclose(out);
	free(rows);
	free(logits);
	kv_memory_deinit(&kv);
	forward_free(f);
	model_close(m);
	return 0;
}
