# The pinned environment for a cluster's head and workers; the code travels with each job (--working-dir), or is the copy in here.
# On Linux the index's own torch brings CUDA with it: the image serves GPUs and CPUs. Not built here (no registry was at hand).
FROM python:3.11-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git wget && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray
WORKDIR /opt/grit
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY grit grit
COPY ray_jobs ray_jobs
COPY sweeps sweeps
COPY analysis analysis
RUN python -m pip install --no-cache-dir --constraint constraints.txt "torch==2.13.0" \
    && python -m pip install --no-cache-dir --constraint constraints.txt --editable . \
    && chown -R ray /opt/grit
USER ray
ENV PYTHONPATH=/opt/grit
