/* wire.c - see wire.h.  One table, one function, no state.
 *
 * The table lists what kvd accepts: minimum size, who may send it, where its strings lie.  Names,
 * numbers and descriptors come from proto.def. */
#include "kvd/wire.h"

#include <errno.h>
#include <string.h>

#define WIRE_STRINGS_MAX 3
#define WIRE_GREETING 1u           /* before HELLO */
#define WIRE_CLIENT 2u
#define WIRE_ENGINE 4u

struct wire_rule {
	uint16_t type, size_min;
	uint8_t from;              /* WIRE_* */
	uint8_t n_strings;         /* all of KVD_NAME_MAX bytes */
	uint16_t strings[WIRE_STRINGS_MAX];
};

#define SIZE(message) sizeof(struct kvd_msg_##message)
#define AT(message, field) offsetof(struct kvd_msg_##message, field)
static const struct wire_rule wire_rules[] = {
	{ KVD_M_HELLO, SIZE(hello), WIRE_GREETING, 2, { AT(hello, program), AT(hello, tenant) } },
	{ KVD_M_ATTACH, SIZE(attach), WIRE_ENGINE, 3,
	  { AT(attach, name), AT(attach, model), AT(attach, numerics) } },
	{ KVD_M_CLIENT_GONE, SIZE(client_gone), WIRE_ENGINE, 0, { 0 } },
	{ KVD_M_ENGINE_STATS, SIZE(engine_stats), WIRE_ENGINE, 0, { 0 } },
	{ KVD_M_WEIGHTS_ASK, SIZE(weights), WIRE_ENGINE, 1, { AT(weights, layout) } },
	{ KVD_M_WEIGHTS_OFFER, SIZE(weights), WIRE_ENGINE, 1, { AT(weights, layout) } },
	{ KVD_M_STREAM_OPEN, SIZE(stream_open), WIRE_CLIENT, 3,
	  { AT(stream_open, model), AT(stream_open, engine), AT(stream_open, avoid) } },
	{ KVD_M_STREAM_AGAIN, SIZE(stream_again), WIRE_CLIENT, 1, { AT(stream_again, engine) } },
	{ KVD_M_QUERY, SIZE(query), WIRE_CLIENT | WIRE_ENGINE, 1, { AT(query, argument) } },
	{ KVD_M_STEER, SIZE(steer), WIRE_CLIENT, 1, { AT(steer, argument) } },
	{ KVD_M_RECORD, SIZE(steer), WIRE_CLIENT, 1, { AT(steer, argument) } },
};
#undef AT
#undef SIZE

static uint32_t wire_fds(uint16_t type)
{
	switch (type) {
#define KVD_MSG(name, number, direction, fds, since, text) case number: return fds;
#include "kvd/proto.def"
#undef KVD_MSG
	}
	return 0;
}

const char *wire_name(uint16_t type)
{
	switch (type) {
#define KVD_MSG(name, number, direction, fds, since, text) case number: return #name;
#include "kvd/proto.def"
#undef KVD_MSG
	}
	return "?";
}

bool wire_text_valid(const char *text, size_t max)
{
	size_t n = strnlen(text, max);

	if (n == max)
		return false;
	for (size_t i = 0; i < n; i++)
		if (text[i] < 0x20 || text[i] > 0x7e || text[i] == '"' || text[i] == '\\')
			return false;
	return n == 0 || (text[0] != ' ' && text[n - 1] != ' ');
}

int wire_check(const void *packet, size_t n, uint32_t n_fds, uint32_t role, const char **ret_why)
{
	uint8_t from = role == KVD_ROLE_ENGINE ? WIRE_ENGINE
		     : role == KVD_ROLE_CLIENT ? WIRE_CLIENT : WIRE_GREETING;
	const struct wire_rule *rule = NULL;
	struct kvd_msg m;

	if (n < sizeof(m)) {
		*ret_why = "packet shorter than a message header";
		return -EPROTO;
	}
	memcpy(&m, packet, sizeof(m));
	if (m.size != n) {
		*ret_why = "header and packet disagree on the size";
		return -EPROTO;
	}
	for (size_t i = 0; i < sizeof(wire_rules) / sizeof(wire_rules[0]); i++)
		if (wire_rules[i].type == m.type)
			rule = &wire_rules[i];
	if (!rule) {
		*ret_why = "not a message that kvd takes";
		return -EPROTO;
	}
	if (!(rule->from & from)) {
		*ret_why = from == WIRE_GREETING ? "the first message must be HELLO"
						 : "not a message of this role";
		return -EPROTO;
	}
	if (n < rule->size_min) {
		*ret_why = "message shorter than its type";
		return -EPROTO;
	}
	if (n_fds != wire_fds(m.type)) {
		*ret_why = n_fds ? "descriptors that nobody asked for" : "a descriptor is missing";
		return -EPROTO;
	}
	for (unsigned i = 0; i < rule->n_strings; i++)
		if (!wire_text_valid((const char *)packet + rule->strings[i], KVD_NAME_MAX)) {
			*ret_why = "a string is not terminated or not printable";
			return -EPROTO;
		}
	return 0;
}
