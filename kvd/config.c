/* config.c - the configuration file, read through inih.
 *
 * The text is read whole and handed to inih line by line by our own reader, so that every error
 * knows its line and a line longer than inih's buffer is refused instead of cut.  Start only. */
#include "kvd/config.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_LINE_MAX 190 /* inih reads into 200 bytes */

struct config_reader {
	struct config *config;
	const char *name, *text;
	size_t text_bytes, at;
	unsigned line;
	bool failed;
	char *error;
};

void config_init(struct config *config)
{
	memset(config, 0, sizeof(*config));
	strcpy(config->device, "host");
	config->page_bytes_min = 8192;
	config->sharing = CORE_MERGE;
	config->log_level = LOG_LEVEL_INFO;
}

/* Keep the first error; returns 0, which tells inih that the line is bad. */
__attribute__((format(printf, 2, 3)))
static int config_fail(struct config_reader *reader,
							     const char *format, ...)
{
	va_list args;
	int n;

	if (reader->failed)
		return 0;
	reader->failed = true;
	n = snprintf(reader->error, CONFIG_ERROR_MAX, "%s:%u: ", reader->name, reader->line);
	if (n < 0 || n >= CONFIG_ERROR_MAX)
		return 0;
	va_start(args, format);
	vsnprintf(reader->error + n, CONFIG_ERROR_MAX - (size_t)n, format, args);
	va_end(args);
	return 0;
}

/* inih's reader: like fgets() over the text.  An overlong or binary line becomes an error. */
static char *config_read_line(char *ret, int max, void *arg)
{
	struct config_reader *reader = arg;
	const char *start = reader->text + reader->at;
	size_t left = reader->text_bytes - reader->at, n;
	const char *end;

	if (!left || reader->failed)
		return NULL;
	reader->line++;
	end = memchr(start, '\n', left);
	n = end ? (size_t)(end - start) + 1 : left;
	if (n > CONFIG_LINE_MAX || (int)n >= max) {
		config_fail(reader,
			    "line of %zu bytes; at most %d are allowed, repeat the key instead", n,
			    CONFIG_LINE_MAX);
		return NULL;
	}
	if (memchr(start, '\0', n)) {
		config_fail(reader, "NUL byte; this is not a text file");
		return NULL;
	}
	memcpy(ret, start, n);
	ret[n] = '\0';
	reader->at += n;
	return ret;
}

static int config_sharing(struct config_reader *reader, const char *value, enum core_sharing *ret)
{
	if (!strcmp(value, "private"))
		*ret = CORE_PRIVATE;
	else if (!strcmp(value, "merge"))
		*ret = CORE_MERGE;
	else if (!strcmp(value, "reuse"))
		*ret = CORE_REUSE;
	else
		return config_fail(reader, "sharing = %s; write private, merge or reuse", value);
	return 1;
}

static int config_size(struct config_reader *reader, const char *key, const char *value,
		       uint64_t *ret)
{
	if (size_parse(value, ret) < 0)
		return config_fail(reader, "%s = %s is not a size; write for example 512M or 4G",
				   key, value);
	return 1;
}

static int config_id(struct config_reader *reader, const char *key, const char *value,
		     uint32_t *ret)
{
	uint64_t number;

	if (size_parse(value, &number) < 0 || number >= CONFIG_NO_ID ||
	    strspn(value, "0123456789") != strlen(value))
		return config_fail(reader, "%s = %s is not a number; write the numeric id", key,
				   value);
	if (number == 65534)
		return config_fail(
			reader,
			"%s = 65534 is the overflow id, which stands for many users; give the "
			"user an id of its own",
			key);
	*ret = (uint32_t)number;
	return 1;
}

static int config_copy(struct config_reader *reader, const char *key, const char *value, char *ret,
		       size_t max)
{
	size_t n = strlen(value);

	if (!n || n >= max)
		return config_fail(reader, "%s has %zu bytes; 1 to %zu are allowed", key, n,
				   max - 1);
	memcpy(ret, value, n + 1);
	return 1;
}

static int config_kvd_key(struct config_reader *reader, const char *key, const char *value)
{
	struct config *config = reader->config;
	uint64_t number;

	if (!strcmp(key, "device"))
		return config_copy(reader, key, value, config->device, sizeof(config->device));
	if (!strcmp(key, "pool"))
		return config_size(reader, key, value, &config->pool_bytes);
	if (!strcmp(key, "extent"))
		return config_size(reader, key, value, &config->extent_bytes);
	if (!strcmp(key, "socket"))
		return config_copy(reader, key, value, config->socket, sizeof(config->socket));
	if (!strcmp(key, "sharing"))
		return config_sharing(reader, value, &config->sharing);
	if (!strcmp(key, "page-tokens")) {
		if (size_parse(value, &number) < 0 || number != KVD_PAGE_TOKENS)
			return config_fail(reader, "page-tokens = %s; this version knows %u only",
					   value, KVD_PAGE_TOKENS);
		return 1;
	}
	if (!strcmp(key, "page-bytes-min")) {
		if (!config_size(reader, key, value, &number))
			return 0;
		if (number < 512 || number > 1u << 30 || (number & (number - 1)))
			return config_fail(
				reader, "page-bytes-min = %s; write a power of two from 512 to 1G",
				value);
		config->page_bytes_min = (uint32_t)number;
		return 1;
	}
	if (!strcmp(key, "log-level")) {
		if (log_level_parse(value, &config->log_level) < 0)
			return config_fail(reader,
					   "log-level = %s; write error, warn, info or debug",
					   value);
		return 1;
	}
	return config_fail(
		reader,
		"[kvd] has no key `%s`; known: device pool extent page-tokens page-bytes-min "
		"sharing socket log-level",
		key);
}

static int config_add_member(struct config_reader *reader, uint32_t domain, const char *tenant)
{
	struct config *config = reader->config;
	struct config_member *member;

	if (!config_name_valid(tenant))
		return config_fail(reader,
				   "`%s` is not a tenant name; use letters, digits and . _ - @ +",
				   tenant);
	for (uint32_t i = 0; i < config->n_members; i++) {
		if (strcmp(config->members[i].tenant, tenant))
			continue;
		if (config->members[i].domain == domain)
			return 1;
		return config_fail(
			reader, "tenant %s is in domain %s already; a tenant belongs to one domain",
			tenant, config->domains[config->members[i].domain].name);
	}
	if (config->n_members == LIMIT_CONFIG_MEMBERS)
		return config_fail(reader, "more than %u tenants in domains", LIMIT_CONFIG_MEMBERS);
	member = &config->members[config->n_members++];
	strcpy(member->tenant, tenant);
	member->domain = domain;
	return 1;
}

static int config_domain_key(struct config_reader *reader, const char *name, const char *key,
			     const char *value)
{
	struct config *config = reader->config;
	uint32_t i;
	char list[256];
	char *save = NULL;

	for (i = 0; i < config->n_domains && strcmp(config->domains[i].name, name); i++)
		;
	if (i == config->n_domains) {
		if (!config_name_valid(name))
			return config_fail(
				reader,
				"`%s` is not a domain name; use letters, digits and . _ - @ +",
				name);
		if (i == LIMIT_CONFIG_DOMAINS)
			return config_fail(reader, "more than %u domains", LIMIT_CONFIG_DOMAINS);
		strcpy(config->domains[i].name, name);
		config->domains[i].sharing = CORE_REUSE; /* why else declare one */
		config->n_domains++;
	}
	if (!strcmp(key, "sharing"))
		return config_sharing(reader, value, &config->domains[i].sharing);
	if (strcmp(key, "tenants"))
		return config_fail(reader, "[domain %s] has no key `%s`; known: tenants sharing",
				   name, key);
	if (strlen(value) >= sizeof(list))
		return config_fail(reader, "tenants is too long; repeat the key");
	strcpy(list, value);
	for (char *tenant = strtok_r(list, ", \t", &save); tenant;
	     tenant = strtok_r(NULL, ", \t", &save))
		if (!config_add_member(reader, i, tenant))
			return 0;
	return 1;
}

static int config_tenant_key(struct config_reader *reader, const char *name, const char *key,
			     const char *value)
{
	static const char *const later[] = { "min", "low", "high", "weight", "priority", "cgroup" };
	struct config *config = reader->config;
	struct config_tenant *tenant = NULL;

	for (uint32_t i = 0; i < config->n_tenants; i++)
		if (!strcmp(config->tenants[i].name, name))
			tenant = &config->tenants[i];
	if (!tenant) {
		if (!config_name_valid(name))
			return config_fail(
				reader,
				"`%s` is not a tenant name; use letters, digits and . _ - @ +",
				name);
		if (config->n_tenants == LIMIT_CONFIG_TENANTS)
			return config_fail(reader, "more than %u tenants", LIMIT_CONFIG_TENANTS);
		tenant = &config->tenants[config->n_tenants++];
		*tenant = (struct config_tenant){ .uid = CONFIG_NO_ID, .gid = CONFIG_NO_ID };
		strcpy(tenant->name, name);
	}
	if (!strcmp(key, "uid"))
		return config_id(reader, key, value, &tenant->uid);
	if (!strcmp(key, "gid"))
		return config_id(reader, key, value, &tenant->gid);
	if (!strcmp(key, "max"))
		return config_size(reader, key, value, &tenant->max_bytes);
	for (unsigned i = 0; i < sizeof(later) / sizeof(later[0]); i++)
		if (!strcmp(key, later[i]))
			return config_fail(
				reader,
				"[tenant %s] %s is not supported by this version; remove the line",
				name, key);
	return config_fail(reader, "[tenant %s] has no key `%s`; known: uid gid max", name, key);
}

static int config_uid_list(struct config_reader *reader, const char *section, const char *key,
			   const char *value, uint32_t *list, uint32_t *n)
{
	uint32_t uid;

	if (strcmp(key, "uid"))
		return config_fail(reader,
				   "[%s] has no key `%s`; known: uid (repeat it for several)",
				   section, key);
	if (!config_id(reader, key, value, &uid))
		return 0;
	for (uint32_t i = 0; i < *n; i++)
		if (list[i] == uid)
			return 1;
	if (*n == LIMIT_CONFIG_UIDS)
		return config_fail(reader, "[%s] more than %u uids", section, LIMIT_CONFIG_UIDS);
	list[(*n)++] = uid;
	return 1;
}

static int config_handler(void *arg, const char *section, const char *key, const char *value)
{
	struct config_reader *reader = arg;
	struct config *config = reader->config;

	if (reader->failed)
		return 0;
	if (!value)
		value = "";
	if (!strcmp(section, "kvd"))
		return config_kvd_key(reader, key, value);
	if (!strncmp(section, "domain ", 7))
		return config_domain_key(reader, section + 7 + strspn(section + 7, " "), key,
					 value);
	if (!strncmp(section, "tenant ", 7))
		return config_tenant_key(reader, section + 7 + strspn(section + 7, " "), key,
					 value);
	if (!strcmp(section, "delegate"))
		return config_uid_list(reader, section, key, value, config->delegates,
				       &config->n_delegates);
	if (!strcmp(section, "engine"))
		return config_uid_list(reader, section, key, value, config->engine_uids,
				       &config->n_engine_uids);
	if (!*section)
		return config_fail(reader,
				   "`%s` stands before the first section; write [kvd] above it",
				   key);
	return config_fail(
		reader,
		"unknown section [%s]; known: [kvd] [domain NAME] [tenant NAME] [delegate] "
		"[engine]",
		section);
}

int config_parse(struct config *config, const char *name, const char *text, size_t text_bytes,
		 char *ret_error)
{
	struct config_reader reader = {
		.config = config,
		.name = name,
		.text = text,
		.text_bytes = text_bytes,
		.error = ret_error,
	};
	int r = ini_parse_stream(config_read_line, &reader, config_handler, &reader);

	if (r == -2)
		return -ENOMEM;
	if (reader.failed)
		return -EINVAL;
	if (r != 0) { /* inih's own: a line that is neither [section] nor key = value */
		reader.line = r > 0 ? (unsigned)r : 0;
		config_fail(&reader, "neither [section] nor key = value");
		return -EINVAL;
	}
	return 0;
}

/* Reads and parses one file. */
static int config_load_file(struct config *config, const char *path, char *ret_error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	char *text = NULL;
	size_t n = 0;
	struct stat st;
	int r = -EINVAL;

	if (fd < 0 || fstat(fd, &st) < 0) {
		r = -errno;
		snprintf(ret_error, CONFIG_ERROR_MAX, "%s: cannot be read: %s", path,
			 strerror(errno));
		goto out;
	}
	if (!S_ISREG(st.st_mode) || st.st_size > LIMIT_CONFIG_FILE_BYTES) {
		snprintf(ret_error, CONFIG_ERROR_MAX, "%s: not a regular file of at most %u bytes",
			 path, LIMIT_CONFIG_FILE_BYTES);
		goto out;
	}
	text = malloc((size_t)st.st_size + 1);
	if (!text) {
		r = -ENOMEM;
		goto out;
	}
	while (n < (size_t)st.st_size) {
		ssize_t got = read(fd, text + n, (size_t)st.st_size - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	r = config_parse(config, path, text, n, ret_error);
out:
	if (r == -ENOMEM)
		snprintf(ret_error, CONFIG_ERROR_MAX, "%s: out of memory", path);
	free(text);
	if (fd >= 0)
		close(fd);
	return r;
}

static int config_is_dropin(const struct dirent *entry)
{
	size_t n = strlen(entry->d_name);

	return entry->d_name[0] != '.' && n > 5 && !strcmp(entry->d_name + n - 5, ".conf");
}

int config_load(struct config *config, const char *path, char *ret_error)
{
	char directory[CONFIG_PATH_MAX], file[CONFIG_PATH_MAX * 2];
	struct dirent **entries;
	int n, r = config_load_file(config, path, ret_error);

	if (r < 0)
		return r;
	if (snprintf(directory, sizeof(directory), "%s.d", path) >= (int)sizeof(directory)) {
		snprintf(ret_error, CONFIG_ERROR_MAX, "%.200s...: path too long", path);
		return -ENAMETOOLONG;
	}
	n = scandir(directory, &entries, config_is_dropin, alphasort);
	if (n < 0)
		return 0; /* no drop-ins */
	for (int i = 0; i < n; i++) {
		if (r == 0) {
			if (snprintf(file, sizeof(file), "%s/%s", directory, entries[i]->d_name) >=
			    (int)sizeof(file))
				r = -ENAMETOOLONG;
			else
				r = config_load_file(config, file, ret_error);
		}
		free(entries[i]);
	}
	free(entries);
	return r;
}
