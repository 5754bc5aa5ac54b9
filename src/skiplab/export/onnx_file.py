"""ONNX files: written by torch's exporter, run by onnxruntime."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skiplab.errors import UsageError
from skiplab.export.graph import INPUT, OUTPUT, axes, quiet

# The first whose Resize can smooth, as training's resize does.
OPSET = 18
# A file of protocol buffers holds no more bytes.
LARGEST = 2**31 - 2**20


class OnnxFile:
    """A network as an ONNX model."""

    def __init__(self, traced: torch.export.ExportedProgram):
        import onnx

        size = sum(p.numel() * p.element_size() for p in traced.state_dict.values())
        if size > LARGEST:
            raise UsageError(
                f"--to onnx: the weights have {size:,} bytes, and an ONNX file holds "
                f"{LARGEST:,}; take --to torch"
            )
        with quiet():
            program = torch.onnx.export(
                traced,
                (),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamic_shapes={INPUT: axes()},
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        self.model: onnx.ModelProto = program.model_proto
        # The exporter's notes for its authors are larger than a small network.
        for each in (*self.model.graph.node, *self.model.graph.value_info):
            del each.metadata_props[:]
            each.doc_string = ""
        for each in (self.model.graph, *self.model.graph.initializer, *self.model.functions):
            del each.metadata_props[:]

    def pack(self, metadata: Mapping[str, str]) -> bytes:
        """Return the file's content with this metadata."""
        import onnx

        onnx.helper.set_model_props(self.model, dict(metadata))
        onnx.checker.check_model(self.model)
        return self.model.SerializeToString()


def run(path: Path, batches: Sequence[Tensor]) -> list[Tensor]:
    """Return the logits that onnxruntime computes with a file, for each batch of images."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Errors only.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found = [session.run([OUTPUT], {INPUT: batch.numpy()})[0] for batch in batches]
    return [torch.from_numpy(np.asarray(each)) for each in found]


def runtime() -> str:
    """Name the program that `run` uses, with its version."""
    import onnxruntime

    return f"onnxruntime {onnxruntime.__version__}"
