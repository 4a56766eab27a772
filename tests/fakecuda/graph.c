/* graph.c - what a stream's capture forbids. */
#include "tests/fakecuda/fake.h"

bool capture_forbids(void)
{
	return fake_default_stream.capture != NULL;
}

CUresult capture_record(struct stream *stream, struct event *event)
{
	return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult capture_join(struct stream *stream, struct event *event)
{
	return CUDA_ERROR_NOT_SUPPORTED;
}
