/* value.c - how numbers, names and states are written.
 *
 * Pure, but for kvctl_json() which writes.  Names come from other users' programs by way of kvd:
 * nothing in them may reach a terminal as a control sequence. */
#include "client/kvctl/kvctl.h"

#include <string.h>
#include "client/stream_message.h"
#include "kvd/geometry.h"

struct kvctl_text kvctl_size(uint64_t bytes)
{
	static const char units[] = "KMGTPE";
	struct kvctl_text text;
	double value = (double)bytes;
	int unit = -1;

	while (value >= 1024.0 && unit < 5) {
		value /= 1024.0;
		unit++;
	}
	if (unit < 0)
		snprintf(text.s, sizeof(text.s), bytes == 0 ? "0" : "%lluB",
			 (unsigned long long)bytes);
	else
		snprintf(text.s, sizeof(text.s), "%.1f%c", value, units[unit]);
	return text;
}

struct kvctl_text kvctl_duration(uint64_t usec)
{
	struct kvctl_text text;
	unsigned long long seconds = usec / 1000000u;

	if (usec < 1000000u)
		snprintf(text.s, sizeof(text.s), "%llums", (unsigned long long)usec / 1000u);
	else if (seconds < 60)
		snprintf(text.s, sizeof(text.s), "%.1fs", (double)usec / 1e6);
	else if (seconds < 3600)
		snprintf(text.s, sizeof(text.s), "%llum%02llus", seconds / 60, seconds % 60);
	else if (seconds < 86400)
		snprintf(text.s, sizeof(text.s), "%lluh%02llum", seconds / 3600, seconds / 60 % 60);
	else
		snprintf(text.s, sizeof(text.s), "%llud%02lluh", seconds / 86400,
			 seconds / 3600 % 24);
	return text;
}

struct kvctl_name kvctl_printable(const char *field, size_t max)
{
	struct kvctl_name name;
	size_t n = strnlen(field, max < sizeof(name.s) ? max : sizeof(name.s) - 1);
	bool valid = kvd_utf8_is_valid(field, n);

	memcpy(name.s, field, n);
	name.s[n] = '\0';
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)name.s[i];
		if (c < 0x20 || c == 0x7f || (c >= 0x80 && !valid))
			name.s[i] = '?';
		/* 0xc2 and one below 0xa0 are the C1 control characters, which terminals obey. */
		if (valid && c == 0xc2 && (unsigned char)field[i + 1] < 0xa0)
			name.s[i] = name.s[i + 1] = '?';
	}
	return name;
}

static const char *name_of(const char *const *names, uint32_t n, uint32_t i)
{
	return i < n ? names[i] : "unknown";
}

const char *kvctl_frame_state(uint32_t state)
{
	static const char *const names[KVD_FRAME_STATES] = {
		"free", "open", "sealed", "cool", "filling", "retiring", "quarantined",
	};
	return name_of(names, KVD_FRAME_STATES, state);
}

const char *kvctl_extent_state(uint32_t state)
{
	static const char *const names[KVD_EXTENT_STATES] = { "bare", "unassigned", "assigned",
							      "leaving", "scrub" };
	return name_of(names, KVD_EXTENT_STATES, state);
}

const char *kvctl_sequence_state(uint32_t state)
{
	static const char *const names[] = { "empty", "waiting", "running", "parked", "preempted" };
	return name_of(names, 5, state);
}

const char *kvctl_engine_state(uint32_t state)
{
	static const char *const names[] = { "ready", "draining", "dead" };
	return name_of(names, 3, state);
}

const char *kvctl_kv_format(uint32_t format)
{
	return format == KVD_FORMAT_BF16 ? "bf16" : "unknown";
}

int kvctl_json(const struct kvctl_view *v, json_t *value)
{
	if (!value) {
		fprintf(stderr, "kvctl: not enough memory for the answer\n");
		return 1;
	}
	int r = json_dumpf(value, v->out,
			   JSON_REAL_PRECISION(12) | (v->pretty ? JSON_INDENT(2) : JSON_COMPACT));
	json_decref(value);
	fputc('\n', v->out);
	return r == 0 ? 0 : 1;
}

struct kvctl_text kvctl_prefix(uint64_t id)
{
	struct kvctl_text text;
	snprintf(text.s, sizeof(text.s), "%08x-%x", (unsigned)(id >> 32), (unsigned)id);
	return text;
}

/* Hexadecimal digits, one to eight of them; NULL: none there. */
static const char *take_hex(const char *text, uint32_t *ret)
{
	unsigned n = 0;
	*ret = 0;
	for (; n < 8; n++, text++) {
		char c = *text;
		unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0')
			       : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a') + 10 : 16;
		if (digit == 16)
			break;
		*ret = *ret << 4 | digit;
	}
	return n ? text : NULL;
}

bool kvctl_prefix_parse(const char *text, uint64_t *ret_id)
{
	uint32_t hash, node;
	text = take_hex(text, &hash);
	if (!text || *text++ != '-')
		return false;
	text = take_hex(text, &node);
	*ret_id = (uint64_t)hash << 32 | node;
	return text && !*text && node;
}

bool kvctl_size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	uint64_t value = 0;
	unsigned shift = 0;
	if (*text < '0' || *text > '9')
		return false;
	for (; *text >= '0' && *text <= '9'; text++) {
		if (value > 1ull << 56)
			return false;
		value = value * 10 + (unsigned)(*text - '0');
	}
	for (unsigned i = 0; units[i]; i++)
		if (*text == units[i] || *text == units[i] + ('a' - 'A'))
			shift = 10 * (i + 1);
	text += shift != 0;
	if (*text || value > 1ull << (60 - shift))
		return false;
	*ret_bytes = value << shift;
	return true;
}
