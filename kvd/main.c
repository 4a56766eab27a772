/* main.c - kvd's command line: options, configuration, limits; then the daemon. */
#include <errno.h>
#include <getopt.h>
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
#include "kvd/listen.h"
#include "kvd/memory.h"

#define DEFAULT_CONFIG "/etc/kvd/kvd.conf"

static const char help_text[] =
	"Usage: kvd --pool SIZE [OPTIONS]\n"
	"Own all KV-cache pages of a device and lend them to engines.\n"
	"\n"
	"  --device host          memory of this host (the only device of this build)\n"
	"  --pool SIZE            memory for pages, for example 512M or 4G\n"
	"  --extent SIZE          unit of mapping, a power of two from 256K to 1G; follows the "
	"pool\n"
	"  --page-bytes-min SIZE  smallest page that can be lent, a power of two; 8K\n"
	"  --socket PATH          else $KVD_SOCKET, else /run/kvd/kvd.sock (root) or\n"
	"                         $XDG_RUNTIME_DIR/kvd/kvd.sock; systemd's socket wins\n"
	"  --config FILE          else " DEFAULT_CONFIG " if it is there; then FILE.d/*.conf\n"
	"  --check-config         validate the configuration and exit\n"
	"  --loop auto|uring|epoll   how to wait; auto takes io_uring where it is allowed\n"
	"  --log-level error|warn|info|debug\n"
	"  --version, --help\n"
	"\n"
	"Exit: 0 ended by SIGTERM or SIGINT, 1 failed, 2 wrong usage.\n";

struct options {
	const char *device, *pool, *extent, *page_bytes_min, *socket, *config, *log_level, *loop;
	bool check_config;
};

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

/* -1: go on; else the exit code. */
static int parse_options(int argc, char **argv, struct options *ret)
{
	enum { DEVICE = 256, POOL, EXTENT, PAGE_BYTES_MIN, SOCKET, CONFIG, LOG_LEVEL, LOOP, CHECK,
	       VERSION, HELP };
	static const struct option known[] = {
		{ "device", 1, NULL, DEVICE },
		{ "pool", 1, NULL, POOL },
		{ "extent", 1, NULL, EXTENT },
		{ "page-bytes-min", 1, NULL, PAGE_BYTES_MIN },
		{ "socket", 1, NULL, SOCKET },
		{ "config", 1, NULL, CONFIG },
		{ "log-level", 1, NULL, LOG_LEVEL },
		{ "loop", 1, NULL, LOOP },
		{ "check-config", 0, NULL, CHECK },
		{ "version", 0, NULL, VERSION },
		{ "help", 0, NULL, HELP },
		{ 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) >= 0)
		switch (option) {
		case DEVICE: ret->device = optarg; break;
		case POOL: ret->pool = optarg; break;
		case EXTENT: ret->extent = optarg; break;
		case PAGE_BYTES_MIN: ret->page_bytes_min = optarg; break;
		case SOCKET: ret->socket = optarg; break;
		case CONFIG: ret->config = optarg; break;
		case LOG_LEVEL: ret->log_level = optarg; break;
		case LOOP: ret->loop = optarg; break;
		case CHECK: ret->check_config = true; break;
		case VERSION: printf("kvd %s\n", KVD_VERSION); return 0;
		case HELP: fputs(help_text, stdout); return 0;
		default: return complain(2, "see kvd --help");
		}
	if (optind < argc)
		return complain(2, "`%s` is no option; see kvd --help", argv[optind]);
	return -1;
}

/* The command line wins over the files.  -1 or the exit code. */
static int apply_options(const struct options *options, struct config *config)
{
	uint64_t bytes;

	if (options->device && snprintf(config->device, sizeof(config->device), "%s",
					options->device) >= (int)sizeof(config->device))
		return complain(2, "--device %s: host is the only device of this build",
				options->device);
	if (options->pool && size_parse(options->pool, &config->pool_bytes) < 0)
		return complain(2, "--pool %s is not a size; write for example 512M or 4G",
				options->pool);
	if (options->extent && size_parse(options->extent, &config->extent_bytes) < 0)
		return complain(2, "--extent %s is not a size; write for example 4M",
				options->extent);
	if (options->page_bytes_min) {
		if (size_parse(options->page_bytes_min, &bytes) < 0 || bytes < 512 ||
		    bytes > 1u << 30 || (bytes & (bytes - 1)))
			return complain(2,
					"--page-bytes-min %s; write a power of two from 512 to 1G",
					options->page_bytes_min);
		config->page_bytes_min = (uint32_t)bytes;
	}
	if (options->log_level && log_level_parse(options->log_level, &config->log_level) < 0)
		return complain(2, "--log-level %s; write error, warn, info or debug",
				options->log_level);
	return -1;
}

static int load_config(const struct options *options, struct config *config)
{
	char error[CONFIG_ERROR_MAX];
	const char *path = options->config ? options->config : DEFAULT_CONFIG;
	int r;

	config_init(config);
	if (options->config || access(path, F_OK) == 0) {
		if (config_load(config, path, error) < 0)
			return complain(1, "%s", error);
		if (config_check(config, error) < 0)
			return complain(1, "%s: %s", path, error);
	}
	r = apply_options(options, config);
	if (r >= 0)
		return r;
	if (!strncmp(config->device, "cuda", 4))
		return complain(1, "--device %s: this kvd is not built for CUDA; use --device host",
				config->device);
	if (strcmp(config->device, "host"))
		return complain(1, "--device %s: host is the only device of this build",
				config->device);
	return -1;
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
	if (!config->extent_bytes)
		config->extent_bytes = config_extent_bytes(config->pool_bytes);
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

/* Two descriptors an extent, one a connection, a few of our own. */
static int raise_descriptors(const struct config *config)
{
	uint64_t want = 2 * (config->pool_bytes / config->extent_bytes) + 256;
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

static int serve(const struct config *config, const char *given_socket, enum loop_kind loop)
{
	char path[LISTEN_PATH_MAX], error[LISTEN_ERROR_MAX];
	struct listen_socket socket;
	struct daemon_options options = { .loop = loop };
	struct daemon *daemon = NULL;
	int r;

	if (listen_path(given_socket ? given_socket : config->socket, path, error) < 0 ||
	    listen_open(path, &socket, error) < 0)
		return complain(1, "%s", error);
	options.listen_fd = socket.fd;
	r = daemon_open(config, &options, &daemon);
	if (r == 0) {
		(void)sd_notifyf(0, "READY=1\nSTATUS=pool %" PRIu64 " MiB at %s",
				 daemon->pool_bytes >> 20, path);
		r = daemon_run(daemon);
		(void)sd_notify(0, "STOPPING=1");
		daemon_close(daemon);
	}
	listen_close(&socket);
	return r < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	struct config *config = calloc(1, sizeof(*config));
	enum loop_kind loop = LOOP_AUTO;
	int r = parse_options(argc, argv, &options);

	if (r < 0 && !config)
		r = complain(1, "out of memory");
	if (r < 0 && options.loop) {
		if (!strcmp(options.loop, "uring"))
			loop = LOOP_URING;
		else if (!strcmp(options.loop, "epoll"))
			loop = LOOP_EPOLL;
		else if (strcmp(options.loop, "auto"))
			r = complain(2, "--loop %s; write auto, uring or epoll", options.loop);
	}
	if (r < 0)
		r = load_config(&options, config);
	if (r < 0)
		r = check_sizes(config, options.check_config);
	if (r < 0 && options.check_config) {
		puts("configuration ok");
		r = 0;
	}
	if (r < 0)
		r = check_memory(config);
	if (r < 0)
		r = raise_descriptors(config);
	if (r < 0) {
		umask(0077);
		log_init(config->log_level);
		r = serve(config, options.socket, loop);
	}
	free(config);
	return r;
}
