FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/searchdb
WORKDIR /src

# torch is most of the image and rarely changes, so it gets its own layer. The extra index has the CPU build, which is
# gigabytes smaller than PyPI's CUDA build for Linux.
COPY constraints.txt ./
RUN /opt/searchdb/bin/pip install --extra-index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt torch

COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY searchdb searchdb
COPY web web
RUN /opt/searchdb/bin/pip install --extra-index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt '.[jxl,parquet,video]'


FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /var/lib/searchdb searchdb \
    && install --directory --owner=searchdb --group=searchdb /var/lib/searchdb /var/cache/huggingface
COPY --from=build /opt/searchdb /opt/searchdb
ENV PATH=/opt/searchdb/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SEARCHDB_HOME=/var/lib/searchdb \
    HF_HOME=/var/cache/huggingface
USER searchdb
WORKDIR /var/lib/searchdb
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
# One worker unless WEB_CONCURRENCY is set, because every worker loads its own copy of the model.
CMD ["searchdb", "serve", "--host=0.0.0.0", "--port=8000"]
