"""Installs packages from PyPI for the tests, once, in the build folder and separate from Debian's packages."""
import os
import shutil
import subprocess
import sys
import types
import warnings

ONNX = "onnx-1.17.0-runtime-1.20.1", ["onnx==1.17.0", "onnxruntime==1.20.1", "numpy<3"]

FOLDER = os.path.join(os.path.abspath(os.environ.get("BUILD", "build")), "python")


def fetch(name, requirements, *flags):
    """Returns the folder for PYTHONPATH, or None if pip cannot fetch the packages. `name` must identify the versions."""
    folder = os.path.join(FOLDER, name)
    if not os.path.isdir(folder):
        temporary = f"{folder}.{os.getpid()}"
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1",
                   "--timeout", "20", "--target", temporary, *flags, *requirements]
        try:
            subprocess.run(command, timeout=600, check=True, capture_output=True)
            os.rename(temporary, folder)
        except (subprocess.SubprocessError, OSError):  # OSError also if another test has installed it first
            shutil.rmtree(temporary, ignore_errors=True)
    return folder if os.path.isdir(folder) else None


def opencv():
    """Returns the module cv2, running on Debian's NumPy, or None if pip cannot fetch it."""
    folder = fetch("opencv-4.11.0.86", ["opencv-python-headless==4.11.0.86"], "--no-deps")
    if not folder:
        return None
    sys.path.insert(0, folder)
    import cv2
    cv2.setNumThreads(1)
    return cv2


def pretrained_scores():
    """Returns the modules cleanfid, lpips and pytorch_fid (with their parts fid, resize, inception), running on Debian's
    PyTorch, or None if pip cannot fetch them. torchvision is used without its compiled ops."""
    folder = fetch("scores-clean-fid-0.1.35-lpips-0.1.4-pytorch-fid-0.3.0",
                   ["clean-fid==0.1.35", "lpips==0.1.4", "pytorch-fid==0.3.0", "torchvision==0.15.2", "scipy==1.10.1",
                    "pillow==9.4.0", "tqdm==4.66.5"], "--no-deps")
    if not folder:
        return None
    sys.path.insert(0, folder)
    warnings.filterwarnings("ignore", module="torchvision")
    sys.modules.setdefault("requests", types.ModuleType("requests"))  # cleanfid downloads weights with it
    try:
        import cleanfid.fid
        import cleanfid.resize
        import lpips
        import pytorch_fid.inception
    except (ImportError, RuntimeError):  # another Python or PyTorch than these versions are made for
        return None
    return cleanfid, lpips, pytorch_fid
