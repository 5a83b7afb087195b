"""Build llama.cpp's libraries for a back end, from llama-cpp-python's sources, for the installed bindings.

    python tests/gpu/build.py cuda SOURCES OUT [--jobs 16]

SOURCES is an unpacked sdist of llama-cpp-python, or what of it a build needs (`SOURCE_PARTS`: 3 MB packed).
OUT/bin is what LLAMA_CPP_LIB_PATH and MTMD_CPP_LIB name afterwards: the installed llama-cpp-python then loads
these instead of its own. A build that was interrupted goes on where it stopped. CUDA is built for the card
that is there; cuBLAS may come from NVIDIA's Python packages. Needs CMake, Ninja, a C++ compiler and the back
end's own compiler (nvcc, glslc, hipcc).
"""

from __future__ import annotations

import argparse
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SOURCE_PARTS = (
    "CMakeLists.txt",
    *(
        f"vendor/llama.cpp/{name}"
        for name in (
            "CMakeLists.txt", "LICENSE", "cmake", "common", "ggml", "include", "licenses", "scripts", "src",
            "tools/mtmd", "vendor",
        )
    ),
)  # fmt: skip
FLAGS = {
    "cpu": [],
    "cuda": ["-DGGML_CUDA=ON"],
    "vulkan": ["-DGGML_VULKAN=ON"],
    "rocm": ["-DGGML_HIP=ON"],
    "metal": ["-DGGML_METAL=ON", "-DGGML_METAL_EMBED_LIBRARY=ON"],
}
TARGETS = ("llama", "mtmd", "ggml")


def build(backend: str, sources: Path, out: Path, jobs: int, more: Sequence[str] = ()) -> Path:
    """Compiles what the bindings load.

    Args:
        backend: a key of FLAGS.
        sources: folder with llama-cpp-python's CMakeLists.txt.
        out: folder of the build; kept between runs.
        jobs: compilers at once.
        more: arguments for CMake.

    Returns:
        The folder of the libraries.
    """
    libraries = out / "bin"
    flags = [*FLAGS[backend], *(cuda_flags() if backend == "cuda" else []), *more]
    cmake = shutil.which("cmake") or "cmake"
    configure = [
        cmake, "-S", str(sources), "-B", str(out), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-Wno-dev",
        "-DSKBUILD_PLATLIB_DIR=unused", f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={libraries}",
        f"-DCMAKE_RUNTIME_OUTPUT_DIRECTORY={libraries}", "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON", *flags,
    ]  # fmt: skip
    subprocess.run(configure, check=True)
    subprocess.run([cmake, "--build", str(out), "--target", *TARGETS, "--parallel", str(jobs)], check=True)
    return libraries


def cuda_flags() -> list[str]:
    """The card's architecture, and cuBLAS of NVIDIA's Python packages where the toolkit has none."""
    flags = ["-DGGML_CUDA_NO_VMM=ON", f"-DCMAKE_CUDA_ARCHITECTURES={_compute_capability()}"]
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    flags.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
    toolkit = Path(nvcc).resolve().parents[1]
    if any(toolkit.rglob("cublas_v2.h")):
        return flags
    headers = [p.parent for p in _in_packages("cublas_v2.h")]
    if not headers:
        raise SystemExit(f"{toolkit} has no cuBLAS. Install it, or `pip install nvidia-cublas`.")
    for name in ("cublas", "cublasLt"):
        found = sorted(_in_packages(f"lib{name}.so*"))
        flags.append(f"-DCUDA_{name}_LIBRARY={found[0]}")
    include = f"-I{headers[0]}"
    return [*flags, f"-DCMAKE_CUDA_FLAGS={include}", f"-DCMAKE_CXX_FLAGS={include}"]


def _in_packages(pattern: str) -> list[Path]:
    roots = {Path(root) / "nvidia" for root in (*site.getsitepackages(), *sys.path) if root}
    return [path for root in sorted(roots) if root.is_dir() for path in root.rglob(pattern)]


def _compute_capability() -> str:
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("CUDA_ARCHITECTURES", "native")
    return ";".join(sorted({line.strip().replace(".", "") for line in answer.splitlines() if line.strip()}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("backend", choices=FLAGS)
    parser.add_argument("sources", type=Path, help="llama-cpp-python's sources")
    parser.add_argument("out", type=Path, help="folder of the build")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at once (all cores)")
    options, others = parser.parse_known_args()
    print(build(options.backend, options.sources, options.out, options.jobs, others))
