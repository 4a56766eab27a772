#!/bin/sh
# Make sure that what the build and the tests need is installed.
# As root, or where sudo works without asking, missing Debian packages are installed; otherwise the
# one line that installs them is printed and the run stops.  Usage: tests/setup.sh [PACKAGE...]
set -eu
need="gcc g++ make pkg-config check liburing-dev libjansson-dev libpcre2-dev libutf8proc-dev libinih-dev
	libxxhash-dev libsystemd-dev libssl-dev python3 python3-pip python3-jinja2 $*"

if ! command -v dpkg-query >/dev/null 2>&1; then
	echo "setup: this is not Debian or Ubuntu; install what stands for these packages:" $need >&2
	exit 1
fi
missing=
for package in $need; do
	state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
	if command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
		as_root="sudo -n"
	else
		echo "setup: packages are missing; as root run:  apt-get install -y$missing" >&2
		exit 1
	fi
fi
echo "setup: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { $as_root apt-get update -q && $as_root apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1
then
	tail -n 5 "$log" >&2
	echo "setup: could not install$missing; the lines above say why" >&2
	exit 1
fi
