/* main.c - kvd's start: command line and configuration (options.c), limits of the host; then the daemon. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "kvd/config.h"
#include "kvd/daemon.h"
#include "kvd/keeper.h"
#include "kvd/listen.h"
#include "kvd/memory.h"
#include "kvd/recorder.h"
#include "kvd/options.h"
#include "kvd/vmm.h"

__attribute__((format(printf, 2, 3)))
static int complain(int exit_code, const char *format, ...)
{
	va_list args;

	fputs("kvd: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return exit_code;
}

static int check_extent(const struct config *config)
{
	char extent[SIZE_TEXT_MAX];

	size_format(config->extent_bytes, extent);
	if (config->extent_bytes < 256u << 10 || config->extent_bytes > 1u << 30 ||
	    (config->extent_bytes & (config->extent_bytes - 1)))
		return complain(2, "--extent %s; write a power of two from 256K to 1G", extent);
	return -1;
}

/* The device, and the sizes that follow from it: without --pool half of a device that has memory of its own.  Not of
 * what is free there: the next kvd must come to the same pool, and finds ours taken.
 * options  gets the pool, so that a reload reads it as given */
static int find_device(struct config *config, struct options *options, struct vmm_facts *ret)
{
	static char pool[SIZE_TEXT_MAX];
	char error[VMM_ERROR_MAX];
	uint64_t extent_bytes;

	if (vmm_find(config->device, ret, error) < 0)
		return complain(1, "%s", error);
	if (!config->pool_bytes && ret->total_bytes) {
		config->pool_bytes = ret->total_bytes / 2;
		if (!config->extent_bytes)
			config->extent_bytes = config_extent_bytes(config->pool_bytes);
		if (config->extent_bytes < ret->granularity_bytes)
			config->extent_bytes = ret->granularity_bytes;
		config->pool_bytes -= config->pool_bytes % config->extent_bytes;
		snprintf(pool, sizeof(pool), "%" PRIu64, config->pool_bytes);
		options->pool = pool;
	}
	extent_bytes = config->extent_bytes;
	if (options->extent || config->places[CONFIG_KVD_extent_bytes].line || !extent_bytes)
		return -1;
	/* Nobody has chosen it. */
	if (extent_bytes < ret->granularity_bytes)
		config->extent_bytes = ret->granularity_bytes;
	return -1;
}

/* Everything about sizes, with the numbers.  Makes config's sizes final.
 * only_checking  a configuration without a pool is complete: the command line may give it */
static int check_sizes(struct config *config, bool only_checking)
{
	uint64_t n_extents, slots;
	char pool[SIZE_TEXT_MAX], extent[SIZE_TEXT_MAX];

	if (!config->pool_bytes && only_checking)
		return config->extent_bytes ? check_extent(config) : -1;
	if (!config->pool_bytes)
		return complain(
			2, "how much memory for pages? give --pool SIZE, for example --pool 512M");
	size_format(config->pool_bytes, pool);
	size_format(config->extent_bytes, extent);
	if (check_extent(config) >= 0)
		return 2;
	n_extents = config->pool_bytes / config->extent_bytes;
	if (!n_extents)
		return complain(2,
				"--pool %s holds no extent of %s; enlarge the pool or give a "
				"smaller --extent",
				pool, extent);
	if (n_extents > LIMIT_EXTENTS)
		return complain(2,
				"--pool %s has %" PRIu64
				" extents of %s; at most %u, give a larger --extent",
				pool, n_extents, extent, LIMIT_EXTENTS);
	slots = config->extent_bytes / config->page_bytes_min;
	if (slots < 8 || n_extents * slots > 1u << KVD_ENTRY_FRAME_BITS)
		return complain(2,
				"--page-bytes-min %u makes %" PRIu64
				" frames of an extent and %" PRIu64 " of the pool; "
				"8 and %u are the limits",
				config->page_bytes_min, slots, n_extents * slots,
				1u << KVD_ENTRY_FRAME_BITS);
	return -1;
}

static int check_memory(const struct config *config)
{
	struct memory_free memory;
	char pool[SIZE_TEXT_MAX], available[SIZE_TEXT_MAX], group[SIZE_TEXT_MAX],
		most[SIZE_TEXT_MAX];
	int r = memory_read("", &memory);

	if (r < 0)
		return complain(1, "/proc/meminfo cannot be read: %s", strerror(-r));
	if (config->pool_bytes <= memory_pool_max(&memory))
		return -1;
	size_format(config->pool_bytes, pool);
	size_format(memory.available_bytes, available);
	size_format(memory_pool_max(&memory), most);
	if (memory.cgroup_max_bytes == UINT64_MAX)
		return complain(1,
				"--pool %s (%" PRIu64 " bytes) is above free memory: %s (%" PRIu64
				" bytes) available; "
				"choose --pool %s or less",
				pool, config->pool_bytes, available, memory.available_bytes, most);
	size_format(memory.cgroup_free_bytes, group);
	return complain(1,
			"--pool %s (%" PRIu64
			" bytes) is above free memory: %s available, %s (%" PRIu64
			" bytes) left in the control group; choose --pool %s or less",
			pool, config->pool_bytes, available, group, memory.cgroup_free_bytes, most);
}

/* One or two descriptors an extent, one a connection, a few of our own. */
static int raise_descriptors(const struct config *config, const struct vmm_facts *device)
{
	uint64_t want = device->fds_per_extent * (config->pool_bytes / config->extent_bytes) + 256;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return complain(1, "RLIMIT_NOFILE: %s", strerror(errno));
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
		return complain(1, "RLIMIT_NOFILE: %s", strerror(errno));
	if (limit.rlim_max < want)
		return complain(1,
				"%" PRIu64 " descriptors are needed, the hard limit is %llu; raise "
					   "LimitNOFILE= or give "
				"a larger --extent",
				want, (unsigned long long)limit.rlim_max);
	return -1;
}

/* The listening socket: systemd's, that of the kvd before us, or a new one.
 * name  what it is called in the bundle; "": systemd's */
static int open_socket(struct bundle *bundle, const char *path, int systemd_fd, struct listen_socket *ret,
		       char name[BUNDLE_NAME_MAX], bool *ret_kept, char error[LISTEN_ERROR_MAX])
{
	const char *before = bundle_find(bundle, "listen.");
	int r = -ENOENT;

	name[0] = '\0';
	*ret_kept = false;
	*ret = (struct listen_socket){ .fd = systemd_fd };
	if (systemd_fd >= 0)
		return 0;
	if (before) {
		snprintf(name, BUNDLE_NAME_MAX, "%s", before);
		r = listen_adopt(path, name, bundle_take(bundle, name), ret);
		*ret_kept = r == 0;
		if (r < 0)
			bundle_forget(bundle, name);
	}
	if (r < 0)
		r = listen_open(path, ret, error);
	if (r == 0)
		listen_name(ret, name, BUNDLE_NAME_MAX);
	return r;
}

static int run(struct daemon *daemon, struct bundle *bundle, const char *path, const char *listen_name)
{
	uint32_t n_extents = daemon->n_extents;
	int r;

	(void)sd_notifyf(0, "READY=1\nSTATUS=pool %" PRIu64 " MiB at %s%s", daemon->pool_bytes >> 20, path,
			 daemon->taken_over ? ", taken over" : "");
	r = daemon_run(daemon);
	(void)sd_notify(0, "STOPPING=1");
	/* As if killed: nothing is closed in order, for closing would tell the engines. */
	if (r == 0 && daemon->keep)
		_exit(0);
	daemon_close(daemon);
	if (listen_name)
		bundle_forget(bundle, listen_name);
	bundle_release(bundle, n_extents);
	return r;
}

static int serve_bundle(const struct config *config, const char *path, int systemd_fd, struct daemon_options *options)
{
	char error[LISTEN_ERROR_MAX], name[BUNDLE_NAME_MAX];
	struct listen_socket socket;
	struct daemon *daemon = NULL;
	int r;

	/* The pool of a killed kvd is there already: it is not to be found free once more. */
	if (!options->device->total_bytes && !bundle_find(options->bundle, "book") && (r = check_memory(config)) >= 0)
		return r;
	if (open_socket(options->bundle, path, systemd_fd, &socket, name, &options->listen_kept, error) < 0)
		return complain(1, "%s", error);
	options->listen_fd = socket.fd;
	options->listen_name = name[0] ? name : NULL;
	r = daemon_open(config, options, &daemon);
	if (r == 0)
		r = run(daemon, options->bundle, path, options->listen_name);
	listen_close(&socket);
	return r < 0 ? 1 : 0;
}

static int serve(const struct config *config, const char *given_socket, struct daemon_options *options)
{
	char path[LISTEN_PATH_MAX], error[LISTEN_ERROR_MAX];
	struct bundle bundle = { .keeper = -1 };
	int r, systemd_fd;

	_Static_assert(LISTEN_ERROR_MAX >= BUNDLE_ERROR_MAX, "one sentence");
	options->bundle = &bundle;
	if (listen_path(given_socket ? given_socket : config->socket, path, error) < 0 ||
	    bundle_open(&bundle, config->keeper, path, &systemd_fd, error) < 0)
		r = complain(1, "%s", error);
	else
		r = serve_bundle(config, path, systemd_fd, options);
	bundle_close(&bundle);
	return r;
}

static int load_again(void *arg, struct config *config, char *ret_error)
{
	return options_load(arg, config, ret_error);
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	struct config *config = calloc(1, sizeof(*config));
	struct daemon_options how = { .loop = LOOP_AUTO, .load = load_again, .load_arg = &options };
	struct vmm_facts device = { .ordinal = -1 };
	char error[CONFIG_ERROR_MAX] = "";
	int r;

	how.device = &device;
	/* Not a command: kvd itself starts its keeper so (keeper_link.c). */
	if (argc == 3 && !strcmp(argv[1], "--keeper-serve")) {
		free(config);
		return keeper_main(argv[2]);
	}
	r = options_take(argc, argv, &options);
	if (r < 0 && options.replay) {
		free(config);
		return replay_file(options.replay);
	}
	if (r < 0 && !config)
		r = complain(1, "out of memory");
	if (r < 0 && options.loop) {
		if (!strcmp(options.loop, "uring"))
			how.loop = LOOP_URING;
		else if (!strcmp(options.loop, "epoll"))
			how.loop = LOOP_EPOLL;
		else if (strcmp(options.loop, "auto"))
			r = complain(2, "--loop %s; write auto, uring or epoll", options.loop);
	}
	if (r < 0) {
		r = options_load(&options, config, error);
		r = r ? complain(r, "%s", error) : -1;
	}
	if (r < 0 && !options.check_config)
		r = find_device(config, &options, &device);
	if (r < 0)
		r = check_sizes(config, options.check_config);
	if (r < 0 && options.check_config) {
		puts("configuration ok");
		r = 0;
	}
	if (r < 0)
		r = raise_descriptors(config, &device);
	if (r < 0) {
		umask(0077);
		log_init(config->log_level);
		r = serve(config, options.socket, &how);
	}
	free(config);
	return r;
}
