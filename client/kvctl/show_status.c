/* show_status.c - `kvctl status`, `whoami` and `fsck`.
 *
 * Whoever is no administrator is told whether kvd is well and no numbers that depend on others. */
#include "client/kvctl/kvctl.h"

/* A number that only administrators see. */
static json_t *admin_number(bool admin, uint64_t value)
{
	return admin ? json_integer((json_int_t)value) : json_null();
}

/* In percent, as the kernel's PSI; the row has hundredths. */
static json_t *admin_percent(bool admin, uint32_t hundredths)
{
	return admin ? json_real((double)hundredths / 100) : json_null();
}

static uint64_t saved_bytes(const struct kvd_row_status *s)
{
	return s->logical_bytes > s->physical_bytes ? s->logical_bytes - s->physical_bytes : 0;
}

static int status_json(const struct kvctl_view *v, const struct kvd_row_status *s, bool admin)
{
	json_t *bytes = json_object(), *frames = json_object();
	for (uint32_t i = 0; i < KVD_FRAME_STATES; i++) {
		json_object_set_new(bytes, kvctl_frame_state(i),
				    admin_number(admin, s->frame_bytes[i]));
		json_object_set_new(frames, kvctl_frame_state(i),
				    admin_number(admin, s->frames[i]));
	}
	/* null is "not for you", 0 is a fact. */
	json_t *root = json_pack(
		"{s:o, s:I, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
		"version", kvctl_json_name(s->version), "pid", (json_int_t)s->kvd_pid, "device",
		kvctl_json_name(s->device), "pool_bytes", (json_int_t)s->pool_bytes, "extent_bytes",
		(json_int_t)s->extent_bytes, "frame_states", bytes, "frames", frames,
		"spilled_pages", admin_number(admin, s->spilled_pages), "lost_pages",
		admin_number(admin, s->lost_pages), "tail_bytes",
		admin_number(admin, s->tail_bytes), "unassigned_bytes",
		admin_number(admin, s->unassigned_bytes), "scrub_bytes",
		admin_number(admin, s->scrub_bytes), "logical_bytes",
		admin_number(admin, s->logical_bytes), "physical_bytes",
		admin_number(admin, s->physical_bytes), "saved_bytes",
		admin_number(admin, saved_bytes(s)));
	json_object_set_new(root, "gpu", kvctl_gpu_json(s->device_bus));
	json_t *more = json_pack(
		"{s:o, s:o, s:o, s:f, s:b, s:{s:o, s:o}, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
		"engines", admin_number(admin, s->engines), "tenants",
		admin_number(admin, s->tenants), "sequences", admin_number(admin, s->sequences),
		"uptime_s", (double)s->uptime_usec / 1e6, "adopted", s->adopted != 0, "pressure",
		"some_avg10", admin_percent(admin, s->some_avg10), "full_avg10",
		admin_percent(admin, s->full_avg10), "healthy", s->healthy != 0, "peak_logical_bytes",
		admin_number(admin, s->peak_logical_bytes), "peak_physical_bytes",
		admin_number(admin, s->peak_physical_bytes), "merges",
		admin_number(admin, s->merges), "merge_mismatches",
		admin_number(admin, s->merge_mismatches), "promotions",
		admin_number(admin, s->promotions), "single_flight_waits",
		admin_number(admin, s->single_flight_waits), "preemptions",
		admin_number(admin, s->preemptions), "evicted_pages",
		admin_number(admin, s->evicted_pages), "peers_closed",
		admin_number(admin, s->peers_closed));
	json_t *spill = json_pack("{s:o, s:o, s:o, s:o}", "spill_bytes", admin_number(admin, s->spill_bytes),
				  "spill_slots_used", admin_number(admin, s->spill_slots_used), "spill_writes",
				  admin_number(admin, s->spill_writes), "spill_reads",
				  admin_number(admin, s->spill_reads));
	if (more && spill)
		json_object_update(more, spill);
	json_decref(spill);
	if (root && more)
		json_object_update(root, more);
	json_decref(more);
	return kvctl_json(v, root);
}

static void status_bytes_line(const struct kvctl_view *v, const char *label, uint64_t bytes,
			      uint64_t pool_bytes, uint64_t frames, const char *note)
{
	fprintf(v->out, "  %-12s %8s  %5.1f%%", label, kvctl_size(bytes).s,
		pool_bytes ? 100.0 * (double)bytes / (double)pool_bytes : 0.0);
	if (frames)
		fprintf(v->out, "  %8llu pages", (unsigned long long)frames);
	fprintf(v->out, "%s%s\n", *note ? "  " : "", note);
}

static void status_table(const struct kvctl_view *v, const struct kvd_row_status *s)
{
	static const char *const notes[KVD_FRAME_STATES] = {
		"",
		"being written",
		"held by sequences",
		"held by nobody, still found",
		"targets of copies",
		"wait for a step to end",
		"of dead engines",
	};
	uint64_t counted = s->tail_bytes + s->unassigned_bytes + s->scrub_bytes;

	fprintf(v->out, "pool %s in extents of %s\n", kvctl_size(s->pool_bytes).s,
		kvctl_size(s->extent_bytes).s);
	for (uint32_t i = 0; i < KVD_FRAME_STATES; i++) {
		status_bytes_line(v, kvctl_frame_state(i), s->frame_bytes[i], s->pool_bytes,
				  s->frames[i], notes[i]);
		counted += s->frame_bytes[i];
	}
	status_bytes_line(v, "tails", s->tail_bytes, s->pool_bytes, 0,
			  "ends of extents that hold no page");
	status_bytes_line(v, "unassigned", s->unassigned_bytes, s->pool_bytes, 0,
			  "extents of no engine");
	status_bytes_line(v, "scrub", s->scrub_bytes, s->pool_bytes, 0,
			  "extents on their way to another use");
	if (counted != s->pool_bytes)
		fprintf(v->out, "  NOT ACCOUNTED FOR: %lld bytes; run `kvctl fsck`\n",
			(long long)(s->pool_bytes - counted));
	fprintf(v->out, "logical %s, physical %s: sharing saves %s", kvctl_size(s->logical_bytes).s,
		kvctl_size(s->physical_bytes).s, kvctl_size(saved_bytes(s)).s);
	if (s->peak_physical_bytes)
		fprintf(v->out, " (at most %.1f times: %s in %s)",
			(double)s->peak_logical_bytes / (double)s->peak_physical_bytes,
			kvctl_size(s->peak_logical_bytes).s, kvctl_size(s->peak_physical_bytes).s);
	fprintf(v->out, "\n%u engine%s, %u tenant%s, %u sequence%s\n", s->engines,
		s->engines == 1 ? "" : "s", s->tenants, s->tenants == 1 ? "" : "s", s->sequences,
		s->sequences == 1 ? "" : "s");
	fprintf(v->out,
		"since start: %llu pages merged, %llu shared between engines, %llu waits for "
		"another's prefill, "
		"%llu preemptions, %llu evicted pages, %llu peers closed\n",
		(unsigned long long)s->merges, (unsigned long long)s->promotions,
		(unsigned long long)s->single_flight_waits, (unsigned long long)s->preemptions,
		(unsigned long long)s->evicted_pages, (unsigned long long)s->peers_closed);
	fprintf(v->out,
		"pressure: some %u.%02u %u.%02u %u.%02u, full %u.%02u %u.%02u %u.%02u (10, 60, 300 "
		"s)\n",
		s->some_avg10 / 100, s->some_avg10 % 100, s->some_avg60 / 100, s->some_avg60 % 100,
		s->some_avg300 / 100, s->some_avg300 % 100, s->full_avg10 / 100,
		s->full_avg10 % 100, s->full_avg60 / 100, s->full_avg60 % 100, s->full_avg300 / 100,
		s->full_avg300 % 100);
	if (s->spill_bytes)
		fprintf(v->out,
			"spill %s: %llu pages on disk alone, %llu records; since start: %llu written, %llu read, "
			"%llu lost\n",
			kvctl_size(s->spill_bytes).s, (unsigned long long)s->spilled_pages,
			(unsigned long long)s->spill_slots_used, (unsigned long long)s->spill_writes,
			(unsigned long long)s->spill_reads, (unsigned long long)s->lost_pages);
	if (s->lost_pages)
		fprintf(v->out, "ALARM: the spill device did not give back what was written; see kvd's log\n");
	if (s->merge_mismatches)
		fprintf(v->out,
			"ALARM: %llu pages of equal tokens had different bytes and were not "
			"merged; see kvd's log\n",
			(unsigned long long)s->merge_mismatches);
}

int kvctl_show_status(const struct kvctl_view *v, const struct kvd_msg_welcome *welcome,
		      const struct kvctl_rows *status)
{
	if (status->n < 1) {
		fprintf(stderr, "kvctl: kvd answered without a row; see its log\n");
		return 1;
	}
	const struct kvd_row_status *s = kvctl_row(status, 0);
	if (v->json)
		return status_json(v, s, welcome->admin != 0);
	fprintf(v->out, "kvd %s  pid %u  device %s  up %s  %s\n", kvctl_name(s->version).s,
		s->kvd_pid, kvctl_name(s->device).s, kvctl_duration(s->uptime_usec).s,
		s->healthy ? "healthy" : "NOT HEALTHY: see its log");
	kvctl_gpu_line(v, s->device_bus);
	if (welcome->admin)
		status_table(v, s);
	return 0;
}

int kvctl_show_whoami(const struct kvctl_view *v, const struct kvd_msg_welcome *w)
{
	if (v->json)
		return kvctl_json(v, json_pack("{s:I, s:I, s:I, s:o, s:o, s:b, s:o, s:i, s:o}", "uid",
					       (json_int_t)w->uid, "gid", (json_int_t)w->gid, "pid",
					       (json_int_t)w->pid, "tenant",
					       kvctl_json_name(w->tenant), "domain",
					       kvctl_json_name(w->domain), "admin", w->admin != 0,
					       "kvd_version", kvctl_json_name(w->kvd_version),
					       "protocol", (int)w->version, "decided_by",
					       kvctl_json_name(w->decided_by)));
	fprintf(v->out, "uid %u  gid %u  pid %u\ntenant %s  domain %s  decided by %s\n%s\n", w->uid, w->gid,
		w->pid, kvctl_name(w->tenant).s, kvctl_name(w->domain).s,
		w->decided_by[0] ? kvctl_name(w->decided_by).s : "this kvd does not say",
		w->admin ? "administrator: reads everything"
			 : "no administrator: sees the rows of this tenant (group kvadm sees all)");
	return 0;
}

int kvctl_show_fsck(const struct kvctl_view *v, const struct kvctl_rows *rows)
{
	uint64_t checked_pages = 0, n_problems = 0;
	json_t *problems = json_array();

	for (uint64_t i = 0; i < rows->n; i++) {
		const struct kvd_row_fsck *row = kvctl_row(rows, i);
		checked_pages = row->checked_pages;
		if (row->problem[0] == '\0')
			continue;
		n_problems++;
		json_array_append_new(problems, kvctl_json_name(row->problem));
		if (!v->json)
			fprintf(v->out, "problem: %s\n", kvctl_name(row->problem).s);
	}
	/* No row at all is no answer, and no answer is not "clean". */
	bool ok = n_problems == 0 && rows->n > 0;
	if (v->json) {
		int r = kvctl_json(v, json_pack("{s:b, s:I, s:o}", "ok", ok, "checked_pages",
						(json_int_t)checked_pages, "problems", problems));
		return r != 0 ? r : !ok;
	}
	json_decref(problems);
	if (rows->n == 0)
		fprintf(stderr, "kvctl: kvd answered without a row; see its log\n");
	else
		fprintf(v->out, "%llu pages checked, %s\n", (unsigned long long)checked_pages,
			ok ? "clean" : "NOT clean: please report the lines above");
	return !ok;
}
