/* fuzz_config.c - the text of a configuration file. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kvd/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config config;
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
	}
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
	free(text);
	return 0;
}
