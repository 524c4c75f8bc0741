#!/bin/sh
# Checks the machine before make installs anything: preflight.sh cpu|cuda UV. Prints one line per problem; exit code 2.
export LC_ALL=C
hardware=$1 uv=$2
code=0

complain() {
    echo "Nothing was installed: $*" >&2
    code=2
}

have() {
    command -v "$1" >/dev/null
}

case $hardware in  # the packages need 4 and 9 GB, a study needs the rest
cpu) needed_gb=6 ;;
cuda) needed_gb=12 ;;
*) complain "HARDWARE=$hardware is neither cpu nor cuda: set one of them" ;;
esac

if have "$uv"; then
    # pyproject.toml uses the setting exclude-dependencies, which older versions of uv ignore; --excludes came with it.
    "$uv" pip install --help | grep -q -e --excludes || complain "$("$uv" --version) is too old, version 0.9.8 is needed: update uv"
elif ! have python3; then
    complain "neither uv nor python3 (to install uv) is installed: install one of them"
elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    complain "uv is not installed, and python3 has no module venv to install it: install uv, or Debian's python3-venv"
fi

short_gb=$(df -Pk . | awk -v needed="$needed_gb" 'NR == 2 && $4 * 1024 < needed * 1e9 { printf "%.1f", $4 * 1024 / 1e9 }')
[ -z "$short_gb" ] ||
    complain "$short_gb GB of disk are free in $PWD, the $hardware build needs $needed_gb GB: free disk space, or move this folder"

if [ "$hardware" = cpu ] && ! PATH=$PATH:/usr/sbin:/sbin ldconfig -p | grep -q 'libnuma\.so\.1 '; then
    complain "the library libnuma.so.1 is missing, which vLLM's CPU build needs: install it (Debian's package is libnuma1)"
fi

if [ "$hardware" = cuda ]; then
    have gcc && compiler=gcc || compiler=clang  # in the order in which Triton looks for them
    echo '#include <stdlib.h>' | "${CC:-$compiler}" -x c -fsyntax-only - 2>/dev/null ||
        complain "${CC:-gcc} cannot compile C, but Triton needs it for the CUDA build: install gcc and libc's headers"
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
    case ${driver%%.*} in
    "" | *[!0-9]*) ;;  # no driver, as when an image is built
    *) [ "${driver%%.*}" -ge 580 ] ||
        complain "the NVIDIA driver is $driver, CUDA 13.0 needs 580: update it, or install the CPU build with HARDWARE=cpu" ;;
    esac
fi

exit $code
