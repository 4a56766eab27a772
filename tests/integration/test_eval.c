/* test_eval.c - kvengine --eval against a float32 reference that none of us computed.
 *
 * tests/golden/smollm2-f32-top32.bin (made by tests/oracle/kl.py) holds, per position of 640 tokens of real
 * text, the 32 likeliest next tokens of the float32 model with their log-probabilities.  Everything
 * else is one bucket: the divergence over these 33 buckets is a lower bound of the whole one, which
 * tests/oracle/kl.py measures (docs/numbers.md). */
#include "tests/lib/scenario.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define KL_MAX 2e-3                /* issue 1, "Must show" */

struct golden {
	uint32_t n, top;
	const uint8_t *rows;           /* (n): i32 token, (top) i32 ids, (top) f32 log-probabilities */
	size_t row_bytes;
};

static int run(const char *command)
{
	int status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static double row_kl(const float *logits, uint32_t n_vocab, const int32_t *ids, const float *log_p,
		     uint32_t top)
{
	double max = logits[0], sum = 0, kl = 0, rest_p = 1, rest_q = 1;
	for (uint32_t i = 0; i < n_vocab; i++)
		max = logits[i] > max ? logits[i] : max;
	for (uint32_t i = 0; i < n_vocab; i++)
		sum += exp(logits[i] - max);
	for (uint32_t i = 0; i < top; i++) {
		double p = exp(log_p[i]), log_q = logits[ids[i]] - max - log(sum);
		kl += p * (log_p[i] - log_q);
		rest_p -= p;
		rest_q -= exp(log_q);
	}
	if (rest_p > 1e-9 && rest_q > 1e-12)
		kl += rest_p * log(rest_p / rest_q);
	return kl;
}

START_TEST(smollm2_stays_close_to_float32)
{
	if (!host_model_smollm2()) {
		printf("skipped: SmolLM2 is not in the cache (`make model` fetches it)\n");
		return;
	}
	size_t bytes;
	char *file = host_read_file(host_path("tests/golden/smollm2-f32-top32.bin"), &bytes);
	struct golden g;
	memcpy(&g.n, file, 4);
	memcpy(&g.top, file + 4, 4);
	g.rows = (const uint8_t *)file + 8;
	g.row_bytes = 4 + 8 * (size_t)g.top;
	ck_assert_uint_eq(bytes, 8 + g.n * g.row_bytes);
	ck_assert_uint_ge(g.n, 512);

	char dir[] = "/tmp/kvd-eval-XXXXXX", path[64], command[2048], exe[512];
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	ck_assert_int_gt((int)n, 0);
	exe[n] = '\0';
	*strrchr(exe, '/') = '\0';
	snprintf(path, sizeof(path), "%s/tokens", dir);
	FILE *f = fopen(path, "w");
	for (uint32_t i = 0; i < g.n; i++) {
		int32_t token;
		memcpy(&token, g.rows + i * g.row_bytes, 4);
		fprintf(f, "%d ", token);
	}
	fclose(f);
	snprintf(command, sizeof(command),
		 "%s/../bin/kvengine --eval %s --tokens %s/tokens --logits-out %s/logits --json "
		 ">%s/json",
		 exe, host_model_smollm2(), dir, dir, dir);
	ck_assert_int_eq(run(command), 0);
	snprintf(path, sizeof(path), "%s/logits", dir);
	int fd = open(path, O_RDONLY);
	struct stat st;
	ck_assert_int_eq(fstat(fd, &st), 0);
	uint32_t n_vocab = (uint32_t)(st.st_size / 4 / g.n);
	ck_assert_uint_eq(n_vocab, 49152);
	const float *logits = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	double sum = 0;
	uint32_t same = 0;
	for (uint32_t i = 0; i < g.n; i++) {
		const uint8_t *row = g.rows + i * g.row_bytes;
		int32_t ids[64];
		float log_p[64];
		memcpy(ids, row + 4, 4 * g.top);
		memcpy(log_p, row + 4 + 4 * g.top, 4 * g.top);
		const float *ours = logits + (size_t)i * n_vocab;
		sum += row_kl(ours, n_vocab, ids, log_p, g.top);
		uint32_t best = 0;
		for (uint32_t v = 1; v < n_vocab; v++)
			best = ours[v] > ours[best] ? v : best;
		same += best == (uint32_t)ids[0];
	}
	printf("mean KL over %u tokens: %.3g (33 buckets); same top-1: %.1f %%\n", g.n, sum / g.n,
	       100.0 * same / g.n);
	ck_assert_msg(sum / g.n <= KL_MAX, "mean KL %.3g", sum / g.n);
	munmap((void *)logits, (size_t)st.st_size);
	close(fd);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	run(command);
	free(file);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = { SCENARIO(smollm2_stays_close_to_float32) };
	return scenario_run("eval", tests, 1, 300);
}
