/* config_keys.c - what a value looks like: one function per type of config.def, and its table.
 *
 * A default is read by the same functions as a line, so that the manual cannot differ from the
 * program.  Writes into the record it is given and, for lists, into struct config; nothing else. */
#include "kvd/config_keys.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define RECORD_KVD struct config
#define RECORD_DOMAIN struct config_domain
#define RECORD_TENANT struct config_tenant
#define RECORD_DELEGATE struct config
#define RECORD_ENGINE struct config
#define RECORD_TIER struct config_tier
#define IS_LIVE_LIVE true
#define IS_LIVE_START false

const struct config_key config_keys[CONFIG_KEYS] = {
#define KVD_SECTION(section, header, named, text)
#define KVD_KEY(section_, key, type_, field, least_, most_, standard_, when, text) \
	[CONFIG_##section_##_##field] = { \
		.name = key, .section = CONFIG_##section_, .type = CONFIG_TYPE_##type_, \
		.offset = offsetof(RECORD_##section_, field), \
		.bytes = sizeof(((RECORD_##section_ *)0)->field), \
		.least = least_, .most = most_, .standard = standard_, .live = IS_LIVE_##when },
#include "kvd/config.def"
#undef KVD_KEY
#undef KVD_SECTION
};

const struct config_header config_headers[] = {
#define KVD_SECTION(section, header, named_, text) [CONFIG_##section] = { .name = header, .named = named_ },
#define KVD_KEY(section, key, type, field, least, most, standard, when, text)
#include "kvd/config.def"
#undef KVD_KEY
#undef KVD_SECTION
};

static int store_text(struct config_reader *reader, const struct config_key *key, char *ret, const char *value)
{
	size_t n = strlen(value);

	if (!n || n >= key->bytes)
		return config_fail(reader, "%s%s has %zu bytes; 1 to %zu are allowed", reader->section, key->name, n,
				   key->bytes - 1);
	if (key->type != CONFIG_TYPE_TEXT &&
	    (value[0] != '/' || strstr(value, "//") || strstr(value, "/../") ||
	     (n > 2 && !strcmp(value + n - 3, "/.."))))
		return config_fail(reader, "%s%s = %s is not an absolute path; begin with / and leave out .. and //",
				   reader->section, key->name, value);
	memcpy(ret, value, n + 1);
	/* "/a/" and "/a" are one control group. */
	if (key->type == CONFIG_TYPE_CGROUP && n > 1 && ret[n - 1] == '/')
		ret[n - 1] = '\0';
	return 1;
}

static int store_size(struct config_reader *reader, const struct config_key *key, uint64_t *ret, const char *value)
{
	char least[SIZE_TEXT_MAX], most[SIZE_TEXT_MAX];

	if (size_parse(value, ret) < 0)
		return config_fail(reader, "%s%s = %s is not a size; write for example 512M or 4G", reader->section,
				   key->name, value);
	size_format(key->least, least);
	size_format(key->most, most);
	if (key->type == CONFIG_TYPE_POWER && (*ret < key->least || *ret > key->most || (*ret & (*ret - 1))))
		return config_fail(reader, "%s%s = %s; write a power of two from %s to %s", reader->section, key->name,
				   value, least, most);
	if (*ret < key->least)
		return config_fail(reader, "%s%s = %s; write %s or more", reader->section, key->name, value, least);
	return 1;
}

static int store_power(struct config_reader *reader, const struct config_key *key, uint32_t *ret, const char *value)
{
	uint64_t bytes;

	assert(key->most <= UINT32_MAX);
	if (!store_size(reader, key, &bytes, value))
		return 0;
	*ret = (uint32_t)bytes;
	return 1;
}

static int store_number(struct config_reader *reader, const struct config_key *key, uint32_t *ret, const char *value)
{
	uint64_t number;
	bool digits = *value && strspn(value, "0123456789") == strlen(value);

	if (digits && size_parse(value, &number) == 0 && number >= key->least && number <= key->most) {
		*ret = (uint32_t)number;
		return 1;
	}
	if (key->least == key->most)
		return config_fail(reader, "%s%s = %s; this version knows %llu only", reader->section, key->name, value,
				   (unsigned long long)key->least);
	return config_fail(reader, "%s%s = %s; write a number from %llu to %llu", reader->section, key->name, value,
			   (unsigned long long)key->least, (unsigned long long)key->most);
}

static int store_id(struct config_reader *reader, const struct config_key *key, uint32_t *ret, const char *value)
{
	uint64_t number;

	if (!*value || strspn(value, "0123456789") != strlen(value) || size_parse(value, &number) < 0 ||
	    number >= CONFIG_NO_ID)
		return config_fail(reader, "%s%s = %s is not a number; write the numeric id",
				   reader->section, key->name, value);
	if (number == 65534)
		return config_fail(reader,
				   "%s%s = 65534 is the overflow id, which stands for many users; "
				   "give the user an id of "
				   "its own",
				   reader->section, key->name);
	*ret = (uint32_t)number;
	return 1;
}

/* One of a few words; stores its place in the list. */
static int store_word(struct config_reader *reader, const struct config_key *key, const char *const *words,
		      unsigned n_words, unsigned *ret, const char *value)
{
	char known[64] = "";
	size_t n = 0;

	for (unsigned i = 0; i < n_words; i++) {
		if (!strcmp(value, words[i])) {
			*ret = i;
			return 1;
		}
		n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s",
				      i == 0 ? "" : i + 1 < n_words ? ", " : " or ", words[i]);
		assert(n < sizeof(known));
	}
	return config_fail(reader, "%s%s = %s; write %s", reader->section, key->name, value, known);
}

static int add_member(struct config_reader *reader, struct config_domain *domain, const char *tenant)
{
	struct config *config = reader->config;
	uint32_t number = (uint32_t)(domain - config->domains);
	struct config_member *member;

	if (!config_name_valid(tenant))
		return config_fail(reader, "%s`%s` is not a tenant name; use letters, digits and . _ - @ +",
				   reader->section, tenant);
	for (uint32_t i = 0; i < config->n_members; i++) {
		member = &config->members[i];
		if (strcmp(member->tenant, tenant))
			continue;
		if (member->domain == number)
			return 1;
		return config_fail(reader, "tenant %s is in domain %s already (%s:%u); a tenant belongs to one domain",
				   tenant, config->domains[member->domain].name, config->files[member->place.file],
				   member->place.line);
	}
	if (config->n_members == LIMIT_CONFIG_MEMBERS)
		return config_fail(reader, "more than %u tenants in domains; at most that many are allowed",
				   LIMIT_CONFIG_MEMBERS);
	member = &config->members[config->n_members++];
	strcpy(member->tenant, tenant);
	member->domain = number;
	member->place = reader->place;
	domain->members++;
	return 1;
}

static int store_members(struct config_reader *reader, struct config_domain *domain, const char *value)
{
	char list[256], *save = NULL;

	if (strlen(value) >= sizeof(list))
		return config_fail(reader, "%stenants is too long; repeat the key", reader->section);
	strcpy(list, value);
	for (char *tenant = strtok_r(list, ", \t", &save); tenant; tenant = strtok_r(NULL, ", \t", &save))
		if (!add_member(reader, domain, tenant))
			return 0;
	return 1;
}

static int store_uids(struct config_reader *reader, const struct config_key *key, const char *value)
{
	struct config *config = reader->config;
	uint32_t *list = key->section == CONFIG_DELEGATE ? config->delegates : config->engine_uids;
	uint32_t *n = key->section == CONFIG_DELEGATE ? &config->n_delegates : &config->n_engine_uids, uid;

	if (!store_id(reader, key, &uid, value))
		return 0;
	for (uint32_t i = 0; i < *n; i++)
		if (list[i] == uid)
			return 1;
	if (*n == LIMIT_CONFIG_UIDS)
		return config_fail(reader, "%smore than %u uids; at most that many are allowed", reader->section,
				   LIMIT_CONFIG_UIDS);
	list[(*n)++] = uid;
	return 1;
}

int config_value(struct config_reader *reader, const struct config_key *key, void *record, const char *value)
{
	static const char *const sharing[] = { "private", "merge", "reuse" };
	static const char *const levels[] = { "error", "warn", "info", "debug" };
	static const char *const bools[] = { "no", "yes" };
	static const char *const kinds[] = { "file" };
	void *field = (char *)record + key->offset;
	unsigned word = 0;
	int r = 0;

	_Static_assert(CORE_PRIVATE == 0 && CORE_REUSE == 2 && LOG_LEVEL_ERROR == 0 &&
			       LOG_LEVEL_DEBUG == 3 &&
			       sizeof(enum core_sharing) == sizeof(unsigned) &&
			       sizeof(enum log_level) == sizeof(unsigned) &&
			       sizeof(enum config_tier_kind) == sizeof(unsigned),
		       "words are stored as their place in the list");
	switch (key->type) {
	case CONFIG_TYPE_TEXT:
	case CONFIG_TYPE_PATH:
	case CONFIG_TYPE_CGROUP: return store_text(reader, key, field, value);
	case CONFIG_TYPE_SIZE: return store_size(reader, key, field, value);
	case CONFIG_TYPE_POWER: return store_power(reader, key, field, value);
	case CONFIG_TYPE_NUMBER: return store_number(reader, key, field, value);
	case CONFIG_TYPE_ID: return store_id(reader, key, field, value);
	case CONFIG_TYPE_TENANTS: return store_members(reader, record, value);
	case CONFIG_TYPE_UIDS: return store_uids(reader, key, value);
	case CONFIG_TYPE_SHARING: return store_word(reader, key, sharing, 3, field, value);
	case CONFIG_TYPE_LEVEL: return store_word(reader, key, levels, 4, field, value);
	case CONFIG_TYPE_KIND: return store_word(reader, key, kinds, 1, field, value);
	case CONFIG_TYPE_BOOL:
		r = store_word(reader, key, bools, 2, &word, value);
		if (r)
			*(bool *)field = word;
		return r;
	}
	assert(!"a type without a function");
	return 0;
}

void config_defaults(enum config_section section, void *record)
{
	char error[CONFIG_ERROR_MAX];
	struct config_reader reader = { .name = "config.def", .error = error };

	for (unsigned i = 0; i < CONFIG_KEYS; i++) {
		const struct config_key *key = &config_keys[i];
		int ok = 1;

		if (key->section != section)
			continue;
		if (key->type == CONFIG_TYPE_ID)
			*(uint32_t *)((char *)record + key->offset) = CONFIG_NO_ID;
		else if (*key->standard)
			ok = config_value(&reader, key, record, key->standard);
		assert(ok);
		(void)ok;
	}
}
