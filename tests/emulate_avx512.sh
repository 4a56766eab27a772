#!/bin/bash
# Execute the AVX-512 kernels on a machine without AVX-512: under Bochs, a processor in software.
#
#     tests/emulate_avx512.sh            no part of `make check`; under a minute
#
# tests/tools/kernels_isa.c is linked with the very objects of the build and a small runtime into an
# image without an operating system, booted from a CD image, and its report read from the serial port.
# It compares the avx512 table with its emulation, byte by byte; then each digest of the emulation
# under Bochs is compared with the one this machine computes.  Fails on any difference.
#
# Needs the packages gcc, binutils, isolinux, syslinux-common, xorriso, bochsbios, vgabios, and a bochs of
# version 2.8 or newer with AVX-512 (2.7, in Debian 12, has no BF16): $BOCHS, else bochs.
# BOCHS_DISPLAY names another of its displays where it has no nogui.
set -eu
cd "$(dirname "$0")/.."
bochs=${BOCHS:-bochs}
model=sapphire_rapids
share=${BXSHARE:-/usr/share/bochs}
out=build/emulate

refuse() { echo "emulate_avx512: $*" >&2; exit 1; }
command -v "$bochs" >/dev/null || refuse "no program $bochs: install bochs 2.8 or newer, or name one in BOCHS"
"$bochs" --help cpu 2>&1 | grep -qx $model || refuse "$bochs knows no processor $model: version 2.8 or newer has it"
command -v xorriso >/dev/null || refuse "no xorriso: apt-get install xorriso"
for file in /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/mboot.c32 \
	"$share/BIOS-bochs-latest" "$share/VGABIOS-lgpl-latest"; do
	[ -f "$file" ] || refuse "no file $file: apt-get install isolinux syslinux-common bochsbios vgabios"
done

objects="engine/cpu/kernels engine/cpu/kernels_avx512 engine/cpu/kernels_avx2 engine/cpu/kernels_portable
	tests/lib/kernels_emulated tests/tools/kernels_isa"
objects=$(printf 'build/obj/%s.o ' $objects)
make -s $objects

rm -rf $out
mkdir -p $out/cd/isolinux
gcc -o $out/kernels_isa $objects -lm
gcc -c -O2 -Wall -Wextra -ffreestanding -fno-builtin -fno-stack-protector -fno-pic -mno-red-zone \
	-o $out/runtime.o tests/emulate/runtime.c
gcc -c -o $out/boot.o tests/emulate/boot.S
gcc -nostdlib -static -no-pie -Wl,-T,tests/emulate/image.ld,--build-id=none,--no-warn-rwx-segments \
	-o $out/image64 $out/boot.o $out/runtime.o $objects -lgcc
objcopy -O elf32-i386 $out/image64 $out/cd/image   # the container that Multiboot wants
cp /usr/lib/ISOLINUX/isolinux.bin $out/cd/isolinux
cp /usr/lib/syslinux/modules/bios/{ldlinux,libcom32,mboot}.c32 $out/cd/isolinux
printf '%s\n' 'DEFAULT image' 'PROMPT 0' 'LABEL image' 'KERNEL mboot.c32' 'APPEND /image' \
	>$out/cd/isolinux/isolinux.cfg
xorriso -as mkisofs -quiet -o $out/boot.iso -b isolinux/isolinux.bin -c isolinux/boot.cat \
	-no-emul-boot -boot-load-size 4 -boot-info-table $out/cd 2>$out/xorriso.log

cat >$out/bochsrc <<END
megs: 512
cpu: model=$model, count=1, ips=100000000, reset_on_triple_fault=0
display_library: ${BOCHS_DISPLAY:-nogui}
romimage: file=$share/BIOS-bochs-latest
vgaromimage: file=$share/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$out/boot.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$out/serial.log
clock: sync=none
log: $out/bochs.log
panic: action=fatal
END
# the image ends the machine by a port, which bochs calls a panic: only the report counts
timeout 600 "$bochs" -q -f $out/bochsrc </dev/null >$out/bochs.out 2>&1 || true
[ -s $out/serial.log ] || refuse "the image did not report: see $out/bochs.log"
tr -d '\r' <$out/serial.log >$out/report
cat $out/report

digests() { sed -n 's/\(digest [0-9a-f]*\).*/\1/p' "$1"; }
$out/kernels_isa >$out/here || refuse "kernels_isa finds differences on this machine itself"
diff <(digests $out/report) <(digests $out/here) >$out/digests.diff ||
	refuse "the emulation's own bytes differ between Bochs and this machine: see $out/digests.diff"
grep -qE '^kernels_isa: [1-9][0-9]* bytes compared, 0 differ$' $out/report && grep -qx 'exit 0' $out/report ||
	refuse "FAILED: differences, or no AVX-512 was executed"
echo "emulate_avx512: the avx512 kernels, executed as $model, wrote the emulation's bytes"
