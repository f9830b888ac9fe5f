# syntax=docker/dockerfile:1
# MoEDiff-SR with its weights; needs no network when it runs. docs/howto/containers.md says how to build and use it.
#   docker build -t moediff-sr .                              CPU
#   docker build -t moediff-sr:cuda --build-arg TORCH=cu130 . CUDA: a version that PyTorch publishes wheels for
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH=cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
# PyTorch's own index names its builds for CPU and CUDA; everything else comes from PyPI.
RUN python3 -m venv /opt/moediff \
    && /opt/moediff/bin/pip install --no-cache-dir --no-deps --constraint constraints.txt \
        --index-url "https://download.pytorch.org/whl/${TORCH}" torch \
    && /opt/moediff/bin/pip install --no-cache-dir --constraint constraints.txt ".[report,dicom,bids,align,cluster]" \
    && /opt/moediff/bin/pip uninstall --yes --quiet pip

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="MoEDiff-SR" \
    org.opencontainers.image.description="Super-resolution of brain MRI. Research use only; not for diagnostic use." \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/moediff /opt/moediff
# Nothing is written outside of /tmp and the folders that are mounted; any user number will do.
ENV PATH=/opt/moediff/bin:$PATH \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp \
    XDG_CACHE_HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LC_ALL=C.UTF-8
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["moediff"]
CMD ["--help"]
