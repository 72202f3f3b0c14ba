"""Runs an exported stream in ONNX Runtime, feeding each frame's state outputs back as inputs of the next."""
import math

import numpy
import onnxruntime


def open_session(path, threads=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Stream:
    def __init__(self, session, batch, height, width):
        sizes = {"ceil": math.ceil, "batch": batch, "height": height, "width": width}
        self.session = session
        self.names = [output.name for output in session.get_outputs()]
        self.state = {i.name: numpy.zeros([eval(str(axis), sizes) for axis in i.shape], numpy.float32)
                      for i in session.get_inputs() if i.name.startswith("state.")}

    def run(self, inputs):
        """Returns the output of one frame. Inputs: source [N,C,1,H,W], and noise if the model has noise channels."""
        results = dict(zip(self.names, self.session.run(self.names, {**inputs, **self.state})))
        self.state = {name: results["next" + name[5:]] for name in self.state}
        return results["output"]
