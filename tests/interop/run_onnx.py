"""Runs ONNX models in ONNX Runtime for test_export.py, in a process of its own because its packages may be incompatible
with PyTorch's.

    run_onnx.py JOBS.json RESULTS.npz    a job: {"name", "model", "source": FILE.npy, "noise": FILE.npy or null}

A result is [N,3,T,H,W] under the job's name; a model whose source has one frame is run frame by frame. The models'
metadata go to standard output, one JSON object per line."""
import json
import sys

import numpy
import onnx
from onnx_stream import Stream, open_session


def run_stream(session, inputs):
    source = inputs["source"]
    stream = Stream(session, source.shape[0], *source.shape[3:])
    frames = [stream.run({name: array[:, :, t:t + 1] for name, array in inputs.items()}) for t in range(source.shape[2])]
    return numpy.concatenate(frames, 2)


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    results = {}
    for job in jobs:
        model = onnx.load(job["model"])
        onnx.checker.check_model(model, full_check=True)
        session = open_session(job["model"])
        inputs = {name: numpy.load(job[name]) for name in ("source", "noise") if job[name]}
        one_frame = session.get_inputs()[0].shape[2] == 1
        results[job["name"]] = run_stream(session, inputs) if one_frame else session.run(["output"], inputs)[0]
        print(json.dumps({
            "name": job["name"], "ir_version": model.ir_version,
            "operators": sorted({node.op_type for node in model.graph.node}),
            "domains": [(o.domain, o.version) for o in model.opset_import],
            "inputs": {i.name: i.shape for i in session.get_inputs()},
            "outputs": {o.name: o.shape for o in session.get_outputs()},
            "properties": {p.key: p.value for p in model.metadata_props},
        }))
    numpy.savez(sys.argv[2], **results)


if __name__ == "__main__":
    main()
