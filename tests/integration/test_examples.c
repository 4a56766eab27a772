/* test_examples.c - the programs of docs/examples, built against libkvd.so alone, with a real
 * daemon. */
#include "tests/lib/scenario.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The examples lie where this test lies. */
static void example_path(const char *name, char *ret, size_t max)
{
	char self[512];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	ck_assert_int_gt(n, 0);
	self[n] = '\0';
	*strrchr(self, '/') = '\0';
	ck_assert_int_lt(snprintf(ret, max, "%s/%s", self, name), (int)max);
}

/* A foreign engine keeps a sequence, a foreign client gets its end; a second round finds the pages. */
START_TEST(examples_do_what_they_say)
{
	char engine[600], client[600], line[1600];
	struct kvd_row_status status;
	struct host h;

	host_start(&h, "16M", NULL);
	example_path("example_engine", engine, sizeof(engine));
	example_path("example_client", client, sizeof(client));
	for (int round = 0; round < 2; round++) {
		char *argv[] = { engine, h.socket, NULL };
		struct host_child child = { 0 };
		int exit_status;
		host_child_spawn(&h, &child, "example_engine", argv);
		snprintf(line, sizeof(line), "KVD_SOCKET=%s timeout 30 %s hello sevens 2>&1",
			 h.socket, client);
		FILE *f = popen(line, "r");
		ck_assert_ptr_nonnull(f);
		char text[256];
		size_t n = fread(text, 1, sizeof(text) - 1, f);
		text[n] = '\0';
		ck_assert_msg(pclose(f) == 0 && strstr(text, "0 tokens from example") != NULL,
			      "the client says: %s", text);
		ck_assert_int_eq(waitpid(child.pid, &exit_status, 0), child.pid);
		ck_assert_msg(exit_status == 0, "the engine ended with wait status %#x",
			      exit_status);
		host_settle(&h);
		host_status(&h, &status);
		ck_assert_uint_eq(status.frames[KVD_FRAME_COOL],
				  2); /* both sealed pages outlive their engine */
	}
	host_stop(&h);
}
END_TEST

/* Every function that the headers promise is in the library under its version, and nothing else. */
START_TEST(symbols_of_the_library)
{
	char path[600], line[1400], symbol[256];
	unsigned n = 0;

	example_path("../lib/libkvd.so", path, sizeof(path));
	snprintf(line, sizeof(line), "nm -D --defined-only %s", path);
	FILE *f = popen(line, "r");
	ck_assert_ptr_nonnull(f);
	while (fgets(line, sizeof(line), f)) {
		ck_assert_int_eq(sscanf(line, "%*s %*s %255s", symbol), 1);
		if (!strncmp(symbol, "KVD_0.", 6))     /* version nodes */
			continue;
		ck_assert_msg(!strncmp(symbol, "kvd_", 4) && strstr(symbol, "@@KVD_0."),
			      "%s should not be seen", symbol);
		n++;
	}
	ck_assert_int_eq(pclose(f), 0);
	snprintf(line, sizeof(line), "cat %s/include/kvd/kvd.h %s/include/kvd/engine.h | grep -c '^KVD_API'",
		 host_path(""), host_path(""));
	f = popen(line, "r");
	ck_assert_ptr_nonnull(f);
	unsigned promised = 0;
	ck_assert_int_eq(fscanf(f, "%u", &promised), 1);
	pclose(f);
	ck_assert_uint_eq(n, promised);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(examples_do_what_they_say),
		SCENARIO(symbols_of_the_library),
	};
	return scenario_run("examples", tests, 2, 60);
}
