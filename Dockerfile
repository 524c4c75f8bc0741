# mathsft for a CPU, or with --build-arg HARDWARE=cuda for CUDA devices. Studies, models and caches are in the volume /work.
#   docker build -t mathsft .
#   docker run --rm --init -v mathsft:/work mathsft study --trials 20
#   docker run --rm --init -v mathsft:/work mathsft final --from-best
# With CUDA devices add --gpus all. To work in the current folder: --user "$(id -u)" -v "$PWD:/work".
FROM python:3.11-slim-bookworm

ARG HARDWARE=cpu
# vLLM's CPU build needs libnuma. With the CUDA build Triton compiles C code; this image's Python has the headers for it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make $(if [ "$HARDWARE" = cuda ]; then echo gcc libc6-dev; else echo libnuma1; fi) \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mathsft
COPY LICENSE Makefile README.md pyproject.toml ./
COPY tools/preflight.sh tools/
COPY experiments experiments
COPY studies studies
COPY mathsft mathsft
# Find-links: a folder or page with the wheel of torch's CPU build; by default it comes from PyTorch's index.
ARG PIP_FIND_LINKS=
RUN make install HARDWARE="$HARDWARE" MANAGED= && rm -rf .uv /root/.cache

RUN useradd --create-home --home-dir /work --skel /dev/null mathsft
USER mathsft
WORKDIR /work
VOLUME /work
# torch needs a user name and a home; with these variables any user id works.
ENV HOME=/work USER=mathsft PATH=/opt/mathsft/.venv/bin:$PATH
ENTRYPOINT ["mathsft"]
CMD ["--help"]
