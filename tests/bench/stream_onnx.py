"""Time ONNX Runtime on a model exported with --stream, frame by frame, for tests/bench/run.

    stream_onnx.py MODEL HEIGHT WIDTH FRAMES THREADS      prints {"frame_seconds", "onnxruntime"}
"""
import json
import os
import statistics
import sys
import time

import numpy
import onnxruntime

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "interop"))
from onnx_stream import Stream, open_session  # noqa: E402

WARMUP_FRAMES = 4


def main():
    height, width, frames, threads = map(int, sys.argv[2:])
    stream = Stream(open_session(sys.argv[1], threads), 1, height, width)
    frame = numpy.random.default_rng(1).uniform(-1, 1, (1, 3, 1, height, width)).astype(numpy.float32)
    seconds = []
    for _ in range(WARMUP_FRAMES + frames):
        begin = time.perf_counter()
        stream.run({"source": frame})
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"frame_seconds": statistics.median(seconds[WARMUP_FRAMES:]), "onnxruntime": onnxruntime.__version__}))


if __name__ == "__main__":
    main()
