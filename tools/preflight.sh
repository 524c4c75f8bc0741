#!/bin/sh
# What make checks before it installs anything: preflight.sh cpu|cuda UV. One line for each thing to mend, and exit code 2.
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

case $hardware in  # the packages take 4 and 9 GB, and a study needs room
cpu) needed_gb=6 ;;
cuda) needed_gb=12 ;;
*) complain "HARDWARE=$hardware is neither cpu nor cuda: give one of them" ;;
esac

if have "$uv"; then
    # The option came with the setting exclude-dependencies, which pyproject.toml has; an older uv goes on without it.
    "$uv" pip install --help | grep -q -e --excludes || complain "$("$uv" --version) is too old, 0.9.8 is needed: update uv"
elif ! have python3; then
    complain "neither uv nor python3 (to install uv with) is here: install one of them"
elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    complain "uv is not here, and python3 lacks its module venv to install it with: install uv, or Debian's python3-venv"
fi

short_gb=$(df -Pk . | awk -v needed="$needed_gb" 'NR == 2 && $4 * 1024 < needed * 1e9 { printf "%.1f", $4 * 1024 / 1e9 }')
[ -z "$short_gb" ] ||
    complain "$short_gb GB of disk are free in $PWD, the $hardware build needs $needed_gb GB: free some, or move this folder"

if [ "$hardware" = cpu ] && ! PATH=$PATH:/usr/sbin:/sbin ldconfig -p | grep -q 'libnuma\.so\.1 '; then
    complain "the library libnuma.so.1 is missing, which vLLM's CPU build needs: install it (Debian's package is libnuma1)"
fi

if [ "$hardware" = cuda ]; then
    have gcc && compiler=gcc || compiler=clang  # as Triton chooses
    echo '#include <stdlib.h>' | "${CC:-$compiler}" -x c -fsyntax-only - 2>/dev/null ||
        complain "${CC:-gcc} cannot compile C, which Triton does whenever the CUDA build runs: install gcc and libc's headers"
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
    case ${driver%%.*} in
    "" | *[!0-9]*) ;;  # no driver: an image is built here
    *) [ "${driver%%.*}" -ge 580 ] ||
        complain "the NVIDIA driver is $driver, CUDA 13.0 needs 580: update it, or install the CPU build with HARDWARE=cpu" ;;
    esac
fi

exit $code
