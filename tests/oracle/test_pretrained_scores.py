#!/usr/bin/python3
"""KID, FID, LPIPS and tLP of celforge eval against the code of clean-fid, pytorch-fid and lpips, with random weights.

The published networks need a download of their own, so the packages' architectures get random weights of the same names and
shapes; LPIPS's linear layers are the published ones. Frames are obtained as in test_eval.py.
"""
import copy
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import torch

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../interop"))
import packages  # noqa: E402
import test_eval  # noqa: E402
from celforge_torch import read_safetensors, write_safetensors  # noqa: E402
from style import Stream  # noqa: E402
from support import BUILD, Tap, celforge, run, scratch, synth, train  # noqa: E402

CLIPS, FRAMES, HEIGHT, WIDTH = test_eval.CLIPS, test_eval.FRAMES, test_eval.HEIGHT, test_eval.WIDTH
SUBSETS, SUBSET_SEED = 100, 6


# --- Networks with random weights ---------------------------------------------------------------------

def fid_inception(pytorch_fid, images):
    """pytorch-fid's network; its batch norms are set by these images, so that activations neither vanish nor grow."""
    module = pytorch_fid.inception
    load, module.load_state_dict_from_url = module.load_state_dict_from_url, lambda *_, **__: {}
    strict = torch.nn.Module.load_state_dict
    torch.nn.Module.load_state_dict = lambda self, state, *_, **__: strict(self, state, strict=False)
    try:
        torch.manual_seed(1)
        network = module.InceptionV3(resize_input=False, normalize_input=False)
        inner = module.fid_inception_v3()
    finally:
        module.load_state_dict_from_url, torch.nn.Module.load_state_dict = load, strict
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.uniform_(layer.bias, -0.3, 0.3)
            layer.momentum = None
    with torch.no_grad():
        network.train()(images)
    return network.eval(), inner


def state_by_layer(network, inner):
    """The state dict by the names of pytorch-fid's weights file: those of fid_inception_v3, not of its list of blocks."""
    names = iter([name for name, _ in inner.named_children() if name.startswith(("Conv2d", "Mixed"))])
    state = {}
    for block in network.blocks:
        for layer in block:
            if any(True for _ in layer.parameters()):
                name = next(names)
                state.update({f"{name}.{key}": value for key, value in layer.state_dict().items()})
    expected = {key: value.shape for key, value in inner.state_dict().items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in state.items()} == expected
    return arrays(state)


def arrays(state):
    return {key: value.numpy().astype(np.float32) for key, value in state.items() if value.dim() > 0}


def lpips_network(lpips, net):
    """LPIPS with the published weights of its layers, which the package holds, on a random network."""
    torch.manual_seed(2)
    network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    for name, layer in network.named_modules():
        if isinstance(layer, torch.nn.Conv2d) and name.startswith("net."):
            torch.nn.init.kaiming_normal_(layer.weight)
            torch.nn.init.uniform_(layer.bias, -0.1, 0.1)
    return network


# --- Pieces -------------------------------------------------------------------------------------------

SIZES = {"enlarged": (40, 48), "reduced": (421, 757), "mixed": (150, 600), "of the same size": (299, 299)}


def test_frames():
    """A frame of each of the sizes: noise on gradients."""
    noise, frames = np.random.default_rng(4), {}
    for name, (height, width) in SIZES.items():
        ramp = np.linspace(0, 255, height)[:, None, None] * np.linspace(0, 1, width)[:, None] * np.array([1, 0.5, 0.8])
        frames[name] = np.clip(ramp + 40 * noise.standard_normal((height, width, 3)), 0, 255).astype(np.uint8)
    return frames


def as_input(image):
    return torch.from_numpy((image - 128) / 128).permute(2, 0, 1)[None]


def subset(count, size, number, side):
    """The samples of a subset of KID, as trainer/eval/kernel_distance.c draws them."""
    stream, order = Stream(SUBSET_SEED, number, side), list(range(count))
    for i in range(size):
        other = i + stream.below(count - i)
        order[i], order[other] = order[other], order[i]
    return order[:size]


def kid(cleanfid, x, y, size):
    """clean-fid's KID of the subsets of trainer/eval/kernel_distance.c, each as the only subset."""
    m = min(len(x), len(y), size)
    subsets = 1 if m == len(x) == len(y) else SUBSETS  # else all are the same
    scores = [cleanfid.fid.kernel_distance(x[subset(len(x), m, n, 0)].astype(np.float64),
                                           y[subset(len(y), m, n, 1)].astype(np.float64), num_subsets=1, max_subset_size=m)
              for n in range(subsets)]
    return np.mean(scores)


def fid(cleanfid, x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    return cleanfid.fid.frechet_distance(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))


def fid_by_samples(x, y):
    """The Frechet distance by the singular values of the samples' product: clean-fid's matrix root takes minutes for 2048
    features, and is inexact for covariances of a low rank."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = (x - x.mean(0)) / np.sqrt(len(x) - 1), (y - y.mean(0)) / np.sqrt(len(y) - 1)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + (a * a).sum() + (b * b).sum() - 2 * root


def close(found, expected, relative):
    return abs(found - expected) <= relative * abs(expected)


def deviation(a, b):
    """The root mean square difference, divided by the standard deviation of b."""
    return np.sqrt(((a - b) ** 2).mean()) / b.std()


def check_pieces(tap, root, modules, network, weights):
    cleanfid, _, _ = modules
    noise = np.random.default_rng(3)
    resize = cleanfid.resize.build_resizer("clean")
    for i, (name, frame) in enumerate(test_frames().items()):
        length = 64
        mix = noise.standard_normal((length, length)).astype(np.float32) / 8
        x = noise.standard_normal((200 + 60 * i, length)).astype(np.float32) @ mix + 0.2
        y = np.maximum(noise.standard_normal((50 + 70 * i, length)).astype(np.float32), 0)
        write_safetensors(f"{root}/in", {"frames": frame[None], "x": x, "y": y})
        size = (1000, 10, 20, 30)[i]
        run(os.path.join(BUILD, "tests/oracle/scores"), f"{root}/in", f"{root}/out", weights, str(size))
        out = read_safetensors(f"{root}/out")
        expected = resize(frame)
        error = np.abs(out["images"][0] - expected).max()
        tap.check(error < 1e-3, f"a frame {name}: equals clean-fid's resize", f"largest difference {error:.2e} of 255")
        with torch.no_grad():
            features = network(as_input(expected))[0].flatten(1).numpy()
            if i == 0:  # how far PyTorch's f32 is from its f64
                exact = copy.deepcopy(network).double()(as_input(expected).double())[0].flatten(1).numpy()
                rounding = deviation(features, exact)
        error = deviation(out["features"], features)
        tap.check(error < 4 * rounding and rounding < 1e-3, f"a frame {name}: features equal pytorch-fid's",
                  f"error {error:.2e} of their deviation, pytorch-fid's own rounding {rounding:.2e}")
        found, value = out["fid"][0], fid(cleanfid, x, y)
        tap.check(close(found, value, 1e-6 if len(y) > length else 1e-4),
                  f"FID of {len(x)} and {len(y)} samples equals clean-fid's", f"{found:.9f}, clean-fid {value:.9f}")
        tap.check(close(found, fid_by_samples(x, y), 1e-9), "and equals NumPy's singular values")
        found, value = out["kid"][0], kid(cleanfid, x, y, size)
        tap.check(close(found, value, 1e-9), f"KID with subsets of {min(len(x), len(y), size)} equals clean-fid's",
                  f"{found:.12f}, clean-fid {value:.12f}")


# --- Scores -------------------------------------------------------------------------------------------

def features_of(cleanfid, network, video):
    resize = cleanfid.resize.build_resizer("clean")
    with torch.no_grad():
        images = torch.cat([as_input(resize(frame)) for frame in video.reshape(-1, *video.shape[-3:])])
        return network(images)[0].flatten(1).numpy()


def check_distances(tap, name, cleanfid, scores, features, reference):
    columns = {key for key in features if key != reference}
    for column in columns:
        x, y = features[column], features[reference]
        for key, value, tolerance in (("fid", fid_by_samples(x, y), 1e-4), ("kid", kid(cleanfid, x, y, 1000), 1e-3)):
            found = scores[f"{key}_{column}"]
            tap.check(abs(found - value) <= tolerance * abs(value) + 1e-9, f"{name}: {key}_{column} equals clean-fid's",
                      f"{found:.9f}, clean-fid {value:.9f}")
    found = {key.split("_", 1)[1] for key in scores if key.startswith("kid_")}
    tap.check(found == columns and scores["fid_reference_frames"] == len(features[reference]),
              f"{name}: the columns are {', '.join(sorted(columns))}", str(found))


def lpips_of(lpips, network, a, b):
    """The distance of each frame of a to that of b, [N,H,W,3]."""
    with torch.no_grad():
        first, second = (torch.cat([lpips.im2tensor(frame) for frame in frames]) for frames in (a, b))
        return network(first, second).numpy().flatten().astype(np.float64)


def check_lpips(tap, name, lpips, network, scores, videos):
    frames = {key: video.reshape(-1, HEIGHT, WIDTH, 3) for key, video in videos.items()}
    steps = {key: lpips_of(lpips, network, np.concatenate(video[:, :-1]), np.concatenate(video[:, 1:]))
             for key, video in videos.items()}
    for column in ("input", "output", "frame"):
        expected = {"lpips": lpips_of(lpips, network, frames[column], frames["target"]).mean(),
                    "tlp": np.mean(np.abs(steps[column] - steps["target"]))}
        for key, value in expected.items():
            found = scores[f"{key}_{column}"]
            tap.check(abs(found - value) <= 1e-4 * value + 1e-7 and value > 1e-4, f"{name}: {key}_{column} equals lpips",
                      f"{found:.9f}, lpips {value:.9f}")


def aligned(root, folder):
    """Source, output, single frames and target of the clips, [CLIPS,FRAMES,HEIGHT,WIDTH,3]."""
    with h5py.File(f"{root}/data/shard-00000.h5") as shard:
        source, target = shard["clips/source"][:], shard["clips/target"][:]
    output = np.stack([test_eval.translate(root, folder, source[i], f"clip{i}") for i in range(CLIPS)])
    single = np.stack([test_eval.translate(root, folder, source[i, t:t + 1], f"frame{i}-{t}")[0]
                       for i in range(CLIPS) for t in range(FRAMES)]).reshape(output.shape)
    return {"input": source, "output": output, "frame": single, "target": target}


def check_scores(tap, root, modules, network, folder):
    cleanfid, lpips, _ = modules
    videos = aligned(root, folder)
    features = {key: features_of(cleanfid, network, video) for key, video in videos.items()}
    for net in ("alex", "vgg"):
        reference = lpips_network(lpips, net)
        write_safetensors(f"{root}/{net}.safetensors", arrays(reference.state_dict()))
        options = ("--inception", f"{root}/inception.safetensors") if net == "alex" else ()
        scores = test_eval.evaluate(root, folder, f"{root}/data", "--no-classifier", "--no-flow", "--lpips",
                                    f"{root}/{net}.safetensors", *options)
        check_lpips(tap, net, lpips, reference, scores, videos)
        tap.check(scores["lpips_network"] == {"alex": "AlexNet", "vgg": "VGG16"}[net], f"{net}: the network is recognised")
        if options:
            check_distances(tap, "against the target", cleanfid, scores, features, "target")
    celforge("synth", f"{root}/drawn", "--clips", "5", "--frames", "2", "--size", "64x56", "--seed", "6")
    with h5py.File(f"{root}/drawn/shard-00000.h5") as shard:
        cartoons = features_of(cleanfid, network, shard["clips/target"][:])
    scores = test_eval.evaluate(root, folder, f"{root}/data", "--no-classifier", "--no-flow", "--cartoons", f"{root}/drawn",
                                "--inception", f"{root}/inception.safetensors", "--clips", "1")
    first = {key: value[:FRAMES] for key, value in features.items()}
    check_distances(tap, "against cartoons", cleanfid, scores, {**first, "cartoons": cartoons}, "cartoons")


# --- Messages -----------------------------------------------------------------------------------------

def check_refusals(tap, root, folder):
    inception = read_safetensors(f"{root}/inception.safetensors")
    alex = {key: value for key, value in read_safetensors(f"{root}/alex.safetensors").items() if not key.startswith("lins.")}
    layer, last = "Conv2d_1a_3x3", "Mixed_7c.branch_pool.bn.weight"
    first = {key: value for key, value in inception.items() if key.startswith(layer)}
    files = {
        "missing": {key: value for key, value in first.items() if key != f"{layer}.bn.running_var"},
        "shape": {**first, f"{layer}.conv.weight": np.zeros((32, 3, 3), np.float32)},
        "infinite": {**first, f"{layer}.conv.weight": np.full((32, 3, 3, 3), np.inf, np.float32)},
        "negative": {**first, f"{layer}.bn.running_var": np.full(32, -1, np.float32)},
        "scale": {**first, f"{layer}.bn.weight": np.full(32, 3e38, np.float32),
                  f"{layer}.bn.running_var": np.full(32, 1e-9, np.float32)},
        "large": {**inception, last: np.full(192, 3e38, np.float32)},
        "squeeze": {"net.slice1.0.weight": np.zeros((64, 3, 3, 3), np.float32)},
        "no-heads": {key: value for key, value in alex.items() if not key.startswith("lin")},
    }
    for name, tensors in files.items():
        write_safetensors(f"{root}/{name}.st", tensors)
    with open(f"{root}/cut.st", "wb") as cut, open(f"{root}/alex.safetensors", "rb") as whole:
        cut.write(whole.read(20000))
    synth(f"{root}/tiny", 1, 2, "24x16")
    celforge("synth", f"{root}/live.mp4", "--frames", "8", "--size", "64x56", "--seed", "6")
    celforge("pack", f"{root}/sources", "--source", f"{root}/live.mp4", "--frames", "4", "--detect", "none")
    data, sources = f"{root}/data", f"{root}/sources"
    cases = [
        ("--inception", "absent.st", data, 74, ("absent.st: cannot open",)),
        ("--inception", "cut.st", data, 65, ("cut.st",)),
        ("--inception", "missing.st", data, 65, (f'"{layer}.bn.running_var" is missing, expected [32]', "docs/scores.md")),
        ("--inception", "shape.st", data, 65,
         (f'"{layer}.conv.weight" is F32 [32, 3, 3],', "expected F32, F16 or BF16 [32, 3, 3, 3]")),
        ("--inception", "infinite.st", data, 65, (f'"{layer}.conv.weight": element 0', "not finite")),
        ("--inception", "negative.st", data, 65, (f'"{layer}.bn.running_var": element 0 is -1',)),
        ("--inception", "scale.st", data, 65, (f'"{layer}.bn.weight" scales a weight to', "expected a finite number")),
        ("--inception", "large.st", data, 65, ("feature", "not finite", "docs/scores.md")),
        ("--inception", "alex.safetensors", data, 65, ('"Conv2d_1a_3x3.conv.weight" is missing, expected [32, 3, 3, 3]',)),
        ("--inception", "inception.safetensors", sources, 64, ("no targets", "--cartoons DATASET")),
        ("--lpips", "absent.st", data, 74, ("absent.st: cannot open",)),
        ("--lpips", "squeeze.st", data, 65, ("AlexNet", "VGG16", "docs/scores.md")),
        ("--lpips", "no-heads.st", data, 65, ('"lin0.model.1.weight" is missing, expected [1, 64, 1, 1]',)),
        ("--lpips", "alex.safetensors", sources, 64, ("no targets", "aligned target", "omit --lpips")),
        ("--lpips", "alex.safetensors", f"{root}/tiny", 64, ("at least 31x31", "24x16", "omit --lpips")),
    ]
    for option, file, dataset, code, words in cases:
        done = subprocess.run([os.path.join(BUILD, "celforge"), "eval", "--checkpoint", folder, "--data", dataset,
                               "--no-classifier", "--no-flow", option, f"{root}/{file}", "--json", f"{root}/none.json"],
                              capture_output=True, text=True, check=False)
        good = done.returncode == code and all(word in done.stderr for word in (option, *words))
        tap.check(good and not os.path.exists(f"{root}/none.json"), f"{option} {file} on {os.path.basename(dataset)}: refused",
                  f"exit code {done.returncode}: {done.stderr[-400:]}")


def check_single_frames(tap, root, folder):
    """One frame: no covariance, no subset of two, no change."""
    synth(f"{root}/one", 1, 1, "40x32")
    scores = test_eval.evaluate(root, folder, f"{root}/one", "--no-classifier", "--inception", f"{root}/inception.safetensors",
                                "--lpips", f"{root}/alex.safetensors")
    unknown = {key for key, value in scores.items() if value is None and key.startswith(("fid", "kid", "lpips", "tlp"))}
    tap.check(unknown == {f"{key}_{column}" for key in ("fid", "kid", "tlp") for column in ("input", "output", "frame")},
              "one frame has LPIPS alone", str(unknown))


def check_unaligned(tap, root, folder):
    """Sources without targets: single frames have no column, and the note counts both sides."""
    data = ("--data", f"{root}/sources", "--cartoons", f"{root}/drawn", "--clips", "1")
    text = celforge("eval", "--checkpoint", folder, *data, "--no-classifier", "--no-flow", "--inception",
                    f"{root}/inception.safetensors", "--json", f"{root}/unaligned.json").decode()
    with open(f"{root}/unaligned.json", encoding="utf-8") as file:
        scores = json.load(file)
    tap.check({key for key in scores if key.startswith(("kid_", "fid_"))}
              == {"kid_input", "kid_output", "fid_input", "fid_output", "fid_reference_frames"}
              and scores["fid_reference_frames"] == 10 and None not in (scores["kid_output"], scores["fid_output"]),
              "sources without targets: KID and FID of source and output", str(scores))
    tap.check("compares 4 frames with 10 of the cartoons" in " ".join(text.split()), "the table says that FID is biased", text)


def main():
    tap = Tap()
    modules = packages.pretrained_scores()
    if not modules:
        print("ok 1 - pretrained scores # SKIP pip cannot fetch clean-fid, pytorch-fid and lpips for this Python")
        return
    torch.set_num_threads(2)
    with scratch() as root:
        synth(f"{root}/data", CLIPS, FRAMES, f"{WIDTH}x{HEIGHT}")
        folder = train(f"{root}/run", {"data.path": f"{root}/data", **test_eval.SETTINGS})
        with h5py.File(f"{root}/data/shard-00000.h5") as shard:
            frames = [*test_frames().values(), *shard["clips/source"][:, 0], *shard["clips/target"][:, 0]]
        resize = modules[0].resize.build_resizer("clean")
        network, inner = fid_inception(modules[2], torch.cat([as_input(resize(frame)) for frame in frames]))
        write_safetensors(f"{root}/inception.safetensors", state_by_layer(network, inner))
        check_pieces(tap, root, modules, network, f"{root}/inception.safetensors")
        check_scores(tap, root, modules, network, folder)
        check_single_frames(tap, root, folder)
        check_refusals(tap, root, folder)
        check_unaligned(tap, root, folder)
    tap.end()


if __name__ == "__main__":
    main()
