#!/usr/bin/python3
"""Keeps words out that a reader of PyTorch's, NCCL's and FFmpeg's docs would have to look up here.

One word for one thing: each rule names the term of the field to use instead. Where a word stays, EXCEPTIONS say in which files and
why; an exception that is needed no longer is reported, too.

    tests/style/test_words.py            TAP, as part of `make test` and `make lint`
    tests/style/test_words.py --list     the words that remain, with the reason for each
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ENDINGS = (".c", ".h", ".cu", ".cc", ".py", ".sh", ".md", ".yaml", ".sbatch")

# (name, pattern, what to write instead). Patterns are matched in lines, without regard to case, unless (?-i:...) says otherwise.
RULES = [
    ("verdict", r"\bverdicts?\b", "discriminator output, logits; of the guard: action"),
    ("judge", r"\bjudg(e|es|ed|ing)\b", "discriminate; score; compare"),
    ("game", r"\bgames?\b", "adversarial loss"),
    ("film", r"\bfilms?\b", "source, video or clip, whichever it is"),
    ("cel", r"\bcels?\b", "target, cartoon"),
    ("carries", r"\bcarries_\w+|\bcarried sums?\b|(?-i:\bCarries\b)", "gradient accumulation tree"),
    ("averager", r"\baverager\w*", "all-reduce"),
    ("mean over the ranks", r"\bmeans? over the ranks\b", "all-reduced mean (of losses), all-reduce (of gradients)"),
    ("patience", r"\bpatience\b", "timeout budget"),
    ("meet", r"(?-i:\bmeet\()|\branks meet\b", "synchronise"),
    ("go back", r"\bwent_back\b|\bgoing_back\b|\b(go|goes|went|gone) back to (the|its|a) (last )?checkpoint\b", "roll back"),
    ("left out", r"\bleft_out\w*", "skipped batches"),
    ("exchange", r"(?-i:\bExchange\b)|\bexchange_\w+", "gradient sync"),
    ("effects", r"\beffects\.(c|h|cu)\b|\beffect_\w+", "update"),
    ("movement", r"\bmovement\.(c|h|cu)\b|\bMovementKernel\b", "concat, slice"),
    ("mark", r"(?-i:\b\w*[a-z]_marks?\b|\bmarks?_[a-z]\w*|\bDeviceMark\b|\bMark\b)", "event"),
    ("ceilings", r"\bceilings?\b", "peaks"),
    ("lanes.h", r"\blanes\.h\b|\bfunctions\.h\b", "simd.h, vector_math.h"),
    ("form", r"\bconvolution_form\w*|\bConvolutionForm\b|\bConvForm\b", "convolution variant"),
    ("trust", r"\btrust(ed|s)?_\w+|\btrust\.(c|h)\b", "denylist"),
    ("offer", r"\bcudnn_offer\w*|(?-i:\bOffer\b)", "candidates"),
    ("claims", r"\bcudnn_claim\w*|(?-i:\bClaims?\b)", "build lock"),
    ("workers", r"\bcudnn_workers?\w*|(?-i:\bCudnnWorkers\b)", "build threads"),
    ("old config keys", r"\b(generator_rate|discriminator_rate|decay_from|rate_floor|rate_warmup|l1_warmup|fade_in|r1_every"
     r"|plan_threads|data\.ahead|cuda\.tune|guard\.outlier|optim\.schedule|model\.(downs|enhancers))\b", "the new key"),
    ("old metrics", r"\b(rate/[gd]|wait/(data|comm)|slowest/\w+)", "lr/g, time/data, straggler/rank"),
    ("comm_same", r"\bcomm_same\b", "compare digests"),
    ("look, seen, standing", r"(?-i:struct (Look|Seen|Standing|Expiry)\b)", "HeartbeatSnapshot, PeerState, RankStatus, Timeout"),
    ("plot, play", r"(?-i:\b(Plot|Play|Stretch|Waking)\b)", "segments, Simulator, Segment, event"),
    ("near, far", r"\b(near|far)\.(latency_us|bandwidth|adapters)\b", "intra_node, inter_node"),
    ("taps as channels", r"\btaps as channels\b|\btaps\.(h|cu)\b", "im2col"),
    ("draw", r"\bweights? (is|are|were) drawn\b|\bdraws? (the )?weights\b", "initialise"),
    ("is had", r"\b(is|are|was|were|be) had\b", "obtained"),
    ("is said to", r"\b(is|are) said to\b", "passed to"),
    ("goes on", r"\b(goes|go|went) on (with|from|where|at|as|behind|while|to)\b|\bgoes on[.;:,]", "continues, resumes"),
    ("as it is", r"\bas (it is|they are|it was|they were)[.,;:)]", "unchanged"),
    ("now and then", r"\bnow and then\b", "every N steps"),
    ("whoever", r"\bwhoever\b", "the caller, the user, or a plural"),
    ("what nobody", r"\bwhat nobody\b", "unused"),
    ("What as a first word", r"(?-i:(/\*|^\s*\*|^\s*#)\s+(What|Those that|Those|Whoever|Of those) (?!if\b))", "a sentence with a subject and a verb"),
]

# {rule: [(path pattern, reason)]}
EXCEPTIONS = {
    "mark": [(r"^base/config/yaml\.c$", "libyaml's names for positions: start_mark, problem_mark")],
    "old config keys": [(r"^trainer/config/config\.c$", "the table that refuses old keys and names the new ones")],
    "near, far": [(r"/scaling/(test_)?cluster_model\.c$", "the table that refuses old keys of cluster files")],
}


def tracked_files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:  # a source archive
        names = [os.path.relpath(os.path.join(path, name), ROOT) for path, _, found in os.walk(ROOT) for name in found]
    for name in sorted(names):
        path = os.path.join(ROOT, name)
        if name.startswith("build/") or not os.path.isfile(path) or os.path.islink(path) or name == "tests/style/test_words.py":
            continue
        if name.endswith(ENDINGS) or name in ("Makefile", ".ci/run") or is_script(path):
            yield name


def is_script(path):
    with open(path, "rb") as file:
        return file.read(2) == b"#!"


def find_words():
    """[(rule, file, line number, line)]"""
    found = []
    rules = [(name, re.compile(f"(?i){pattern}")) for name, pattern, _ in RULES]
    for name in tracked_files():
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                for rule, pattern in rules:
                    if pattern.search(line):
                        found.append((rule, name, number, line.strip()))
    return found


def reason_for(rule, name):
    for pattern, reason in EXCEPTIONS.get(rule, []):
        if re.search(pattern, name):
            return pattern, reason
    return None, None


def main():
    instead = {name: term for name, _, term in RULES}
    bad, kept, used = [], {}, set()
    for rule, name, number, line in find_words():
        pattern, reason = reason_for(rule, name)
        if reason is None:
            bad.append(f"{name}:{number}: \"{rule}\": {instead[rule]}: {line[:100]}")
        else:
            used.add((rule, pattern))
            kept.setdefault((rule, reason), set()).add(name)
    if "--list" in sys.argv:
        for (rule, reason), names in sorted(kept.items()):
            print(f"{rule}: {', '.join(sorted(names))}\n    {reason}")
        return
    unused = [f"\"{rule}\" in {pattern}" for rule, entries in EXCEPTIONS.items() for pattern, _ in entries
              if (rule, pattern) not in used]
    for number, (name, problems) in enumerate((("no word of the old dialect", bad), ("no exception without use", unused)), 1):
        print(f"{'not ok' if problems else 'ok'} {number} - {name}")
        for problem in problems:
            print(f"# {problem}")
    print("1..2")
    sys.exit(1 if bad or unused else 0)


if __name__ == "__main__":
    main()
