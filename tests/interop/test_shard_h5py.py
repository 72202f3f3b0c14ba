#!/usr/bin/python3
"""Reads shards of `celforge synth`, `join` and `pack` with h5py and h5dump: arrays and attributes are as documented,
checksums match the decoded bytes, h5py finds the data at the manifest's offsets, and an absent side is nowhere."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import runs  # noqa: E402

CELFORGE = os.path.join(os.environ.get("BUILD", "build"), "celforge")
CLIPS, FRAMES, WIDTH, HEIGHT = 5, 3, 48, 32

count = 0
failed = False


def check(name, condition, detail=""):
    global count, failed
    count += 1
    failed |= not condition
    print(f"{'ok' if condition else 'not ok'} {count} - {name}")
    if not condition and detail:
        print(f"# {detail}")


def skip(reason):
    print(f"ok 1 - h5py reads shards # SKIP {reason}")
    sys.exit(0)


try:
    import h5py
    import numpy
except ImportError as error:
    skip(f"{error.name} is not installed")
if not os.access(CELFORGE, os.X_OK):
    skip(f"{CELFORGE} is not built")


def celforge(*arguments):
    return subprocess.run([CELFORGE, *arguments], capture_output=True, text=True, timeout=300, check=False)


def synth(folder, *more):
    return celforge("synth", folder, "--clips", str(CLIPS), "--frames", str(FRAMES), "--size",
                    f"{WIDTH}x{HEIGHT}", "--seed", "7", *more)


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def check_shard(kind, folder, manifest, entry, index):
    path = os.path.join(folder, entry["file"])
    name = f"{kind}: {entry['file']}"
    with open(path, "rb") as stream:
        raw = stream.read()
    check(f"{name} has the manifest's size and CRC-32C",
          len(raw) == entry["bytes"] and runs.crc32c(raw) == entry["crc32c"])
    with h5py.File(path, "r") as shard:
        attributes = {key: text(value) for key, value in shard.attrs.items()}
        sides = [side for side in ("source", "target") if side in manifest]
        expected = {"format": "celforge-shard", "schema_version": str(3 - len(sides)),
                    "dataset_uuid": entry.get("dataset_uuid", manifest["uuid"]),
                    "shard": str(entry.get("shard", index)),
                    "clips": str(entry["clips"]), "frames": str(FRAMES), "fps": manifest["fps"],
                    "color": "rgb24", "layout": "NTHWC"}
        check(f"{name} has the documented attributes", attributes == expected, str(attributes))
        clips = shard["clips"]
        arrays = {key: (clips[key].shape, str(clips[key].dtype)) for key in clips}
        n = entry["clips"]
        expected = {**{side: ((n, FRAMES, HEIGHT, WIDTH, 3), "uint8") for side in sides},
                    "crc32c": ((n, 2), "uint32"), "id": ((n,), "|S64"),
                    "origin": ((n,), "|S192"), "start_frame": ((n,), "int64")}
        check(f"{name} has the documented arrays", arrays == expected, str(arrays))
        sums = [[runs.crc32c(clips[side][i].tobytes()) if side in sides else 0 for side in ("source", "target")]
                for i in range(n)]
        check(f"{name} has the checksums of the decoded clips",
              numpy.array_equal(numpy.array(sums, "uint32"), clips["crc32c"][...]))
        check(f"{name} names its clips", all(text(i) for i in clips["id"]))
        check(f"{name} has its data at the manifest's offsets", offsets(clips, entry, sides) == recorded(entry, sides))


def offsets(clips, entry, sides):
    found = {}
    for side in sides:
        identity = clips[side].id
        if f"{side}_offset" in entry:
            found[side] = identity.get_offset()
        else:
            chunks = [identity.get_chunk_info(i) for i in range(identity.get_num_chunks())]
            found[side] = [(chunk.byte_offset, chunk.size) for chunk in chunks]
    return found


def recorded(entry, sides):
    return {side: entry[f"{side}_offset"] if f"{side}_offset" in entry else
            list(zip(entry[f"{side}_offsets"], entry[f"{side}_sizes"]))
            for side in sides}


def check_dataset(kind, folder, clips, result, sides=("source", "target")):
    check(f"{kind}: a dataset is written", result.returncode == 0, result.stderr[-500:])
    if result.returncode != 0:
        return
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as stream:
        manifest = json.load(stream)
    entries = {key.split("_")[0] for shard in manifest["shards"] for key in shard if "_offset" in key}
    check(f"{kind}: the manifest has the sides {' and '.join(sides)}",
          entries == set(sides) == {"source", "target"} & set(manifest), str(entries))
    check(f"{kind}: the manifest's schema version", manifest["schema_version"] ==
          (3 if len(sides) == 1 else 2 if kind == "joined" else 1), str(manifest["schema_version"]))
    check(f"{kind}: the manifest counts the clips",
          manifest["clips"] == clips == sum(shard["clips"] for shard in manifest["shards"]))
    for index, entry in enumerate(manifest["shards"]):
        check_shard(kind, folder, manifest, entry, index)
    if shutil.which("h5dump"):
        dump = subprocess.run(["h5dump", "-d", "/clips/crc32c",
                               os.path.join(folder, manifest["shards"][0]["file"])],
                              capture_output=True, text=True, timeout=60, check=False)
        check(f"{kind}: h5dump reads it", dump.returncode == 0 and "H5T_STD_U32LE" in dump.stdout,
              dump.stderr)


def check_one_sided(root):
    video, size = os.path.join(root, "video.mp4"), ("--size", f"{WIDTH}x{HEIGHT}")
    made = celforge("synth", video, "--frames", str(FRAMES * CLIPS), *size)
    check("a video to pack", made.returncode == 0, made.stderr[-500:])
    for side in ("source", "target"):
        for more in ((), ("--deflate",)):
            kind = f"{side} alone{', deflated' if more else ''}"
            folder = os.path.join(root, f"{side}{len(more)}")
            packed = celforge("pack", folder, f"--{side}", video, "--frames", str(FRAMES), "--detect", "none", *more)
            check_dataset(kind, folder, CLIPS, packed, (side,))
            verified = celforge("verify", folder)
            check(f"{kind}: celforge verify", verified.returncode == 0, verified.stderr[-500:])


def check_chunk_index(root):
    """Where h5py finds each chunk, and where Celforge does: HDF5 indexes one chunk, a few, and many in different ways."""
    for clips in (1, 2, 1024, 1025, 2050):
        folder = os.path.join(root, f"chunks{clips}")
        made = celforge("synth", folder, "--clips", str(clips), "--clips-per-shard", str(clips), "--frames", "1",
                        "--size", "8x8", "--deflate", "--threads", "1")
        check(f"{clips} deflated clips in a shard", made.returncode == 0, made.stderr[-500:])
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as stream:
            entry = json.load(stream)["shards"][0]
        with h5py.File(os.path.join(folder, entry["file"]), "r") as shard:
            sides = ("source", "target")
            check(f"{clips} deflated clips: h5py finds all chunks at the manifest's offsets",
                  offsets(shard["clips"], entry, sides) == recorded(entry, sides))
        shutil.rmtree(folder)


def main():
    with tempfile.TemporaryDirectory(prefix="celforge-h5py-") as root:
        plain, deflated, joined = (os.path.join(root, *path) for path in (("parts", "plain"), ("deflated",), ("joined",)))
        check_dataset("plain", plain, CLIPS, synth(plain))
        check_dataset("deflated", deflated, CLIPS, synth(deflated, "--deflate"))
        shutil.copytree(plain, os.path.join(root, "parts", "again"))
        check_dataset("joined", joined, 2 * CLIPS, celforge("join", joined, os.path.join(root, "parts")))
        check_one_sided(root)
        check_chunk_index(root)
    print(f"1..{count}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
