/* config_keys.h - the table of keys and the reader that fills records from lines; config*.c only. */
#ifndef KVD_CONFIG_KEYS_H
#define KVD_CONFIG_KEYS_H

#include "kvd/config.h"

enum config_type {
	CONFIG_TYPE_TEXT, CONFIG_TYPE_PATH, CONFIG_TYPE_CGROUP, /* char[] */
	CONFIG_TYPE_SIZE,                  /* uint64_t */
	CONFIG_TYPE_POWER, CONFIG_TYPE_NUMBER, CONFIG_TYPE_ID, /* uint32_t */
	CONFIG_TYPE_SHARING, CONFIG_TYPE_LEVEL, CONFIG_TYPE_KIND, /* an enum */
	CONFIG_TYPE_BOOL,
	CONFIG_TYPE_TENANTS, CONFIG_TYPE_UIDS, /* lists of struct config */
};

struct config_key {
	const char *name;
	enum config_section section;
	enum config_type type;
	size_t offset, bytes;              /* of the field in its record */
	uint64_t least, most;
	const char *standard;              /* the default, as it would be written */
	bool live;
};
extern const struct config_key config_keys[CONFIG_KEYS];

struct config_header { const char *name; bool named; };
extern const struct config_header config_headers[];

/* One text on its way into one config. */
struct config_reader {
	struct config *config;
	const char *name, *text;
	size_t text_bytes, at;
	struct config_place place;         /* of the line being read */
	char section[KVD_NAME_MAX + 16];   /* "[tenant shop] ", "" in [kvd] */
	bool failed;
	char *error;
};

/* Keep the first error; returns 0, which tells inih that the line is bad. */
__attribute__((format(printf, 2, 3)))
int config_fail(struct config_reader *reader, const char *format, ...);

/* Store a value into its record; 1, or 0 after config_fail(). */
int config_value(struct config_reader *reader, const struct config_key *key, void *record, const char *value);
/* A record with nothing but defaults and its name. */
void config_defaults(enum config_section section, void *record);

#endif
