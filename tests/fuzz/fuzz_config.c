/* fuzz_config.c - the text of a configuration file; the same bytes as the text of /proc/PID/cgroup. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/config.h"
#include "kvd/identity.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void changed(void *arg, const char *section, const char *key)
{
	assert(!"a configuration differs from itself");
}

static void fuzz_cgroup(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), path[CONFIG_PATH_MAX];

	memcpy(text, data, size);
	text[size] = '\0';
	if (identity_parse_cgroup(text, path) == 0)
		assert(path[0] == '/' && strlen(path) < sizeof(path));
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config config, running;
	char error[CONFIG_ERROR_MAX] = "", *text;

	if (size > LIMIT_CONFIG_FILE_BYTES)
		return 0;
	text = malloc(size ? size : 1); /* exact: no NUL behind it */
	memcpy(text, data, size);
	config_init(&config);
	if (config_parse(&config, "fuzz", text, size, error) < 0) {
		assert(!strncmp(error, "fuzz:", 5) && strlen(error) < CONFIG_ERROR_MAX);
	} else if (config_check(&config, error) < 0) {
		assert(*error);
	} else {
		uint64_t min_bytes = 0;

		for (uint32_t i = 0; i < config.n_tenants; i++) {
			const struct config_tenant *t = &config.tenants[i];
			uint64_t high_bytes = config_high_bytes(t);

			min_bytes += t->min_bytes;
			assert(!t->max_bytes || (high_bytes < t->max_bytes && t->min_bytes < t->max_bytes));
			assert(!high_bytes || config_low_bytes(t) <= high_bytes);
			assert(!t->cgroup[0] || config_of_cgroup(&config, t->cgroup) == t);
		}
		assert(!config.pool_bytes || min_bytes <= config.pool_bytes);
	}
	assert(config.n_tiers <= LIMIT_CONFIG_TIERS && config.n_files == 1);
	assert(config.n_tenants <= LIMIT_CONFIG_TENANTS &&
	       config.n_domains <= LIMIT_CONFIG_DOMAINS);
	assert(config.n_members <= LIMIT_CONFIG_MEMBERS && config.n_delegates <= LIMIT_CONFIG_UIDS);
	for (uint32_t i = 0; i < config.n_tenants; i++)
		assert(config_name_valid(config.tenants[i].name));
	for (uint32_t i = 0; i < config.n_domains; i++)
		assert(config_name_valid(config.domains[i].name));
	for (uint32_t i = 0; i < config.n_members; i++)
		assert(config.members[i].domain < config.n_domains &&
		       config_name_valid(config.members[i].tenant));
	/* What a reload does: the next file against the running one. */
	memcpy(&running, &config, sizeof(running));
	config_keep_start(&config, &running, changed, NULL);
	fuzz_cgroup(data, size);
	free(text);
	return 0;
}
