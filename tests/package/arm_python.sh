#!/usr/bin/env bash
# Makes DIR/run, which runs Python for 64-bit Arm under user-mode emulation, with ai-edge-litert, numpy and Pillow.
#   tests/package/arm_python.sh DIR
# Nothing is installed: Debian's arm64 packages are downloaded and unpacked into DIR. Needs Debian with
# qemu-user-static, and once, as root: dpkg --add-architecture arm64 && apt-get update
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
here=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
[ -x "$dir/run" ] && exit 0

command -v qemu-aarch64-static > /dev/null || { echo "install qemu-user-static" >&2; exit 2; }
version=$(apt-cache policy python3-minimal:arm64 | sed -n 's/ *Candidate: \([0-9]*\.[0-9]*\).*/\1/p')
[ -n "$version" ] || { echo "as root: dpkg --add-architecture arm64 && apt-get update" >&2; exit 2; }

mkdir -p "$dir/debs" "$dir/root/proc"
cd "$dir/debs"
apt-get download -q "python$version-minimal:arm64" "libpython$version-minimal:arm64" "libpython$version-stdlib:arm64" \
    {libc6,libgcc-s1,libstdc++6,zlib1g,libexpat1,libffi8,libssl3,libbz2-1.0,liblzma5,libuuid1}:arm64
for deb in *.deb; do dpkg-deb -x "$deb" "$dir/root"; done

litert=$(grep -o 'ai-edge-litert==[0-9.]*' "$here/pyproject.toml")
"$python" -m pip install -q --target "$dir/site" --only-binary=:all: --python-version "$version" \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_28_aarch64 -c "$here/constraints.txt" "$litert" pillow

# LiteRT reads its processor from /proc/cpuinfo and crashes on that of another architecture. QEMU looks for files
# in its root first. These are two cores of a Cortex-A72 (Raspberry Pi 4).
for core in 0 1; do
    printf 'processor\t: %s\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n' $core
    printf 'CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n'
done > "$dir/root/proc/cpuinfo"

cat > "$dir/run.part" <<END
#!/bin/sh
# Which processor: QEMU_CPU, such as cortex-a72 or neoverse-n1.
exec qemu-aarch64-static -L "$dir/root" -E PYTHONPATH="$dir/site" "$dir/root/usr/bin/python$version" "\$@"
END
chmod +x "$dir/run.part"
mv "$dir/run.part" "$dir/run"
