"""Finds OpenBLAS for PyTorch's matrix products. Debian's default BLAS is the reference implementation, tens of times slower."""
import glob
import os
import shutil
import subprocess

PACKAGE = "libopenblas0-openmp"
FOLDER = os.path.join(os.path.abspath(os.environ.get("BUILD", "build")), "openblas")


def installed(root):
    """Returns the folder below `root` that has OpenBLAS as libblas.so.3, or None."""
    files = glob.glob(os.path.join(root, "usr/lib/*/openblas-openmp/libblas.so.3"))
    return os.path.dirname(files[0]) if files else None


def fetch():
    """Returns the folder for LD_LIBRARY_PATH, or None if there is no OpenBLAS. Downloads Debian's package once, but does not
    install it, because that would replace the BLAS of all programs."""
    if not installed("/") and not installed(FOLDER):
        temporary = f"{FOLDER}.{os.getpid()}"
        os.makedirs(temporary)
        try:
            for command in (["apt-get", "download", "-q", PACKAGE], ["sh", "-c", "dpkg-deb -x *.deb root"]):
                subprocess.run(command, cwd=temporary, timeout=300, check=True, capture_output=True)
            os.rename(os.path.join(temporary, "root"), FOLDER)
        except (subprocess.SubprocessError, OSError):  # OSError also if there is no apt-get
            pass
        shutil.rmtree(temporary, ignore_errors=True)
    return installed("/") or installed(FOLDER)
