"""Packages from PyPI that a test reads files with: fetched once into the build folder, and apart from Debian's."""
import os
import shutil
import subprocess
import sys

ONNX = "onnx-1.17.0-runtime-1.20.1", ["onnx==1.17.0", "onnxruntime==1.20.1", "numpy<3"]

FOLDER = os.path.join(os.path.abspath(os.environ.get("BUILD", "build")), "python")


def fetch(name, requirements, *flags):
    """The folder for PYTHONPATH, or None where pip cannot fetch them. `name` tells versions apart."""
    folder = os.path.join(FOLDER, name)
    if not os.path.isdir(folder):
        part = f"{folder}.{os.getpid()}"
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1",
                   "--timeout", "20", "--target", part, *flags, *requirements]
        try:
            subprocess.run(command, timeout=600, check=True, capture_output=True)
            os.rename(part, folder)
        except (subprocess.SubprocessError, OSError):  # the latter also where another test was first
            shutil.rmtree(part, ignore_errors=True)
    return folder if os.path.isdir(folder) else None


def opencv():
    """The module cv2, on Debian's NumPy; None where pip cannot fetch it."""
    folder = fetch("opencv-4.11.0.86", ["opencv-python-headless==4.11.0.86"], "--no-deps")
    if not folder:
        return None
    sys.path.insert(0, folder)
    import cv2
    cv2.setNumThreads(1)
    return cv2
