/* engine.c - what one engine process owns, in the order it is made, and its loop.
 *
 * Order of making: model, tokenizer, attachment to kvd, weights (another engine's if kvd has them),
 * forward, the arrays; deinit goes backwards and takes a half-made engine.
 *
 * The loop has one thread and one place to sleep (wait.h).  Between two steps it serves everything
 * that came and blocks on nothing; without a sequence to compute it sleeps.  SIGTERM: no new
 * requests, running answers get DRAIN_USEC, what is left is closed without END, whereupon libkvd
 * takes it to another engine.  kvd's end is not ours: see reattach.c. */
#include "engine/engine.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>
#include "engine/log.h"
#include "kvd/kvd.h"

#define TAG_SIGNAL 1u
#define DRAIN_USEC 5000000u
#define STATS_USEC 1000000u
#define EVENTS_A_TURN 64u
#define WEIGHTS_LAYOUT "panels/1"  /* one layout serves every instruction set; see weights.h */

uint64_t engine_now_usec(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* Name clients ask for: words of the model's own name, joined so that no shell needs quotes. */
static void model_name(const struct options *o, const struct model *m, char ret_name[KVD_NAME_MAX])
{
	const char *base = strrchr(o->model, '/') ? strrchr(o->model, '/') + 1 : o->model;
	const char *from = o->served_as ? o->served_as : m->config.name[0] ? m->config.name : base;
	size_t length = strlen(from), n = 0;

	if (from == base && length > 5 && strcmp(from + length - 5, ".gguf") == 0)
		length -= 5;
	for (size_t i = 0; i < length && n < KVD_NAME_MAX - 1; i++) {
		unsigned char c = (unsigned char)from[i];
		if (o->served_as)
			ret_name[n++] = (char)c;
		else if (isalnum(c) || c == '.' || c == '_')
			ret_name[n++] = (char)tolower(c);
		else if (n && ret_name[n - 1] != '-')
			ret_name[n++] = '-';
	}
	while (!o->served_as && n && ret_name[n - 1] == '-')
		n--;
	ret_name[n] = 0;
	if (!n)
		snprintf(ret_name, KVD_NAME_MAX, "model");
}

void engine_take_geometry(struct engine *e)
{
	e->kv.base = kvd_engine_window(e->kvd);
	e->kv.geometry = *kvd_engine_geometry(e->kvd);
}

/* Are kvd's pages memory that our backend computes on? */
static int check_device(struct engine *e, char *err, size_t errlen)
{
	const struct kvd_msg_welcome *w = kvd_engine_welcome(e->kvd);
	bool on_gpu = w->device_kind == KVD_DEVICE_CUDA;

	if (on_gpu == e->backend->on_host) {
		snprintf(err, errlen,
			 on_gpu ? "this kvd's pages are a GPU's memory; start kvengine with --device cuda, or "
				  "another kvd with --device host"
				: "this kvd's pages are this machine's memory; start kvd with --device cuda, "
				  "too, or kvengine without it");
		return -EXDEV;
	}
	e->compute.device_uuid = on_gpu ? w->device_uuid : NULL;
	return 0;
}

static int attach(struct engine *e, const struct options *o, char *err, size_t errlen)
{
	const struct model_config *c = &e->model->config;
	char numerics[32], served[KVD_NAME_MAX], name[KVD_NAME_MAX];
	struct kvd_engine_options k = {
		.socket = o->socket, .program = "kvengine", .name = name, .model = served,
		.numerics = numerics, .layout = e->backend->layout, .kv_format = KVD_FORMAT_BF16,
		.n_planes = c->n_layers, .block_bytes = forward_block_bytes(c),
		.max_seqs = e->n_slots, .max_pages = e->max_pages,
	};
	int r;

	r = e->backend->numerics_id(&e->compute, numerics, err, errlen);
	if (r < 0)
		return r;
	model_name(o, e->model, served);
	if (o->name)
		snprintf(name, sizeof(name), "%s", o->name);
	else
		snprintf(name, sizeof(name), "%.48s-%d", served, (int)getpid());
	memcpy(k.fingerprint, e->model->fingerprint, sizeof(k.fingerprint));
	r = kvd_engine_attach(&k, &e->kvd);
	if (r != 0) {
		snprintf(err, errlen, "%s", e->kvd ? kvd_engine_error(e->kvd) : "out of memory");
		return r;
	}
	if ((kvd_engine_welcome(e->kvd)->device_kind == KVD_DEVICE_HOST) != (e->compute.ordinal < 0)) {
		snprintf(err, errlen, "kvd's pages are on %s, and --device %s computes on another; give --device %s",
			 e->compute.ordinal < 0 ? "a GPU" : "the host", o->device,
			 e->compute.ordinal < 0 ? "cuda" : "host");
		return KVD_S_REFUSED;
	}
	r = check_device(e, err, errlen);
	if (r < 0)
		return r;
	engine_take_geometry(e);
	e->reattach.attached_usec = engine_now_usec();
	e->reattach.kvd_pid = kvd_engine_welcome(e->kvd)->kvd_pid;
	log_info(
		"attached engine=%s number=%u model=%s numerics=%s slots=%u ctx=%u page_bytes=%llu",
		name, kvd_engine_number(e->kvd), served, numerics, e->n_slots, e->n_ctx,
		(unsigned long long)kvd_page_bytes(&e->kv.geometry));
	return 0;
}

/* Map the weights that kvd keeps for this file, if they are sound. */
static bool adopt_weights(struct engine *e)
{
	char err[256] = "";
	struct weights *adopted;
	int fd, r = kvd_engine_weights_ask(e->kvd, WEIGHTS_LAYOUT, &fd);

	if (r != 0)
		return false;
	r = weights_adopt(e->model, fd, &adopted, err, sizeof(err));
	close(fd);
	if (r < 0) {
		log_warning("weights not adopted reason=\"%s\"", err);
		return false;
	}
	weights_free(e->weights);
	e->weights = adopted;
	return true;
}

void engine_offer_weights(struct engine *e)
{
	if (e->weights && weights_fd(e->weights) >= 0 &&
	    kvd_engine_weights_offer(e->kvd, WEIGHTS_LAYOUT, weights_fd(e->weights)) != 0)
		log_warning("weights not offered reason=\"%s\"", kvd_engine_error(e->kvd));
}

/* One laid-out copy per host: another engine's, or ours, offered to the others.  Two engines that
 * start together both lay out; asking again after the offer leaves them with the one kvd kept. */
static int get_weights(struct engine *e, char *err, size_t errlen)
{
	bool adopted = adopt_weights(e);
	uint64_t start_usec = engine_now_usec();

	if (!adopted) {
		int r = weights_build(e->model, true, &e->weights, err, errlen);
		if (r < 0)
			return r;
		engine_offer_weights(e);
		if (weights_fd(e->weights) >= 0)
			(void)adopt_weights(e);
	}
	log_info("weights bytes=%llu shared=%d adopted=%d usec=%llu",
		 (unsigned long long)e->weights->bytes, weights_fd(e->weights) >= 0, adopted,
		 (unsigned long long)(engine_now_usec() - start_usec));
	return 0;
}

static int open_model(struct engine *e, const struct options *o, char *err, size_t errlen)
{
	uint32_t trained;
	int r = model_open(o->model, &e->model, err, errlen);

	if (r < 0)
		return r;
	r = tokenizer_new(e->model->file, &e->tokenizer, err, errlen);
	if (r < 0)
		return r;
	trained = e->model->config.ctx_train;
	if (o->n_ctx > trained) {
		snprintf(err, errlen, "--ctx %u: %s was trained for %u tokens; give at most that",
			 o->n_ctx, o->model, trained);
		return -EINVAL;
	}
	e->n_ctx = o->n_ctx ? o->n_ctx : trained < OPTIONS_CTX_USUAL ? trained : OPTIONS_CTX_USUAL;
	e->max_pages = (e->n_ctx + KVD_PAGE_TOKENS - 1) / KVD_PAGE_TOKENS;
	e->n_slots = o->max_seqs;
	return 0;
}

static int make_loop(struct engine *e, char *err, size_t errlen)
{
	sigset_t set;
	int r = wait_new(&e->wait);

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (r == 0) {
		e->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
		r = e->signal_fd < 0 ? -errno : 0;
	}
	if (r == 0)
		r = wait_add(e->wait, e->signal_fd, TAG_SIGNAL);
	if (r == 0)
		r = reattach_watch(e);
	if (r < 0)
		snprintf(err, errlen, "no event loop: %s", strerror(-r));
	return r;
}

static void set_compute(struct engine *e, const struct options *o)
{
	e->compute.max_rows = e->sched.rows_max;
	e->compute.max_logits = e->compute.max_seqs = e->n_slots;
	e->compute.n_positions = e->max_pages * KVD_PAGE_TOKENS;
	e->compute.n_threads = o->n_threads;
	e->compute.spin_usec = o->spin_usec;
	e->compute.isa = o->isa;
}

static int engine_init(struct engine *e, const struct options *o, char *err, size_t errlen)
{
	uint32_t n_vocab;
	int r = open_model(e, o, err, errlen);

	if (r == 0)
		r = backend_find(o->device, &e->backend, &e->compute.ordinal, err, errlen);
	if (r < 0)
		return r;
	sched_init(&e->sched, o->chunk_tokens, e->n_slots);
	set_compute(e, o);
	n_vocab = e->model->config.n_vocab;
	r = attach(e, o, err, errlen);
	if (r == 0 && e->backend->on_host)
		r = get_weights(e, err, errlen);
	if (r != 0)
		return r;
	e->compute.weights = e->weights;
	r = e->backend->open(e->model, &e->compute, &e->run, err, errlen);
	if (r == 0)
		r = make_loop(e, err, errlen);
	if (r < 0)
		return r;
	e->owners = calloc(e->n_slots, sizeof(*e->owners));
	r = e->owners ? 0 : -ENOMEM;
	if (r == 0)
		r = prompt_init(&e->prompts, e->tokenizer);
	if (r == 0)
		r = sampler_init(&e->sampler, n_vocab);
	if (r == 0)
		r = kvlink_init(&e->link, e->kvd, e->n_slots, e->max_pages, o->chunk_tokens);
	if (r == 0)
		r = serve_init(&e->serve, e->wait, &e->sched, &e->link, &e->prompts, e->n_ctx,
			       n_vocab);
	if (r == 0)
		r = step_room_init(&e->room, e->n_slots, e->max_pages, e->sched.rows_max, n_vocab);
	if (r < 0)
		snprintf(err, errlen,
			 "no memory for %u sequences of %u tokens; lower --max-seqs or --ctx",
			 e->n_slots, e->n_ctx);
	return r;
}

static void engine_deinit(struct engine *e)
{
	step_room_deinit(&e->room);
	serve_deinit(&e->serve);
	kvlink_deinit(&e->link);
	sampler_deinit(&e->sampler);
	prompt_deinit(&e->prompts);
	free(e->owners);
	wait_free(e->wait);
	if (e->kvd_fd >= 0)
		close(e->kvd_fd);
	if (e->signal_fd >= 0)
		close(e->signal_fd);
	if (e->run)
		e->backend->close(e->run);
	weights_free(e->weights);
	kvd_engine_close(e->kvd);
	tokenizer_free(e->tokenizer);
	model_close(e->model);
}

static void take_signals(struct engine *e, uint64_t now_usec)
{
	struct signalfd_siginfo info;
	ssize_t n;

	while ((n = read(e->signal_fd, &info, sizeof(info))) == (ssize_t)sizeof(info)) {
		log_info("draining signal=%u", info.ssi_signo);
		/* a second signal means: now */
		e->drain_usec = e->drain_usec ? now_usec : now_usec + DRAIN_USEC;
		e->draining = true;
	}
	/* A signal that cannot be read is never seen again: obey whatever it was. */
	if (n < 0 && errno != EAGAIN && errno != EINTR && !e->draining) {
		log_error("signals cannot be read: %s; draining", strerror(errno));
		e->drain_usec = now_usec + DRAIN_USEC;
		e->draining = true;
	}
}

/* Once a second, if they changed. */
static int send_stats(struct engine *e, uint64_t now_usec)
{
	const struct serve_counters *c = &e->serve.counters;
	struct kvd_msg_engine_stats m = { .prompt_tokens = c->prompt_tokens,
					  .cached_tokens = c->cached_tokens,
					  .completion_tokens = c->completion_tokens };
	uint64_t since_usec = now_usec - e->stats_usec;
	int r;

	if (since_usec < STATS_USEC)
		return 0;
	serve_count(&e->serve, &m.running, &m.waiting);
	m.tokens_per_s = (uint32_t)((c->completion_tokens - e->stats_sent.completion_tokens) *
				    1000000u / since_usec);
	if (memcmp(c, &e->stats_sent, sizeof(*c)) == 0 && m.running == e->running_sent &&
	    m.waiting == e->waiting_sent && !e->rate_sent)
		return 0;
	r = kvd_engine_stats(e->kvd, &m);
	e->stats_usec = now_usec;
	e->stats_sent = *c;
	e->running_sent = m.running;
	e->waiting_sent = m.waiting;
	e->rate_sent = m.tokens_per_s != 0;
	return r < 0 ? r : 0;
}

/* Everything that kvd wants of us, and we of it, between two steps. */
static void serve_kvd(struct engine *e, uint64_t now_usec)
{
	struct kvd_engine_client client;
	struct kvd_engine_again again;

	kvlink_collect(&e->link, now_usec);
	if (e->link.draining && !e->draining) {
		log_info("draining by=kvd");
		e->draining = true;
	}
	while (kvd_engine_next_client(e->kvd, &client))
		serve_accept(&e->serve, &client, now_usec);
	while (kvd_engine_next_again(e->kvd, &again))
		serve_introduced(&e->serve, &again, now_usec);
}

/* Serve everything that is there; block on nothing.  Returns 0 or -errno: kvd is gone. */
static int serve_all(struct engine *e, const struct wait_event *events, int n_events,
		     bool *ret_more)
{
	uint64_t now_usec = engine_now_usec();
	int r = 0;

	/* All of them, whatever kvd's is: each is told once. */
	for (int i = 0; i < n_events; i++) {
		if (events[i].tag == TAG_SIGNAL)
			take_signals(e, now_usec);
		else if (events[i].tag == e->kvd_tag && !e->reattach.lost && r == 0)
			r = kvd_engine_poll(e->kvd);
		else
			serve_event(&e->serve, &events[i], now_usec);
	}
	if (r != 0)
		return r;
	if (!e->reattach.lost)
		serve_kvd(e, now_usec);
	if (e->draining)
		serve_drain(&e->serve);
	*ret_more = serve_tick(&e->serve, now_usec);
	step_prepare(e, now_usec);
	if (e->reattach.lost)
		return 0;
	r = send_stats(e, now_usec);
	return r < 0 ? r : kvlink_pump(&e->link);
}

/* Sleep until something comes or somebody's time is over. */
static int engine_sleep(struct engine *e, struct wait_event *events)
{
	uint64_t now_usec = engine_now_usec(), next_usec = serve_next_usec(&e->serve);
	uint64_t kvd_usec = reattach_next_usec(e);
	struct kvd_engine_word word = { 0 };
	int n = 0;

	if (kvd_usec < next_usec)
		next_usec = kvd_usec;
	if (e->drain_usec && e->drain_usec < next_usec)
		next_usec = e->drain_usec;
	/* after the last token the numbers of the last second, then the 0, still go to kvd */
	if ((e->serve.n_active || e->rate_sent ||
	     memcmp(&e->serve.counters, &e->stats_sent, sizeof(e->stats_sent)) != 0) &&
	    now_usec + STATS_USEC < next_usec)
		next_usec = now_usec + STATS_USEC;
	if (wait_has_words(e->wait) ? kvd_engine_sleep_on(e->kvd, &word) : kvd_engine_sleep(e->kvd, true)) {
		wait_word(e->wait, word.word, word.value, word.mapping);
		n = wait_for(e->wait, next_usec == UINT64_MAX ? UINT64_MAX : next_usec > now_usec ?
			     next_usec - now_usec : 0, events, EVENTS_A_TURN);
	}
	kvd_engine_sleep(e->kvd, false);
	return n;
}

static bool drained(const struct engine *e, uint64_t now_usec)
{
	uint32_t running, waiting;

	if (!e->drain_usec)
		return false;
	serve_count(&e->serve, &running, &waiting);
	if (running && now_usec >= e->drain_usec)
		log_info("handed over running=%u", running);
	return !running || now_usec >= e->drain_usec;
}

/* Until SIGTERM.  Returns 0, or -errno where this process cannot go on. */
static int engine_loop(struct engine *e)
{
	struct wait_event events[EVENTS_A_TURN];
	int n = 0, r = kvd_engine_poll(e->kvd);    /* what came while the weights were laid out */

	for (;;) {
		uint64_t now_usec = engine_now_usec();
		bool more = false, ran = false;
		if (r < 0)
			reattach_lose(e, r, now_usec);
		if (e->device_lost)
			return -ENODEV;
		(void)reattach_turn(e, now_usec);
		r = serve_all(e, events, n, &more);
		if (drained(e, engine_now_usec()))
			return 0;
		if (r == 0 && !e->reattach.lost)
			r = step_run(e, &ran);
		/* our streams are closed without END: libkvd takes them to another engine */
		if (e->device_lost)
			return -ENODEV;
		n = ran || more || r < 0 ? wait_for(e->wait, 0, events, EVENTS_A_TURN)
					 : engine_sleep(e, events);
		if (n < 0)
			return n;
	}
}

/* The exit code that interface.md gives a failure to attach. */
static int exit_code(int r, bool with_kvd)
{
	if (r > 0)
		return kvd_status_exit_code(r);
	if (with_kvd && (r == -ENOENT || r == -ECONNREFUSED || r == -ENOTCONN || r == -EACCES ||
			 r == -ECONNRESET || r == -EPIPE))
		return 3;
	return 1;
}

int engine_run(const struct options *o)
{
	struct engine e = { .signal_fd = -1, .kvd_fd = -1 };
	struct rlimit files;
	char err[512] = "";
	sigset_t set;
	int r, code = 0;

	/* blocked in every thread: they come out of the signalfd */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	/* requests' big buffers go back to the system when they are freed, not to the heap */
	mallopt(M_MMAP_THRESHOLD, 128 * 1024);
	mallopt(M_TRIM_THRESHOLD, 128 * 1024);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	r = engine_init(&e, o, err, sizeof(err));
	if (r != 0) {
		code = exit_code(r, e.model && !e.run);
		log_error("cannot start: %s", err[0] ? err : strerror(r < 0 ? -r : EINVAL));
	} else {
		log_info("ready threads=%u chunk=%u loop=%s", o->n_threads, o->chunk_tokens,
			 wait_is_uring(e.wait) ? "io_uring" : "epoll");
		r = engine_loop(&e);
		if (r != 0) {
			code = 1;
			log_error("cannot go on: %s failed: %s",
				  e.device_lost ? "the device" : "the event loop", strerror(-r));
		} else {
			log_info("ended tokens=%llu",
				 (unsigned long long)e.serve.counters.completion_tokens);
		}
	}
	engine_deinit(&e);
	return code;
}
