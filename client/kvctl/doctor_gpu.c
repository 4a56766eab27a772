/* doctor_gpu.c - what `kvctl doctor` says of a GPU: its driver, persistence, compute mode, MPS, who may open it, and
 * whether a dead engine can be asked about; and the numbers of the device for `kvctl status` and `top`.
 *
 * Asks NVML and /dev; makes no context.  A host whose kvd owns host memory has one line. */
#include "client/kvctl/doctor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvd/cuda/driver.h"
#include "kvd/cuda/nvml.h"

enum { MODE_DEFAULT = 0, MODE_PROHIBITED = 2, MODE_EXCLUSIVE = 3 };

static bool mps_runs(void)
{
	const char *pipes = getenv("CUDA_MPS_PIPE_DIRECTORY");

	return access(pipes && *pipes ? pipes : "/tmp/nvidia-mps", X_OK) == 0;
}

/* Refused by the mode is a matter of groups, refused in spite of it one of the control group's device list. */
static void check_nodes(struct doctor *d)
{
	static const char *const nodes[] = { "/dev/nvidiactl", "/dev/nvidia-uvm" };

	for (size_t i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++) {
		int fd = open(nodes[i], O_RDWR | O_CLOEXEC);
		int error = errno;

		if (fd >= 0) {
			close(fd);
			doctor_say(d, "gpu access", OK, "%s opens", "", nodes[i]);
		} else if (error == EPERM && access(nodes[i], R_OK | W_OK) == 0) {
			doctor_say(d, "gpu access", FAIL, "%s: the device list of this control group refuses it",
				   "DeviceAllow=char-nvidia* rw, or --gpus for the container", nodes[i]);
		} else {
			doctor_say(d, "gpu access", WARN, "%s: %s", "is the driver loaded, and may this user use it?",
				   nodes[i], strerror(error));
		}
	}
}

/* Descriptors that kvd has, against those it may have: one for each extent, one for each peer. */
static void check_descriptors(struct doctor *d)
{
	char path[300], line[256];
	unsigned long long n = 0, most = 0;
	DIR *directory;
	FILE *file;

	if (!d->pid)
		return;
	snprintf(path, sizeof(path), "%s/proc/%u/fd", d->root, d->pid);
	directory = opendir(path);
	for (struct dirent *entry; directory && (entry = readdir(directory));)
		n += entry->d_name[0] != '.';
	if (!directory)
		return;
	closedir(directory);
	snprintf(path, sizeof(path), "%s/proc/%u/limits", d->root, d->pid);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "Max open files %llu", &most) == 1)
			break;
	if (file)
		fclose(file);
	if (most && n + 256 > most)
		doctor_say(d, "descriptors", WARN, "kvd has %llu of %llu", "LimitNOFILE= of kvd.service, or a larger "
			   "--extent", n, most);
	else
		doctor_say(d, "descriptors", OK, "kvd has %llu of %llu", "", n, most);
}

static void check_persistence(struct doctor *d, const struct nvml_facts *facts)
{
	if (facts->persistence < 0)
		doctor_say(d, "persistence", WARN, "the driver does not say", "");
	else if (facts->persistence)
		doctor_say(d, "persistence", OK, "on: the device stays initialised between processes", "");
	else
		doctor_say(d, "persistence", FAIL,
			   "off: if kvd ends while no engine is attached, all %s "
			   "of the pool are lost",
			   "nvidia-smi -pm 1, or enable nvidia-persistenced", kvctl_size(d->pool_bytes).s);
}

static void check_mode(struct doctor *d, const struct nvml_facts *facts)
{
	bool mps = mps_runs();

	if (facts->compute_mode == MODE_PROHIBITED)
		doctor_say(d, "compute mode", FAIL, "PROHIBITED: no process may use the device",
			   "nvidia-smi -c DEFAULT");
	else if (facts->compute_mode == MODE_EXCLUSIVE && !mps)
		doctor_say(d, "compute mode", FAIL,
			   "EXCLUSIVE_PROCESS without MPS: the mover and engines "
			   "shut each other out",
			   "nvidia-smi -c DEFAULT, or start MPS");
	else if (facts->compute_mode >= 0)
		doctor_say(d, "compute mode", OK, "%s", "",
			   facts->compute_mode == MODE_DEFAULT ? "DEFAULT" : "EXCLUSIVE_PROCESS behind MPS");
	if (mps)
		doctor_say(d, "mps", WARN,
			   "runs: kernels of several engines overlap, and a fault of one "
			   "ends all of them",
			   "stop it where engines must not share their fate");
	else
		doctor_say(d, "mps", OK, "does not run: engines take turns on the device, and fail alone", "");
}

static void check_device(struct doctor *d, const char *bus)
{
	char error[NVML_ERROR_MAX], version[96] = "?";
	struct nvml_facts facts;
	struct nvml nvml;

	if (nvml_open(&nvml, error) < 0) {
		doctor_say(d, "nvml", WARN, "%s: whether a dead engine's kernels have ended cannot be asked",
			   "install the driver's libnvidia-ml.so.1 (in a container: the utility capability)", error);
		return;
	}
	if (nvml.driver_version)
		(void)nvml.driver_version(version, sizeof(version));
	if (nvml_facts(&nvml, bus, &facts) < 0) {
		doctor_say(d, "nvml", WARN, "knows no device %s", "", bus);
	} else {
		doctor_say(d, "nvml", OK, "driver %s; %s: %s of %s in use, %d processes", "", version, bus,
			   kvctl_size((uint64_t)facts.used_bytes).s, kvctl_size((uint64_t)facts.total_bytes).s,
			   facts.n_processes);
		check_persistence(d, &facts);
		check_mode(d, &facts);
	}
	nvml_close(&nvml);
}

void doctor_gpu(struct doctor *d)
{
	struct kvctl_rows rows = { 0 };
	struct driver driver;
	char error[DRIVER_ERROR_MAX], bus[32] = "";
	bool wanted = d->c && kvd_welcome(d->c)->device_kind == KVD_DEVICE_CUDA;
	int r;

	if (!wanted) {
		if (d->c)
			doctor_say(d, "gpu", OK, "not used: kvd owns memory of the host", "");
		return;
	}
	if (kvctl_ask(d->c, KVD_Q_STATUS, NULL, &rows) == 0 && rows.n)
		snprintf(bus, sizeof(bus), "%.31s", ((const struct kvd_row_status *)kvctl_row(&rows, 0))->device_bus);
	kvctl_release(&rows);
	r = driver_open(&driver, error);
	if (r < 0)
		doctor_say(d, "gpu driver", FAIL, "%.200s", "", error);
	else
		doctor_say(d, "gpu driver", OK, "CUDA %d.%d", "", driver.version / 1000, driver.version % 1000 / 10);
	driver_close(&driver);
	check_nodes(d);
	check_descriptors(d);
	check_device(d, bus);
}

json_t *kvctl_gpu_json(const char *bus)
{
	struct nvml_facts facts;
	struct nvml nvml;
	json_t *ret = NULL;

	if (!*bus || nvml_open(&nvml, NULL) < 0)
		return json_null();
	if (nvml_facts(&nvml, bus, &facts) == 0)
		ret = json_pack("{s:s, s:I, s:I, s:i, s:i, s:i, s:i, s:i}", "bus", bus, "memory_bytes",
				(json_int_t)facts.total_bytes, "memory_used_bytes", (json_int_t)facts.used_bytes,
				"busy_percent", facts.gpu_percent, "memory_busy_percent", facts.memory_percent,
				"celsius", facts.celsius, "watts", facts.watts, "processes", facts.n_processes);
	nvml_close(&nvml);
	return ret ? ret : json_null();
}

void kvctl_gpu_line(const struct kvctl_view *v, const char *bus)
{
	struct nvml_facts facts;
	struct nvml nvml;

	if (!*bus || nvml_open(&nvml, NULL) < 0)
		return;
	if (nvml_facts(&nvml, bus, &facts) == 0 && facts.total_bytes >= 0) {
		fprintf(v->out, "gpu %s  %s of %s in use", bus, kvctl_size((uint64_t)facts.used_bytes).s,
			kvctl_size((uint64_t)facts.total_bytes).s);
		if (facts.gpu_percent >= 0)
			fprintf(v->out, "  busy %d%%  memory %d%%", facts.gpu_percent, facts.memory_percent);
		if (facts.celsius >= 0)
			fprintf(v->out, "  %d C", facts.celsius);
		if (facts.watts >= 0)
			fprintf(v->out, "  %d W", facts.watts);
		fputc('\n', v->out);
	}
	nvml_close(&nvml);
}
