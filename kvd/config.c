/* config.c - the configuration file and its drop-ins, read through inih.
 *
 * The text is read whole into one static buffer and handed to inih line by line by our own reader, so
 * that every error knows its line and a line longer than inih's buffer is refused instead of cut.  A
 * reload happens while the daemon serves: nothing here allocates but inih, which takes its buffer of
 * 200 bytes from the heap and gives it back; when it gets none the file is refused.  Start and loop
 * thread only. */
#include "kvd/config.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvd/config_keys.h"

#define CONFIG_LINE_MAX 190 /* inih reads into 200 bytes */

void config_init(struct config *config)
{
	memset(config, 0, sizeof(*config));
	config_defaults(CONFIG_KVD, config);
	config_defaults(CONFIG_TENANT, &config->stranger);
}

int config_fail(struct config_reader *reader, const char *format, ...)
{
	va_list args;
	int n;

	if (reader->failed)
		return 0;
	reader->failed = true;
	n = snprintf(reader->error, CONFIG_ERROR_MAX, "%.250s:%u: ", reader->name, reader->place.line);
	if (n < 0 || n >= CONFIG_ERROR_MAX)
		return 0;
	va_start(args, format);
	vsnprintf(reader->error + n, CONFIG_ERROR_MAX - (size_t)n, format, args);
	va_end(args);
	return 0;
}

/* inih's reader: like fgets() over the text.  An overlong or binary line becomes an error. */
static char *read_line(char *ret, int max, void *arg)
{
	struct config_reader *reader = arg;
	const char *start = reader->text + reader->at;
	size_t left = reader->text_bytes - reader->at, n;
	const char *end;

	if (!left || reader->failed)
		return NULL;
	reader->place.line++;
	end = memchr(start, '\n', left);
	n = end ? (size_t)(end - start) + 1 : left;
	if (n > CONFIG_LINE_MAX || (int)n >= max) {
		config_fail(reader, "line of %zu bytes; at most %d are allowed, repeat the key instead", n,
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

/* ---- which record a line belongs to ---- */

/* The named record of a table, made with its defaults if it is new; NULL after config_fail(). */
static void *find_or_make(struct config_reader *reader, enum config_section section, const char *name)
{
	struct config *config = reader->config;
	const struct { char *table; size_t bytes, section; uint32_t *n, max; const char *what;
	} tables[] = {
		[CONFIG_DOMAIN] = {(char *)config->domains, sizeof(config->domains[0]),
				   offsetof(struct config_domain, section), &config->n_domains,
				   LIMIT_CONFIG_DOMAINS, "domain"},
		[CONFIG_TENANT] = {(char *)config->tenants, sizeof(config->tenants[0]),
				   offsetof(struct config_tenant, section), &config->n_tenants,
				   LIMIT_CONFIG_TENANTS, "tenant"},
		[CONFIG_TIER] = {(char *)config->tiers, sizeof(config->tiers[0]),
				 offsetof(struct config_tier, section), &config->n_tiers,
				 LIMIT_CONFIG_TIERS, "tier"},
	};
	char *record;

	/* Every named record begins with its name. */
	_Static_assert(!offsetof(struct config_domain, name) && !offsetof(struct config_tenant, name) &&
			       !offsetof(struct config_tier, name),
		       "name first");
	for (uint32_t i = 0; i < *tables[section].n; i++)
		if (!strcmp(tables[section].table + i * tables[section].bytes, name))
			return tables[section].table + i * tables[section].bytes;
	if (!config_name_valid(name)) {
		config_fail(reader, "`%s` is not a %s name; use letters, digits and . _ - @ +", name,
			    tables[section].what);
		return NULL;
	}
	if (*tables[section].n == tables[section].max) {
		config_fail(reader, "more than %u %ss; at most that many are allowed", tables[section].max,
			    tables[section].what);
		return NULL;
	}
	record = tables[section].table + (*tables[section].n)++ * tables[section].bytes;
	memset(record, 0, tables[section].bytes);
	strcpy(record, name);
	config_defaults(section, record);
	memcpy(record + tables[section].section, &reader->place, sizeof(reader->place));
	return record;
}

static struct config_place *places_of(struct config *config, enum config_section section, void *record)
{
	switch (section) {
	case CONFIG_DOMAIN: return ((struct config_domain *)record)->places;
	case CONFIG_TENANT: return ((struct config_tenant *)record)->places;
	case CONFIG_TIER: return ((struct config_tier *)record)->places;
	case CONFIG_KVD:
	case CONFIG_DELEGATE:
	case CONFIG_ENGINE: break;
	}
	return config->places;
}

static int unknown_section(struct config_reader *reader, const char *section, const char *key)
{
	char known[160];
	size_t n = 0;

	if (!*section)
		return config_fail(reader, "`%s` stands before the first section; write [kvd] above it", key);
	for (unsigned i = 0; i <= CONFIG_TIER; i++)
		n += (size_t)snprintf(known + n, sizeof(known) - n, " [%s]", config_headers[i].name);
	assert(n < sizeof(known));
	return config_fail(reader, "unknown section [%s]; known:%s", section, known);
}

static int unknown_key(struct config_reader *reader, enum config_section section, const char *name)
{
	char known[256];
	size_t n = 0;

	for (unsigned i = 0; i < CONFIG_KEYS; i++)
		if (config_keys[i].section == section)
			n += (size_t)snprintf(known + n, sizeof(known) - n, " %s", config_keys[i].name);
	assert(n < sizeof(known));
	if (config_headers[section].named)
		return config_fail(reader, "%shas no key `%s`; known:%s", reader->section, name, known);
	return config_fail(reader, "[%s] has no key `%s`; known:%s", config_headers[section].name, name, known);
}

/* The section a header names: "tenant shop" is CONFIG_TENANT and "shop".  CONFIG_TIER + 1: none. */
static unsigned section_of(const char *header, const char **ret_name)
{
	for (unsigned i = 0; i <= CONFIG_TIER; i++) {
		const char *name = config_headers[i].name;
		size_t n = strcspn(name, " ");

		if (config_headers[i].named ? strncmp(header, name, n + 1) != 0 : strcmp(header, name) != 0)
			continue;
		*ret_name = header + n + strspn(header + n, " ");
		return i;
	}
	return CONFIG_TIER + 1;
}

static int handle_line(void *arg, const char *header, const char *name, const char *value)
{
	struct config_reader *reader = arg;
	const char *record_name = "";
	unsigned section = section_of(header, &record_name);
	void *record = reader->config;

	if (reader->failed)
		return 0;
	if (section > CONFIG_TIER)
		return unknown_section(reader, header, name);
	reader->section[0] = '\0';
	if (config_headers[section].named) {
		record = find_or_make(reader, section, record_name);
		if (!record)
			return 0;
	}
	if (section != CONFIG_KVD)
		snprintf(reader->section, sizeof(reader->section), "[%s] ", header);
	for (unsigned i = 0; i < CONFIG_KEYS; i++) {
		const struct config_key *key = &config_keys[i];

		if (key->section != section || strcmp(key->name, name))
			continue;
		places_of(reader->config, section, record)[i] = reader->place;
		return config_value(reader, key, record, value ? value : "");
	}
	return unknown_key(reader, section, name);
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
	int r;

	if (config->n_files == LIMIT_CONFIG_FILES) {
		config_fail(&reader, "more than %u files; join some", LIMIT_CONFIG_FILES);
		return -EINVAL;
	}
	reader.place.file = (uint16_t)config->n_files;
	snprintf(config->files[config->n_files++], CONFIG_PATH_MAX, "%s", name);
	r = ini_parse_stream(read_line, &reader, handle_line, &reader);
	if (reader.failed)
		return -EINVAL;
	if (r == -2) {
		config_fail(&reader, "out of memory");
		return -ENOMEM;
	}
	if (r != 0) { /* inih's own: a line that is neither [section] nor key = value */
		reader.place.line = r > 0 ? (uint32_t)r : 0;
		config_fail(&reader, "neither [section] nor key = value");
		return -EINVAL;
	}
	return 0;
}

/* ---- files ---- */

static char file_text[LIMIT_CONFIG_FILE_BYTES];

/* Reads and parses one file. */
static int load_file(struct config *config, const char *path, char *ret_error)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	size_t n = 0;
	struct stat st;
	int r = -EINVAL;

	if (fd < 0 || fstat(fd, &st) < 0) {
		r = -errno;
		snprintf(ret_error, CONFIG_ERROR_MAX, "%.250s: cannot be read: %s", path, strerror(errno));
		goto out;
	}
	if (!S_ISREG(st.st_mode) || st.st_size > LIMIT_CONFIG_FILE_BYTES) {
		snprintf(ret_error, CONFIG_ERROR_MAX, "%.250s: not a regular file of at most %u bytes", path,
			 LIMIT_CONFIG_FILE_BYTES);
		goto out;
	}
	while (n < sizeof(file_text)) {
		ssize_t got = read(fd, file_text + n, sizeof(file_text) - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			r = -errno;
			snprintf(ret_error, CONFIG_ERROR_MAX, "%.250s: cannot be read: %s", path, strerror(errno));
			goto out;
		}
		if (got == 0)
			break;
		n += (size_t)got;
	}
	r = config_parse(config, path, file_text, n, ret_error);
out:
	if (fd >= 0)
		close(fd);
	return r;
}

static bool is_dropin(const char *name)
{
	size_t n = strlen(name);

	return name[0] != '.' && n > 5 && !strcmp(name + n - 5, ".conf");
}

/* Put a name into the sorted list.  By hand: qsort() allocates. */
static void insert_name(char names[][CONFIG_PATH_MAX], int n, const char *name)
{
	int at = n;

	for (; at > 0 && strcmp(names[at - 1], name) > 0; at--)
		memcpy(names[at], names[at - 1], CONFIG_PATH_MAX);
	snprintf(names[at], CONFIG_PATH_MAX, "%s", name);
}

/* Names of a directory's drop-ins, sorted.  By the system call: opendir() allocates.
 * Returns how many, or -E2BIG; a directory that is not there has none. */
static int list_dropins(const char *directory, char names[LIMIT_CONFIG_FILES][CONFIG_PATH_MAX])
{
	struct record { uint64_t inode; int64_t next; uint16_t bytes; uint8_t type; char name[]; }; /* of the kernel */
	static _Alignas(8) char buffer[8192];
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0;
	long got;

	if (fd < 0)
		return 0;
	while ((got = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0)
		for (long at = 0; at < got;) {
			const struct record *record = (const struct record *)(buffer + at);

			at += record->bytes;
			if (!is_dropin(record->name))
				continue;
			if (n == (int)LIMIT_CONFIG_FILES) {
				close(fd);
				return -E2BIG;
			}
			insert_name(names, n++, record->name);
		}
	close(fd);
	return n;
}

int config_load(struct config *config, const char *path, char *ret_error)
{
	static char names[LIMIT_CONFIG_FILES][CONFIG_PATH_MAX];
	char directory[CONFIG_PATH_MAX], file[CONFIG_PATH_MAX];
	int n, r = load_file(config, path, ret_error);

	if (r < 0)
		return r;
	if (snprintf(directory, sizeof(directory), "%s.d", path) >= (int)sizeof(directory)) {
		snprintf(ret_error, CONFIG_ERROR_MAX, "%.200s...: path too long; choose a shorter one", path);
		return -ENAMETOOLONG;
	}
	n = list_dropins(directory, names);
	if (n < 0) {
		snprintf(ret_error, CONFIG_ERROR_MAX, "%s: more than %u files; join some", directory,
			 LIMIT_CONFIG_FILES);
		return n;
	}
	for (int i = 0; i < n && r == 0; i++) {
		if (snprintf(file, sizeof(file), "%s/%s", directory, names[i]) >= (int)sizeof(file)) {
			snprintf(ret_error, CONFIG_ERROR_MAX, "%.200s/%.60s...: path too long; choose a shorter one",
				 directory, names[i]);
			return -ENAMETOOLONG;
		}
		r = load_file(config, file, ret_error);
	}
	return r;
}
