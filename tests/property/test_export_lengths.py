"""Exported graphs give what torch gives: at every length, alone, in batches, for every space."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from export_samples import ENCODERS, FEATURES, model
from onnx import numpy_helper

from nas_encoder.deploy.engines import open_session
from nas_encoder.errors import CheckpointError
from nas_encoder.export.check import check, instability
from nas_encoder.export.export import ExportOptions, export_model
from nas_encoder.export.recognizer import NEVER, reference

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_length_of_features(encoder: str) -> None:
    style = "nemo per feature" if list(ENCODERS).index(encoder) % 2 else "espnet utterance"
    done = export_model(model(encoder, style), ExportOptions("features", lengths=32))
    assert done.report["checked"]["worst"] > 0 and not done.report["checked"]["unstable"]
    runtime, parts = done.runtime, done.parts
    # What the check itself relies on: short utterances, and frames past an utterance's end.
    factor, fewest = parts.network.subsampling_factor, parts.network.min_length
    shorter = max(1, fewest - 1)
    rows = [torch.randn(shorter, 12), torch.randn(57, 12)]
    short, whole = runtime.run(rows, 99.0)
    wanted = 0 if fewest > 1 and style.startswith("espnet") else 1
    assert len(short) == wanted and len(whole) == int(
        parts.network.output_lengths(torch.tensor(57))
    )
    batch = torch.nn.utils.rnn.pad_sequence(rows, True, 99.0).transpose(1, 2).contiguous()
    values, frames = runtime.session.run(
        None, {"audio_signal": batch.numpy(), "length": np.array([shorter, 57])}
    )
    # Runtimes that take T / S frames of each, sherpa-onnx for one, find blanks in the rest.
    assert values.shape[1] >= -(-57 // factor)
    for row, count in zip(values, frames, strict=True):
        assert (row[count:, -1] == 0).all() and (row[count:, :-1] == NEVER).all()
    assert {node.op_type for node in done.model.graph.node}.isdisjoint({"If", "Loop", "Scan"})


@pytest.mark.parametrize("features", FEATURES)
def test_every_length_of_audio(features: str) -> None:
    done = export_model(model("hourglass", features), ExportOptions(lengths=24))
    assert done.report["checked"]["worst"] > 0
    # Digital silence before and after something, and full scale.
    noise = torch.randn(9000)
    silent = torch.cat((torch.zeros(4000), 0.01 * noise[:3000], torch.zeros(3000)))
    assert check(done.runtime, done.parts, [silent, noise.sign()], 1).utterances == 2
    if features == "nemo per feature":  # divides rounding errors by a deviation of 0
        zeros, parts = torch.zeros(4000), done.parts
        assert instability(parts, zeros, reference(parts, zeros, "audio"), "audio") > 0.01
    noise = 0.1 * noise
    assert instability(done.parts, noise, reference(done.parts, noise, "audio"), "audio") < 1e-3


def test_batch_norms_after_convolutions_are_folded() -> None:
    graph = export_model(model("cells"), ExportOptions("features", lengths=1)).model.graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert not [node for node in norms if made_by[node.input[0]] == "Conv"]
    assert sum(node.op_type == "Conv" for node in graph.node) > 20


def test_a_graph_that_differs_is_refused() -> None:
    done = export_model(model("conformer"), ExportOptions("features", lengths=8))

    def refused(graph: onnx.ModelProto, *expected: str) -> None:
        session = open_session(graph.SerializeToString(), "changed")
        runtime = dataclasses.replace(done.runtime, session=session, source="changed")
        with pytest.raises(CheckpointError) as found:
            check(runtime, done.parts, done.inputs, 8)
        assert "nothing is written" in found.value.problems[0]
        text = "\n".join(found.value.problems)
        assert all(words in text for words in expected), text

    def changed() -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(done.model)
        return copy

    other = changed()  # one weight
    tensor = next(one for one in other.graph.initializer if len(one.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    refused(other, "an input of 8 frames, alone", "output frame", "0.001 is allowed")

    other = changed()  # attention sees padding: only batches show it
    softmax = next(node for node in other.graph.node if node.op_type == "Softmax")
    added = next(node for node in other.graph.node if softmax.input[0] in node.output)
    assert added.op_type == "Add"  # the scores, and what padding frames get
    scores = [n.output[0] for n in other.graph.node if n.op_type == "MatMul"]
    (softmax.input[0],) = (name for name in added.input if name in scores)
    refused(other, "in a batch")

    other = changed()  # NaN compares with nothing
    other.graph.node.add(op_type="Log", input=["negative"], output=["nan"])
    values = numpy_helper.from_array(np.float32(-1.0), "negative")
    other.graph.initializer.append(values)
    softmax = next(node for node in other.graph.node if node.op_type == "LogSoftmax")
    softmax.output[0], kept = "softmax", softmax.output[0]
    node = onnx.helper.make_node("Add", ["softmax", "nan"], [kept])
    nodes = [*other.graph.node]
    place = nodes.index(softmax) + 1
    nodes = [nodes[-1], *nodes[:place], node, *nodes[place:-1]]
    del other.graph.node[:]
    other.graph.node.extend(nodes)
    refused(other, "nan")
