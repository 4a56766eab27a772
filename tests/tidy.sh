#!/bin/sh
# The house rules a machine can check (docs/style.md).  Prints one line per breach and Check's closing line.
#   .c <= 600 lines (tests 700), .h <= 420 (public contracts, kernel bodies), lines <= 120 columns (tabs are 8)
#   kvd/ never includes client/ or engine/; kvd/core/ includes nothing of kvd/; client/ neither kvd/*.c's nor engine/
#   no FIXME, TODO, XXX; no banned calls; every .c begins with a comment that says what it is
#   docs/protocol.md, the manual and the default kvd.conf are current
set -u
cd "$(dirname "$0")/.."
checks=0 failed=0
breach() { echo "tidy: $*"; failed=$((failed + 1)); }
check() { checks=$((checks + 1)); }

sources=$(git ls-files '*.c' '*.h' '*.def' 2>/dev/null || find kvd engine client include tests docs -name '*.[ch]' -o -name '*.def')
check
for f in $(printf '%s\n' $sources | grep '\.c$'); do
	n=$(wc -l <"$f")
	case $f in tests/*) max=700 ;; *) max=600 ;; esac
	[ "$n" -le $max ] || breach "$f has $n lines, at most $max"
	head -c 2 "$f" | grep -q '/\*' || breach "$f does not begin with a comment that says what it owns"
done
check
for f in $(printf '%s\n' $sources | grep '\.h$'); do
	n=$(wc -l <"$f")
	[ "$n" -le 420 ] || breach "$f has $n lines, at most 420"
done
check
wide=$(for f in $sources; do expand -t 8 "$f" | awk -v f="$f" 'length($0) > 120 {print f ":" NR ": " length($0) " columns"}'; done)
[ -z "$wide" ] || { echo "$wide"; failed=$((failed + 1)); }
check
bad=$(grep -nE '#include "(client|engine)/' kvd/*.[ch] kvd/*/*.[ch]; grep -nE '#include "kvd/(act|attach|config|daemon|dispatch|greet|introduce|listen|log|loop|memory|mover|peer|ring|segment|submit|tenant_of|vmm|wire)' kvd/core/*.[ch]
	grep -nE '#include "(engine/|kvd/(core|daemon|peer))' client/*.[ch] client/*/*.[ch])
[ -z "$bad" ] || { echo "layering: $bad"; failed=$((failed + 1)); }
check
bad=$(grep -nE '\b(FIXME|TODO|XXX)\b' $(printf '%s\n' $sources | grep -v -e '^tests/tidy' -e corpus))
[ -z "$bad" ] || { echo "unfinished: $bad"; failed=$((failed + 1)); }
check
bad=$(grep -nE '\b(strcat|sprintf|gets|alloca|tmpnam|system)\(' $(printf '%s\n' $sources | grep -vE '^tests/|_test'))
[ -z "$bad" ] || { echo "banned calls: $bad"; failed=$((failed + 1)); }
check
tests/gen_protocol_doc.sh --check || failed=$((failed + 1))
check
tests/gen_man.sh --check || failed=$((failed + 1))
[ "$failed" -gt "$checks" ] && failed=$checks
echo "$((100 * (checks - failed) / checks))%: Checks: $checks, Failures: $failed, Errors: 0"
[ "$failed" -eq 0 ]
