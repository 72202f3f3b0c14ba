#!/usr/bin/python3
"""models/clips: its table, and a pan over a picture made here. The packages themselves are not fetched."""
import importlib.machinery
import importlib.util
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
count = failures = 0


def check(good, name, detail=""):
    global count, failures
    count += 1
    failures += not good
    print(f"{'ok' if good else 'not ok'} {count} - {name}")
    if detail and not good:
        print(f"# {detail}")


def load():
    loader = importlib.machinery.SourceFileLoader("clips", str(ROOT / "models/clips"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("clips", loader))
    loader.exec_module(module)
    return module


def check_table(clips):
    rows = clips.rows(ROOT / "models/clips.tsv")
    broken = [row["clip"] for row in rows if None in row or not all(row.values()) or ": " not in row["statement"]]
    check(rows and not broken, "each row has all columns", broken)
    names = [name for _, _, name in clips.clips(ROOT / "models/clips.tsv")]
    check(len(names) == len(set(names)), "names of clips are unique")
    check({row["use"] for row in rows} == {"train", "held-out"}, "clips are for training or held out")
    seen = {}
    for row in rows:
        seen.setdefault((row["package"], row["file"]), []).append(row)
    mixed = []
    for same in seen.values():
        for a in same:
            for b in same:
                if a["use"] == "train" and b["use"] == "held-out" and overlap(a["shot"], b["shot"]):
                    mixed.append((a["clip"], b["clip"]))
    check(not mixed, "no held-out frame and no held-out photograph is in a clip to train on", mixed)


def overlap(a, b):
    """Whether two shots of one file share frames; shots of a photograph always do."""
    if not a[0].isdigit() or not b[0].isdigit():
        return True
    (first, last), (other_first, other_last) = (map(int, shot.split(" ")[0].split("@")[0].split("-")) for shot in (a, b))
    return first <= other_last and other_first <= last


def check_paths(clips):
    outside, jumps = [], []
    for size in ((512, 512), (600, 400), (2056, 3088), (6028, 3391), (640, 360)):
        for shot in ("full", "close", "close@95/5", "full@0/100"):
            for name in ("a", "bridge", "cat", "dune"):
                frames = clips.path(name, shot, *size)
                for x, y, across, _ in frames:
                    half_x, half_y = across / 2, across / 2 * clips.HEIGHT / clips.WIDTH
                    if x < half_x or y < half_y or x + half_x > size[0] or y + half_y > size[1]:
                        outside.append((size, shot, name))
                speeds = [math.dist(a[:2], b[:2]) / a[2] for a, b in zip(frames, frames[1:])]
                if max(speeds) > 0.012:  # of the window's width: 8 of 640 pixels a frame
                    jumps.append((size, shot, name, max(speeds)))
    check(not outside, "the window stays inside the picture", outside[:5])
    check(not jumps, "the window moves slowly", jumps[:5])
    check(clips.path("a", "full", 900, 700) == clips.path("a", "full", 900, 700) != clips.path("b", "full", 900, 700),
          "a path follows from the clip's name")


def check_pan(clips, folder):
    """Frames follow each other evenly: none is flat, repeated or elsewhere."""
    picture, out = folder / "picture.png", folder / "pan.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "mandelbrot=size=900x700:maxiter=60", "-frames:v", "1", picture],
                   check=True)
    clips.pan({"clip": "pan"}, "full", picture, out)
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", out, "-vf", "scale=160:90", "-f", "rawvideo", "-pix_fmt", "gray", "-"],
                         capture_output=True, check=True).stdout
    frames = [raw[i:i + 160 * 90] for i in range(0, len(raw), 160 * 90)]
    changes = [sum(abs(a - b) for a, b in zip(one, next_one)) / len(one) for one, next_one in zip(frames, frames[1:])]
    check(len(frames) == clips.FRAMES, "a pan has all frames", len(frames))
    check(min(changes) > 0 and max(changes) < 3 * sum(changes) / len(changes), "its frames follow each other evenly",
          [round(change, 2) for change in changes])
    check(sorted(path.name for path in folder.iterdir()) == ["pan.mp4", "picture.png"], "no temporary file is left")


def main():
    clips = load()
    check_table(clips)
    check_paths(clips)
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        if shutil.which("ffmpeg"):
            check_pan(clips, folder)
        else:
            print(f"ok {count + 1} - a pan # SKIP ffmpeg is missing")
    finally:
        shutil.rmtree(folder)
    print(f"1..{count + (0 if shutil.which('ffmpeg') else 1)}")
    sys.exit(failures > 0)


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    main()
