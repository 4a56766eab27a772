#!/bin/sh
# Build the engine of the previous release from this repository's history, once.
# Prints its path, or "skipped: WHY".  It lies in build/previous and is built with the plain flags, whatever
# build asks for it.
set -u
cd "$(dirname "$0")/.."
commit=2fa7b4cda4e809af9bbd58961fe84e75ffc40ff5
out=build/previous/$commit
program=$out/build/bin/kvengine
if ! git cat-file -e "$commit^{commit}" 2>/dev/null; then
	echo "skipped: there is no history here to build the previous release's engine from"
	exit 0
fi
mkdir -p "$out"
exec 9>"$out.lock"
flock 9
if [ ! -x "$program" ]; then
	git archive "$commit" | tar -x -C "$out"
	if ! env -u SAN -u MAKEFLAGS -u MAKELEVEL make -s -C "$out" -j2 build/bin/kvengine >"$out.log" 2>&1; then
		echo "skipped: the previous release's engine does not build here, see $out.log"
		exit 0
	fi
fi
echo "$PWD/$program"
