/* graph.c - stream capture and the graphs it makes.
 *
 * A node is an operation and the nodes it waits for.  A launch runs all nodes in a random order that keeps
 * the dependencies (FAKECUDA_SEED): what was only right by the order of the calls comes out wrong.
 * Rules: no capture on the default stream; nobody waits for, or asks, a stream that captures; no allocation
 * meanwhile; work on the default stream would wait for a blocking stream that captures; every stream that
 * joined comes back to the first one before the end. */
#include "tests/fakecuda/fake.h"

#include <stdlib.h>
#include <string.h>

enum { NODES_MAX = 16384 };

struct node {
	struct op *op;
	struct nodes_after after;
};
struct nodes {                         /* shared by a graph, its executables, and launches under way */
	unsigned references, n, max;
	struct node *node;
};
struct capture {
	struct capture *next;
	struct stream *origin;
	CUstreamCaptureMode mode;
	pthread_t thread;
	bool broken;
	unsigned n_streams;
	struct stream *streams[16];
	struct nodes *nodes;
};
static struct capture *captures;

static void nodes_drop(struct nodes *nodes)
{
	if (--nodes->references)
		return;
	for (unsigned i = 0; i < nodes->n; i++) {
		if (nodes->node[i].op->drop)
			nodes->node[i].op->drop(nodes->node[i].op);
		free(nodes->node[i].op);
	}
	free(nodes->node);
	free(nodes);
}

bool capture_forbids(void)
{
	for (struct capture *c = captures; c; c = c->next)
		if (c->mode == CU_STREAM_CAPTURE_MODE_GLOBAL ||
		    (c->mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && pthread_equal(c->thread, pthread_self()))) {
			c->broken = true;
			return true;
		}
	return false;
}

CUresult capture_allows(struct stream *stream)
{
	for (struct capture *c = captures; c && stream == &fake_default_stream; c = c->next)
		for (unsigned i = 0; i < c->n_streams; i++)
			if (c->streams[i]->blocking) {
				c->broken = true;
				return fake_breach(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
						   "work on the default stream would "
						   "wait for a stream that captures");
			}
	return CUDA_SUCCESS;
}

static bool add_tail(struct nodes_after *tails, uint32_t node)
{
	for (unsigned i = 0; i < tails->n; i++)
		if (tails->nodes[i] == node)
			return true;
	if (tails->n == TAILS_MAX)
		return false;
	tails->nodes[tails->n++] = node;
	return true;
}

CUresult capture_add(struct stream *stream, struct op *op)
{
	struct nodes *nodes = stream->capture->nodes;

	if (nodes->n == nodes->max) {
		struct node *more = nodes->n < NODES_MAX ? realloc(nodes->node, sizeof(*more) * (nodes->max * 2 + 16)) :
						           NULL;

		if (!more) {
			if (op->drop)
				op->drop(op);
			free(op);
			return CUDA_ERROR_OUT_OF_MEMORY;
		}
		nodes->node = more;
		nodes->max = nodes->max * 2 + 16;
	}
	nodes->node[nodes->n] = (struct node){ .op = op, .after = stream->tails };
	stream->tails = (struct nodes_after){ .n = 1, .nodes = { nodes->n } };
	nodes->n++;
	return CUDA_SUCCESS;
}

CUresult capture_record(struct stream *stream, struct event *event)
{
	event->captured = stream->capture;
	event->tails = stream->tails;
	return CUDA_SUCCESS;
}

/* The stream waits for an event, and one of them is captured. */
CUresult capture_join(struct stream *stream, struct event *event)
{
	struct capture *c = event->captured;

	if (!c || (stream->capture && stream->capture != c)) {
		stream->capture->broken = true;
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
				   "a stream that captures waits for an event from "
				   "outside the capture");
	}
	if (!stream->capture) {
		if (stream == &fake_default_stream || c->n_streams == 16)
			return fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the stream cannot join a capture");
		stream->capture = c;
		stream->tails.n = 0;
		c->streams[c->n_streams++] = stream;
	}
	for (unsigned i = 0; i < event->tails.n; i++)
		if (!add_tail(&stream->tails, event->tails.nodes[i]))
			return fake_breach(CUDA_ERROR_NOT_SUPPORTED, "more than %d branches join", TAILS_MAX);
	return CUDA_SUCCESS;
}

static void forget_event(void *object, uint64_t handle, void *capture)
{
	struct event *e = object;

	if (e->captured == capture)
		e->captured = NULL;
}

static void capture_end(struct capture *c)
{
	struct capture **at = &captures;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	for (unsigned i = 0; i < c->n_streams; i++)
		c->streams[i]->capture = NULL;
	handle_each(KIND_EVENT, forget_event, c);
	nodes_drop(c->nodes);
	free(c);
}

void capture_forget(struct stream *stream)
{
	if (stream->capture)
		capture_end(stream->capture);
}

static CUresult begin(CUstream handle, CUstreamCaptureMode mode)
{
	struct stream *s;
	struct capture *c;
	CUresult r = stream_get(handle, &s);

	if (r)
		return r;
	if (s == &fake_default_stream || s->capture ||
	    (unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED)
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s",
				   s->capture                  ? "the stream captures already"
				   : s == &fake_default_stream ? "the default stream cannot capture"
							       : "no such mode");
	c = calloc(1, sizeof(*c));
	struct nodes *nodes = calloc(1, sizeof(*nodes));

	if (!c || !nodes) {
		free(c);
		free(nodes);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	nodes->references = 1;
	*c = (struct capture){ .next = captures, .origin = s, .mode = mode, .thread = pthread_self(), .n_streams = 1,
			       .streams = { s }, .nodes = nodes };
	captures = c;
	s->capture = c;
	s->tails.n = 0;
	return CUDA_SUCCESS;
}

API cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode)
{
	ENTER(NEED_CONTEXT);
	LOCKED(begin(stream, mode));
}

/* Everything captured lies before the first stream's tails. */
static bool is_joined(const struct capture *c)
{
	bool *reached = calloc(c->nodes->n + 1, 1);
	unsigned n = 0;

	for (unsigned i = 0; i < c->origin->tails.n; i++)
		reached[c->origin->tails.nodes[i]] = true;
	for (unsigned i = c->nodes->n; i-- > 0;) {
		const struct nodes_after *after = &c->nodes->node[i].after;

		n += reached[i];
		for (unsigned k = 0; reached[i] && k < after->n; k++)
			reached[after->nodes[k]] = true;
	}
	free(reached);
	return n == c->nodes->n;
}

static CUresult end(CUstream handle, CUgraph *ret)
{
	struct stream *s;
	struct capture *c;
	CUresult r = stream_get(handle, &s);

	if (r)
		return r;
	*ret = NULL;
	c = s->capture;
	if (!c || c->origin != s)
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the stream began no capture");
	if (c->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(c->thread, pthread_self()))
		return fake_breach(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread began the capture");
	if (c->broken) {
		r = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	} else if (!is_joined(c)) {
		r = fake_breach(CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
				"a stream that joined the capture did not come back");
	} else {
		c->nodes->references++;
		*ret = (CUgraph)handle_new(KIND_GRAPH, c->nodes);
	}
	capture_end(c);
	return r;
}

API cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
	ENTER(NEED_CONTEXT);
	LOCKED(end(stream, graph));
}

API cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status)
{
	ENTER(NEED_CONTEXT);
	fake_lock();
	struct stream *s;
	CUresult r = stream_get(stream, &s);

	if (r == CUDA_SUCCESS)
		*status = !s->capture ? CU_STREAM_CAPTURE_STATUS_NONE :
			  s->capture->broken ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
	return fake_unlocked(r);
}

/* ---- graphs ---- */

static CUresult instantiate(CUgraphExec *ret, uint64_t graph, unsigned long long flags)
{
	struct nodes *nodes = handle_get(KIND_GRAPH, graph);

	if (flags & ~3ull)
		return fake_breach(CUDA_ERROR_NOT_SUPPORTED, "flags %#llx of a graph are not in the double", flags);
	nodes->references++;
	*ret = (CUgraphExec)handle_new(KIND_EXEC, nodes);
	return CUDA_SUCCESS;
}

API cuGraphInstantiateWithFlags(CUgraphExec *exec, CUgraph graph, unsigned long long flags)
{
	ENTER(NEED_CONTEXT);
	LOCKED(instantiate(exec, HANDLE(graph), flags));
}

static CUresult drop(enum kind kind, uint64_t handle)
{
	nodes_drop(handle_drop(kind, handle));
	return CUDA_SUCCESS;
}

API cuGraphDestroy(CUgraph graph)
{
	CUresult r = fake_enter(__func__, NEED_INIT);

	if (r && r != fake.sticky)
		return r;
	LOCKED(drop(KIND_GRAPH, HANDLE(graph)));
}

API cuGraphExecDestroy(CUgraphExec exec)
{
	CUresult r = fake_enter(__func__, NEED_INIT);

	if (r && r != fake.sticky)
		return r;
	LOCKED(drop(KIND_EXEC, HANDLE(exec)));
}

static CUresult upload(uint64_t exec, CUstream stream)
{
	struct stream *s;

	handle_get(KIND_EXEC, exec);
	return stream_get(stream, &s);
}

API cuGraphUpload(CUgraphExec exec, CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(upload(HANDLE(exec), stream));
}

struct graph_op {
	struct op op;
	struct nodes *nodes;
	bool *done;
};

static void drop_graph(struct op *op)
{
	nodes_drop(((struct graph_op *)op)->nodes);
	free(((struct graph_op *)op)->done);
}

/* Node `from` or one soon after it that waits for nobody any more. */
static unsigned next_node(const struct graph_op *g, unsigned from)
{
	for (unsigned k = 0; k < g->nodes->n; k++) {
		unsigned i = (from + k) % g->nodes->n, waiting = 0;

		for (unsigned a = 0; a < g->nodes->node[i].after.n; a++)
			waiting += !g->done[g->nodes->node[i].after.nodes[a]];
		if (!g->done[i] && !waiting)
			return i;
	}
	return 0;
}

static CUresult run_graph(struct op *op)
{
	struct graph_op *g = (struct graph_op *)op;
	uint64_t random = fake.set.seed + op->ticket;
	CUresult r = CUDA_SUCCESS;

	memset(g->done, 0, g->nodes->n);
	for (unsigned n = 0; r == CUDA_SUCCESS && n < g->nodes->n; n++) {
		random = random * 6364136223846793005ull + 1442695040888963407ull;
		unsigned i = next_node(g, n < 16 || n % 4 == 0 ? (unsigned)(random >> 33) % g->nodes->n : n);

		op->what = g->nodes->node[i].op->what;
		r = g->nodes->node[i].op->run(g->nodes->node[i].op);
		g->done[i] = true;
	}
	return r;
}

static CUresult launch(uint64_t exec, CUstream handle)
{
	struct nodes *nodes = handle_get(KIND_EXEC, exec);
	struct graph_op *g;
	struct stream *s;
	CUresult r = stream_get(handle, &s);

	if (r)
		return r;
	g = calloc(1, sizeof(*g));
	bool *done = calloc(nodes->n + 1, 1);

	if (!g || !done) {
		free(g);
		free(done);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	nodes->references++;
	*g = (struct graph_op){ .op = { .run = run_graph, .drop = drop_graph, .what = "a graph" }, .nodes = nodes,
				.done = done };
	return queue_add(s, &g->op);
}

API cuGraphLaunch(CUgraphExec exec, CUstream stream)
{
	ENTER(NEED_CONTEXT);
	LOCKED(launch(HANDLE(exec), stream));
}
