/* test_replay.c - what a running kvd does is recorded and runs again offline, hash for hash: with load on two
 * engines, pressure, an engine's death and an administrator's hand in it.  No prompt is in a record unless asked;
 * a damaged, cut or changed record says where, and ends nothing. */
#include "tests/lib/scenario.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kvd/record.h"
#include "kvd/record_book.h"
#include "tests/lib/slow.h"

static const char *const engine_args[] = { "--threads", "1", "--max-seqs", "8", NULL };

/* Run a program of ours; its output, malloc'ed, and exit code. */
static char *run(struct host *h, const char *line, int *ret_exit)
{
	char command[1500], *text = calloc(1, 1 << 16);
	snprintf(command, sizeof(command), "KVD_SOCKET=%s PATH=%s:$PATH; export KVD_SOCKET PATH; %s 2>&1", h->socket,
		 h->bin, line);
	FILE *f = popen(command, "r");
	ck_assert_ptr_nonnull(f);
	size_t n = fread(text, 1, (1 << 16) - 1, f);
	int status = pclose(f);
	text[n] = '\0';
	*ret_exit = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	return text;
}

static void run_expect(struct host *h, const char *line, int expected, const char *part)
{
	int exit_code;
	char *text = run(h, line, &exit_code);
	ck_assert_msg(exit_code == expected && strstr(text, part), "%s: exit %d: %s", line, exit_code, text);
	printf("%s", text);
	free(text);
}

static void load(struct host *h, unsigned seed, unsigned n)
{
	struct host_job jobs[8];
	char *text[8], *prefix = scenario_text(seed, 150);
	for (unsigned round = 0; round < n; round++) {
		for (unsigned i = 0; i < 8; i++) {
			char *own = scenario_text(seed + 100 * round + i, 60 + 40 * i);
			text[i] = scenario_join(prefix, own);
			free(own);
			scenario_job(&jobs[i], i % 3 ? "red" : "blue", NULL, text[i], 40);
		}
		ck_assert_uint_eq(host_run(h, jobs, 8, NULL, NULL), 0);
		host_jobs_free(jobs, 8);
		for (unsigned i = 0; i < 8; i++)
			free(text[i]);
	}
	free(prefix);
}

/* kvctl record in the background. */
static pid_t record_start(struct host *h, const char *path, const char *option)
{
	char program[600];
	struct stat file;
	snprintf(program, sizeof(program), "%s/kvctl", h->bin);
	fflush(NULL);
	unlink(path);                        /* not an earlier one's size */
	pid_t pid = fork();
	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setenv("KVD_SOCKET", h->socket, 1);
		execl(program, "kvctl", "record", path, option, NULL);
		_exit(127);
	}
	for (unsigned i = 0; i < 500 && !(stat(path, &file) == 0 && file.st_size > 4096); i++)
		usleep(10000);
	ck_assert_msg(stat(path, &file) == 0 && file.st_size > 4096, "the record does not begin");
	ck_assert_uint_eq(file.st_mode & 0777, 0600);
	return pid;
}

static void record_stop(pid_t pid)
{
	int status;
	ck_assert_int_eq(kill(pid, SIGINT), 0);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "kvctl record: wait status %#x", status);
}

/* Are the bytes of 16 neighbouring token ids of a prompt anywhere in the file?  Ids of this tokenizer's prompts
 * are below 65536, so a page of them has sixteen zero halves: mapped ones do not. */
static uint64_t pages_of_plain_tokens(const char *path)
{
	size_t n, found = 0;
	char *bytes = host_read_file(path, &n);
	for (size_t at = 0; at + 64 <= n; at += 4) {
		int32_t ids[16];
		unsigned plain = 0;
		memcpy(ids, bytes + at, sizeof(ids));
		for (unsigned i = 0; i < 16; i++)
			plain += ids[i] > 255 && ids[i] < 65536 && (!i || ids[i] != ids[i - 1] + 1);
		found += plain >= 14;
	}
	free(bytes);
	return found;
}

START_TEST(a_record_runs_again)
{
	struct host h;
	char path[200], line[300], id[40] = "";
	int exit_code;

	host_start(&h, "48M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	host_engine(&h, "b", host_model_bundled(), engine_args);
	load(&h, 1, 1);                      /* the record begins in the middle of something */
	snprintf(path, sizeof(path), "%s/record", h.dir);
	pid_t pid = record_start(&h, path, NULL);
	load(&h, 7, 2);
	char *rows = run(&h, "kvctl prefixes --no-headers", &exit_code);
	ck_assert_int_eq(sscanf(rows, "%39s", id), 1);
	free(rows);
	snprintf(line, sizeof(line),
		 "kvctl pin %s && kvctl publish %s && kvctl unpin %s && kvctl evict --bytes 1M && "
		 "kvctl fsck",
		 id, id, id);
	run_expect(&h, line, 0, "clean");
	host_kill(&h.engines[1], SIGKILL);
	load(&h, 9, 3);
	run_expect(&h, "kvctl record /dev/null/x", 1, "/dev/null/x");
	snprintf(line, sizeof(line), "kvctl record %s.second", path);
	run_expect(&h, line, 1, "one at a time");
	record_stop(pid);
	host_settle(&h);
	snprintf(line, sizeof(line), "kvd --replay %s", path);
	run_expect(&h, line, 0, "all equal");
	ck_assert_uint_eq(pages_of_plain_tokens(path), 0);
	unlink(path);
	host_stop(&h);
}
END_TEST

/* A pool that is too small and a disk behind it: reclaim, preemption, spill, fetch and compaction are in the record,
 * and a kvd that dies and another that takes over end it in good order. */
START_TEST(pressure_and_spill_run_again)
{
	struct host h;
	char path[200], line[300], spill[200];
	int status;

	snprintf(spill, sizeof(spill), "/tmp/kvd-spill-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(spill));
	const char *const more[] = { "--spill", spill, "--keeper", NULL };
	host_start(&h, "12M", more);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	host_engine(&h, "b", host_model_bundled(), engine_args);
	snprintf(path, sizeof(path), "%s/record", h.dir);
	pid_t pid = record_start(&h, path, NULL);
	for (unsigned i = 0; i < 4; i++)
		load(&h, 20 + i % 3, 3);
	record_stop(pid);
	struct kvd_row_status s;
	host_status(&h, &s);
	printf("%llu pages evicted, %llu preemptions, %llu written to disk, %llu read\n",
	       (unsigned long long)s.evicted_pages, (unsigned long long)s.preemptions,
	       (unsigned long long)s.spill_writes, (unsigned long long)s.spill_reads);
	ck_assert_uint_gt(s.spill_writes + s.evicted_pages, 0);
	snprintf(line, sizeof(line), "kvctl replay %s", path);
	run_expect(&h, line, 0, "all equal");
	/* kvd dies under a recorder: the file says that it is cut off, and the next kvd can record
	 * from where it took over */
	pid = record_start(&h, path, NULL);
	host_kill(&h.kvd, SIGKILL);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 1, "wait status %#x", status);
	snprintf(line, sizeof(line), "kvd --replay %s", path);
	run_expect(&h, line, 1, "cut off");
	host_kvd_start(&h, "12M", more);
	host_engine_wait(&h, "a");
	host_engine_wait(&h, "b");
	pid = record_start(&h, path, NULL);
	load(&h, 21, 2);
	record_stop(pid);
	run_expect(&h, line, 0, "all equal");
	unlink(path);
	host_settle(&h);
	host_stop(&h);
	snprintf(line, sizeof(line), "rm -rf %s", spill);
	ck_assert_int_eq(system(line), 0);
}
END_TEST

START_TEST(tokens_only_when_asked)
{
	struct host h;
	char path[200], line[300];

	host_start(&h, "48M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	load(&h, 1, 1);
	snprintf(path, sizeof(path), "%s/record", h.dir);
	pid_t pid = record_start(&h, path, "--with-tokens");
	load(&h, 3, 2);
	record_stop(pid);
	snprintf(line, sizeof(line), "kvd --replay %s", path);
	run_expect(&h, line, 0, "all equal");
	ck_assert_uint_gt(pages_of_plain_tokens(path), 0); /* so that the other test's zero says something */
	snprintf(line, sizeof(line), "kvctl record %s --seconds 0.3 --json", path);
	run_expect(&h, line, 0, "\"events\"");
	unlink(path);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

static void write_file(const char *path, const void *bytes, size_t n)
{
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
	ck_assert_int_eq(fclose(f), 0);
}

/* The n-th block of a kind. */
static struct kvd_record_block *block_of(char *bytes, size_t n, uint32_t type, unsigned skip)
{
	for (size_t at = 0; at < n;) {
		struct kvd_record_block *block = (struct kvd_record_block *)(void *)(bytes + at);
		if (block->type == type && !skip--)
			return block;
		at += sizeof(*block) + block->bytes;
	}
	ck_abort_msg("no block of kind %u", type);
	return NULL;
}

START_TEST(what_is_wrong_is_named)
{
	struct host h;
	char path[200], bad[200], line[300];
	size_t n;

	host_start(&h, "48M", NULL);
	host_engine(&h, "a", host_model_bundled(), engine_args);
	load(&h, 1, 1);
	snprintf(path, sizeof(path), "%s/record", h.dir);
	snprintf(bad, sizeof(bad), "%s/bad", h.dir);
	pid_t pid = record_start(&h, path, NULL);
	load(&h, 5, 2);
	record_stop(pid);
	char *bytes = host_read_file(path, &n), *copy = malloc(n);
	ck_assert_ptr_nonnull(copy);
	snprintf(line, sizeof(line), "kvd --replay %s", bad);
	write_file(bad, bytes, n - 7);
	run_expect(&h, line, 1, "cut off after event");
	write_file(bad, bytes, n / 2);
	run_expect(&h, line, 1, "bad: ");
	write_file(bad, "", 0);
	run_expect(&h, line, 1, "empty");
	write_file(bad, "a letter home, much longer than a header", 40);
	run_expect(&h, line, 1, "no record of kvd");
	memcpy(copy, bytes, n);
	copy[n / 3] ^= 64;
	write_file(bad, copy, n);
	run_expect(&h, line, 1, "checksum");
	/* an event that did not happen so: another prompt in the first submission with tokens, its
	 * checksum made right */
	memcpy(copy, bytes, n);
	struct kvd_record_block *block = block_of(copy, n, KVD_RECORD_EVENTS, 0);
	struct kvd_record_event *event = (struct kvd_record_event *)(void *)(block + 1);
	while (event->n_tokens < 16)
		event = (struct kvd_record_event *)(void *)((char *)event + event->bytes);
	ck_assert((char *)event + event->bytes < (char *)(block + 1) + block->bytes);
	((char *)event)[event->bytes] ^= 1;
	block->crc = record_crc(block + 1, block->bytes);
	write_file(bad, copy, n);
	run_expect(&h, line, 1, "another way after event 0");
	/* a book that was not whole */
	memcpy(copy, bytes, n);
	block = block_of(copy, n, KVD_RECORD_SNAPSHOT, 1);
	memset(block + 1, 0xff, 64);
	((uint64_t *)(void *)(block + 1))[0] = ((uint64_t *)(void *)(bytes + ((char *)(block + 1) - copy)))[0];
	block->crc = record_crc(block + 1, block->bytes);
	write_file(bad, copy, n);
	run_expect(&h, line, 1, "bad: ");
	/* of another version */
	memcpy(copy, bytes, n);
	block = block_of(copy, n, KVD_RECORD_HEADER, 0);
	((struct kvd_record_header *)(void *)(block + 1))->layout_version ^= 1;
	block->crc = record_crc(block + 1, block->bytes);
	write_file(bad, copy, n);
	run_expect(&h, line, 1, "another version");
	run_expect(&h, "kvd --replay /nonexistent", 1, "No such file");
	unlink(bad);
	unlink(path);
	free(copy);
	free(bytes);
	host_settle(&h);
	host_stop(&h);
}
END_TEST

int main(void)
{
	const struct scenario_test tests[] = {
		SCENARIO(a_record_runs_again),
		SCENARIO(pressure_and_spill_run_again),
		SCENARIO(tokens_only_when_asked),
		SCENARIO(what_is_wrong_is_named),
	};
	return scenario_run("replay", tests, 4, 60);
}
