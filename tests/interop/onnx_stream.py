"""An exported stream in ONNX Runtime: what it remembers goes in and comes out with every frame."""
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
        """The output of one frame: source [N,C,1,H,W], and noise where the model has any."""
        results = dict(zip(self.names, self.session.run(self.names, {**inputs, **self.state})))
        self.state = {name: results["next" + name[5:]] for name in self.state}
        return results["output"]
