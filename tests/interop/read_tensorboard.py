"""What the tensorboard package reads in a folder of event files, as JSON. With it alone on the path: test_tensorboard.py
starts it.

    read_tensorboard.py FOLDER

EventAccumulator reads the folder, with and without dropping what a restart makes void, and so does the accumulator that
the tensorboard server reads with."""
import base64
import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as ServerAccumulator
from tensorboard.util import tensor_util

ALL = {"scalars": 0, "images": 0, "tensors": 0}  # 0: none is left out


def read(purge):
    """Tag -> [step, value], and tag -> [step, width, height, PNG]."""
    events = EventAccumulator(sys.argv[1], size_guidance=ALL, purge_orphaned_data=purge)
    events.Reload()
    tags = events.Tags()
    scalars = {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in tags["scalars"]}
    images = {tag: [[event.step, event.width, event.height, base64.b64encode(event.encoded_image_string).decode()]
                    for event in events.Images(tag)] for tag in tags["images"]}
    return {"scalars": scalars, "images": images}


def read_as_server():
    events = ServerAccumulator(sys.argv[1], size_guidance=ALL)
    events.Reload()
    found = {"scalars": {}, "images": {}}
    for tag in events.Tags()["tensors"]:
        plugin = events.SummaryMetadata(tag).plugin_data.plugin_name
        arrays = [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)]
        if plugin == "scalars":
            found["scalars"][tag] = [[step, array.item()] for step, array in arrays]
        else:
            found[plugin][tag] = [[step, int(array[0]), int(array[1]), base64.b64encode(array[2]).decode()]
                                  for step, array in arrays]
    return found


def main():
    json.dump({"purged": read(True), "all": read(False), "server": read_as_server()}, sys.stdout)


if __name__ == "__main__":
    main()
