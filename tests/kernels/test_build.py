"""The extension links nothing heavy, loads fast, and its absence is reported with the remedy."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from curbench import kernels
from curbench.kernels.extension import load

ROOT = pathlib.Path(__file__).parents[2]


def run_python(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(shutil.which("ldd") is None, reason="ldd is not installed")
def test_the_extension_links_neither_torch_nor_cuda():
    linked = subprocess.run(["ldd", load().__file__], capture_output=True, text=True, check=True).stdout
    for library in ("libtorch", "libc10", "libcuda.so", "libcudart", "not found"):
        assert library not in linked


def test_importing_the_kernels_imports_neither_torch_nor_numba():
    code = "import sys, curbench.kernels as k; k.build_info(); print({'torch', 'numba', 'scipy'} & set(sys.modules))"
    assert run_python("-c", code).stdout.strip() == "set()"


def test_the_tests_of_the_kernels_need_little_of_what_the_package_needs():
    code = """if True:
        import sys
        absent = "scipy pydantic reasoning_gym transformers yaml typer rich pyarrow safetensors matplotlib"
        sys.modules.update(dict.fromkeys(absent.split()))
        import pytest
        sys.exit(pytest.main(["--collect-only", "-p", "no:cacheprovider", "-m", "cuda", "tests/kernels"]))
    """
    run = run_python("-c", code)
    assert run.returncode == 0, run.stdout


def test_calling_an_op_on_numpy_arrays_does_not_import_torch():
    code = "import sys, curbench.kernels as k; k.group_advantage([0.0, 1.0], 2); print('torch' in sys.modules)"
    assert run_python("-c", code).stdout.strip() == "False"


def test_without_the_extension_import_works_and_calls_say_how_to_build_it():
    code = """if True:
        import sys
        sys.modules["curbench.kernels._C"] = None
        from curbench import kernels
        print(kernels.build_info()["kernels"])
        print(kernels.group_advantage([0.0, 1.0], 2, backend="reference").mean)
        kernels.group_advantage([0.0, 1.0], 2)
    """
    run = run_python("-c", code)
    assert run.stdout.splitlines()[1] == "[0.5]"
    for text in (run.stdout, run.stderr):
        assert "not compiled: run `pip install -e .`" in text
    assert "RuntimeError" in run.stderr


def test_build_info_says_what_was_built_and_what_is_here():
    info = kernels.build_info()
    count, reason = kernels.cuda_status()
    assert info["build"].startswith(("built with CUDA for ", "built without CUDA: "))
    assert info["cuda"] == (f"{count} device(s)" if count else f"not available ({reason})")


def build(folder, **environment):
    """A build that ends where it would compile C++, since that is the part that takes long."""
    pytest.importorskip("pybind11")
    arguments = ["setup.py", "-q", "build_ext", "--build-temp", str(folder / "temp"), "--build-lib", str(folder)]
    return run_python(*arguments, **{"CURBENCH_CUDA": "auto", "CC": "false", "CXX": "false"} | environment)


@pytest.fixture
def nvcc(tmp_path):
    """Writes a compiler driver that lists architectures and ends with an exit status, in a toolkit of its own."""

    def write(listed="compute_80 compute_90 compute_100", says="", status=0, runtime=True):
        (tmp_path / "lib64").mkdir()
        if runtime:
            (tmp_path / "lib64" / "libcudart_static.a").touch()
        lines = [
            "#!/bin/sh",
            f'[ "$1" = --list-gpu-arch ] && echo "{listed}" && exit 0',
            f'echo "#$ TOP={tmp_path}\n{says}" >&2; exit {status}',
        ]
        script = tmp_path / "nvcc"
        script.write_text("\n".join(lines))
        script.chmod(0o755)
        return str(script)

    return write


@pytest.mark.parametrize(
    ("listed", "archs"),
    [
        ("compute_80 compute_90 compute_100 compute_120", "80;90;100+PTX"),
        ("compute_52 compute_80 compute_86 compute_90", "80;90+PTX"),
        ("compute_80", "80+PTX"),
    ],
)
def test_default_architectures_are_those_that_nvcc_knows(nvcc, tmp_path, listed, archs):
    run = build(tmp_path, NVCC=nvcc(listed))
    assert run.stdout.splitlines()[0] == f"curbench.kernels: built with CUDA for {archs}, CURBENCH_CUDA=auto"


@pytest.mark.parametrize(
    ("toolkit", "reason"),
    [
        ({"listed": "compute_50"}, "NVCC knows none of the architectures 80, 90 and 100"),
        ({"status": 1, "says": "x.cu: fatal error: no headers"}, "NVCC failed with x.cu: fatal error: no headers"),
        ({"status": 3}, "NVCC failed with exit status 3"),
        ({"runtime": False}, "libcudart_static.a was not found under ROOT"),
    ],
)
def test_a_toolkit_that_does_not_work_is_noted_or_refused(nvcc, tmp_path, toolkit, reason):
    driver = nvcc(**toolkit)
    reason = reason.replace("NVCC", driver).replace("ROOT", str(tmp_path))
    run = build(tmp_path, NVCC=driver)
    assert run.stdout.splitlines()[0] == f"curbench.kernels: built without CUDA: {reason}"
    refusal = f"asks for CUDA, but {reason}; install the CUDA toolkit, or set CURBENCH_CUDA=0"
    run = build(tmp_path, NVCC=driver, CURBENCH_CUDA="1")
    assert run.stderr.strip().splitlines()[-1] == f"CURBENCH_CUDA=1 {refusal}"
    if "listed" not in toolkit:
        run = build(tmp_path, NVCC=driver, CURBENCH_CUDA_ARCHS="90")
        assert run.stderr.strip().splitlines()[-1] == f"CURBENCH_CUDA_ARCHS {refusal}"


def test_a_toolkit_for_another_processor_is_noted(nvcc, tmp_path):
    driver = nvcc()
    pathlib.Path(driver).write_text("not a program")
    run = build(tmp_path, NVCC=driver)
    why = f"built without CUDA: {driver} does not start (Exec format error)"
    assert run.stdout.splitlines()[0] == f"curbench.kernels: {why}"


def test_an_extension_of_another_decision_is_compiled_again(tmp_path):
    name = pathlib.Path(load().__file__).name
    built = tmp_path / "curbench" / "kernels" / name
    built.parent.mkdir(parents=True)
    built.write_bytes(b"built without CUDA: CURBENCH_CUDA=0")
    assert build(tmp_path, CURBENCH_CUDA="0").returncode == 0
    for other in (
        b"built with CUDA for 90, CURBENCH_CUDA=1",
        b"built without CUDA: CURBENCH_CUDA=0, CURBENCH_SANITIZE=x",
    ):
        built.write_bytes(other)
        assert build(tmp_path, CURBENCH_CUDA="0").returncode == 1


def test_the_extension_carries_the_note_of_its_build():
    assert kernels.build_info()["build"].encode() in pathlib.Path(load().__file__).read_bytes()


def test_an_extension_in_place_is_replaced_even_if_it_is_newer(tmp_path):
    pytest.importorskip("pybind11")
    kept = pathlib.Path("curbench", "kernels", pathlib.Path(load().__file__).name)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    for folder, note in (("build", b"built without CUDA: CURBENCH_CUDA=0"), (".", b"another")):
        (tmp_path / folder / kept).parent.mkdir(parents=True)
        (tmp_path / folder / kept).write_bytes(note)
    os.utime(tmp_path / kept, (2**32, 2**32))
    (tmp_path / "curbench" / "kernels" / "__init__.py").touch()
    (tmp_path / "curbench" / "__init__.py").touch()
    arguments = ("setup.py", "-q", "build_ext", "--inplace", "--build-lib", "build")
    run = run_python(*arguments, cwd=tmp_path, CURBENCH_CUDA="0", CC="false", CXX="false")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / kept).read_bytes() == b"built without CUDA: CURBENCH_CUDA=0"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CURBENCH_CUDA": "yes"}, "CURBENCH_CUDA must be auto, 0 or 1; got 'yes'"),
        ({"CURBENCH_CUDA_ARCHS": "sm_90"}, "CURBENCH_CUDA_ARCHS must be a list such as \"80;90;100+PTX\"; got 'sm_90'"),
        ({"CURBENCH_SANITIZE": "-O3"}, "CURBENCH_SANITIZE must be a list such as \"address,undefined\"; got '-O3'"),
        ({"NVCC": "/nowhere/nvcc"}, "NVCC must name an executable; got '/nowhere/nvcc'"),
    ],
)
def test_a_wrong_build_setting_is_one_sentence(environment, message, tmp_path):
    run = build(tmp_path, **environment)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == message
