"""The two towers as ONNX graphs, and running them.

image.onnx   pixels, uint8 (B, 3, H, W) → image_embeds, unit vectors (B, D); normalising is inside, resizing is not
text.onnx    tokens, int64 (B, L) → text_embeds, unit vectors (B, D)

B is free. H, W and the resizing are fclip.json's `preprocess`, L its `context_length`; a cosine times `logit_scale` is
a logit. The graphs need ONNX Runtime 1.17 or another runtime of opset 20; weights of a gigabyte and more lie beside
them, in image.onnx.data and text.onnx.data.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fclip.errors import UserError
from fclip.model import Model

LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
LARGE_BYTES = 2**30  # a file of ONNX ends at 2 GB
GRAPHS = {"image": ("pixels", "image_embeds"), "text": ("tokens", "text_embeds")}
"""File name → names of what goes in and comes out (transformers' names for embeddings)."""


def require_onnx() -> None:
    """Fails before the work rather than after it.

    Raises:
        UserError: a library is missing.
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise UserError(f"--to onnx needs {', '.join(missing)}; pip install 'fclip[onnx]'")


class _Image(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.preprocess = model, model.preprocess

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(self.preprocess.normalise(pixels))


class _Text(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.encode_text(tokens)


def write_graphs(model: Model, folder: Path) -> None:
    """Writes image.onnx and text.onnx.

    Args:
        model: in evaluation mode, on the CPU.
        folder: exists.

    Raises:
        UserError: a layer that ONNX does not have.
    """
    pixels = torch.zeros(2, 3, *model.preprocess.size, dtype=torch.uint8)  # of one, the exporter would make a constant
    tokens = torch.zeros(2, model.tokenizer.context_length, dtype=torch.int64)
    for kind, tower, example in (("image", _Image(model), pixels), ("text", _Text(model), tokens)):
        try:
            _write_graph(tower.eval(), example, kind, folder)
        except Exception as error:  # torch's exporters and onnx raise their own, with no common base
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"the {kind} tower of {model.name} does not become a graph of ONNX: {reason}") from error


@torch.no_grad()
def _write_graph(tower: nn.Module, example: Tensor, kind: str, folder: Path) -> None:
    name, embeds = GRAPHS[kind]
    program: Any = torch.onnx.export(
        tower,
        (example,),
        dynamo=True,
        input_names=[name],
        output_names=[embeds],
        dynamic_shapes={name: {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    if isinstance(program.model.graph.inputs[0].shape[0], int):  # torch then exports for this size without a word
        raise ValueError("its number of pictures or texts became a constant")
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the lines of Python it comes from, with the paths of this machine
    size: int = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())
    program.save(folder / f"{kind}.onnx", external_data=size >= LARGE_BYTES)


def load_graphs(folder: Path, threads: int = 0) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The graphs in ONNX Runtime on the CPU: pixels and tokens → unit vectors.

    Args:
        folder: of the graphs.
        threads: of each graph; 0: one for each core.
    """
    image, text = (_session(folder / f"{kind}.onnx", threads) for kind in GRAPHS)

    def run(session: Any, values: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: values.numpy()})[0])

    return lambda pixels: run(image, pixels), lambda tokens: run(text, tokens)


def _session(file: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; its warnings are about its own optimisations
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def describe_graphs(model: Model) -> dict[str, Any]:
    """For fclip.json: files, and names, types and shapes of what goes in and comes out."""
    inputs = {
        "image": {"type": "uint8", "shape": ["batch", 3, *model.preprocess.size]},
        "text": {"type": "int64", "shape": ["batch", model.tokenizer.context_length]},
    }
    output = {"type": "float32", "shape": ["batch", model.card.architecture["embed_dim"]]}
    return {
        kind: {"file": f"{kind}.onnx", "input": {"name": name, **inputs[kind]}, "output": {"name": embeds, **output}}
        for kind, (name, embeds) in GRAPHS.items()
    }
