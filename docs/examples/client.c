/* client.c - the smallest client of kvd: sends a prompt, prints the answer as it comes.
 *     cc client.c -lkvd && ./a.out "Why is the sky blue?" [MODEL] */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <kvd/kvd.h>

int main(int argc, char **argv)
{
	struct kvd_request request = KVD_REQUEST_INIT;
	struct kvd_connection *kvd;
	struct kvd_stream *stream;
	struct kvd_chunk chunk = { 0 };
	int r;

	if (argc < 2) {
		fprintf(stderr, "usage: %s PROMPT [MODEL]\n", argv[0]);
		return 2;
	}
	/* NULL: the socket where kvd usually is, and the tenant that the kernel says we are. */
	r = kvd_connect(NULL, "example client", NULL, &kvd);
	if (r != 0) {
		fprintf(stderr, "%s\n", kvd_error(kvd));
		kvd_close(kvd);
		return 3;
	}
	request.raw = 1;                      /* the prompt as it is, without the chat template */
	request.text = argv[1];
	request.text_bytes = strlen(argv[1]);
	request.max_tokens = 64;
	/* Any engine of the model will do; wait up to 5 s for one. */
	r = kvd_generate(kvd, argc > 2 ? argv[2] : NULL, NULL, 5000, &request, &stream);
	if (r != 0) {
		fprintf(stderr, "%s\n", kvd_error(kvd));
		kvd_close(kvd);
		return 1;
	}
	while (chunk.kind != KVD_CHUNK_END) {
		r = kvd_next(stream, 60000, &chunk);
		if (r != 0) {
			fprintf(stderr, "%s\n", r == -EAGAIN ? "timed out" :
				kvd_stream_error(stream));
			break;
		}
		if (chunk.kind == KVD_CHUNK_TOKENS) {
			fwrite(chunk.text, 1, chunk.text_bytes, stdout);
			fflush(stdout);
		}
	}
	if (r == 0) {
		printf("\n");
		fprintf(stderr, "%u tokens from %s, %u of %u prompt tokens cached\n",
			chunk.end->completion_tokens, kvd_stream_engine(stream),
			chunk.end->cached_tokens, chunk.end->prompt_tokens);
		r = (int)chunk.end->m.status;
	}
	kvd_stream_close(stream);
	kvd_close(kvd);
	return r == 0 ? 0 : 1;
}
