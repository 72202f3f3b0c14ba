"""Helpers of the oracle tests: TAP output, running the binaries, scratch folders, short training runs."""
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

BUILD = os.path.abspath(os.environ.get("BUILD", "build"))


# A generator without discriminators; a few large steps move it away from its initial weights.
GENERATOR_ALONE = {
    "data.flip": False,
    "model.channels": 8,
    "model.blocks": 2,
    "model.image_scales": 0,
    "model.video": False,
    "loss.adversarial_weight": 0,
    "optim.generator_lr": 5e-3,
    "optim.ema": 0.5,
    "optim.lr_schedule": "constant",
    "train.steps": 4,
    "train.global_batch": 2,
    "train.threads": 1,
    "samples.every": 0,
}


class Tap:
    def __init__(self):
        self.count = self.failed = 0

    def check(self, good, name, detail=""):
        self.count += 1
        self.failed += not good
        print(f"{'ok' if good else 'not ok'} {self.count} - {name}", flush=True)
        if detail:
            print("\n".join(f"# {line}" for line in detail.splitlines()), flush=True)

    def skip(self, name, reason):
        self.count += 1
        print(f"ok {self.count} - {name} # SKIP {reason}", flush=True)

    def end(self):
        print(f"1..{self.count}")
        sys.exit(1 if self.failed else 0)


def scratch():
    return tempfile.TemporaryDirectory(prefix="celforge-oracle-")


def run(*command, **options):
    """Runs a command and returns its standard output; a failure raises with its standard error."""
    done = subprocess.run(command, capture_output=True, timeout=600, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr.decode()}")
    return done.stdout


def celforge(*arguments):
    return run(os.path.join(BUILD, "celforge"), *arguments)


def synth(folder, clips, frames, size, seed=1):
    celforge("synth", folder, "--clips", str(clips), "--frames", str(frames), "--size", size, "--seed", str(seed))


def write_config(path, settings):
    """Writes a config of these settings (section.key -> value); returns its path."""
    sections = {}
    for name, value in settings.items():
        section, key = name.split(".")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        sections.setdefault(section, []).append(f"  {key}: {text}\n")
    with open(path, "w", encoding="utf-8") as file:
        for section, lines in sections.items():
            file.write(f"{section}:\n" + "".join(lines))
    return path


def train(folder, settings):
    """Trains with these settings; returns the run folder."""
    name = os.path.basename(folder) + ".yaml"
    config = write_config(os.path.join(os.path.dirname(folder), name), settings)
    celforge("train", config, "--set", f"run.dir={folder}")
    return folder
