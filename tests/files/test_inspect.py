"""What `inspect_file` says about files whose answers are known."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from gemma4_gguf import templates
from gemma4_gguf.errors import GGUFError
from gemma4_gguf.files.chat_template import describe_template
from gemma4_gguf.files.gguf_header import Field, TensorEntry, pack_fields, pack_header
from gemma4_gguf.files.inspect import inspect_file

Fixture = Callable[..., Any]
MIB = 2**20


def empty_model(
    path: Path, n_layers: int, *tensors: TensorEntry, arch: str = "gemma4", **values: int
) -> Path:
    """A model of the given size whose weights are a hole in the file."""
    numbers = {
        "block_count": n_layers,
        "context_length": 131072,
        "embedding_length": 1536,
        "attention.head_count": 8,
        "attention.head_count_kv": 1,
        "attention.sliding_window": 512,
        "attention.key_length": 512,
        "attention.key_length_swa": 256,
        **values,
    }
    pattern = [i % 5 != 4 for i in range(n_layers)]
    fields = [
        Field("general.architecture", arch, "STRING"),
        Field("general.file_type", 15, "UINT32"),
        *(Field(f"{arch}.{key}", value, "UINT32") for key, value in numbers.items()),
        Field(f"{arch}.attention.sliding_window_pattern", pattern, "ARRAY", "BOOL"),
    ]
    header = pack_header(pack_fields(fields), tensors)
    with path.open("wb") as file:
        file.write(header.data)
        file.truncate(header.file_bytes)
    return path


def table(name: str, rows: int, width: int) -> TensorEntry:
    return TensorEntry(name, (rows, width), "Q4_K", rows * width // 256 * 144)


@pytest.mark.parametrize(
    ("member", "n_layers", "billions", "values", "effective"),
    [
        ("E2B", 35, 4.6, {"embedding_length_per_layer_input": 256}, 2.25),
        ("E4B", 42, 7.5, {"embedding_length_per_layer_input": 256}, 4.68),
        ("12B", 48, 11.9, {}, 11.9),
        ("26B-A4B", 30, 25.2, {"expert_count": 128, "expert_used_count": 8}, 25.2 - 0.3 * 120 / 128),
        ("31B", 60, 30.7, {}, 30.7),
        ("custom", 35, 0.5, {}, 0.5),
    ],
)
def test_members(
    tmp_path: Path, member: str, n_layers: int, billions: float, values: dict[str, int], effective: float
) -> None:
    tensors = []
    if "embedding_length_per_layer_input" in values:
        tensors.append(table("per_layer_token_embd.weight", 262_144, 256 * n_layers))
    if "expert_count" in values:
        tensors.append(table("blk.0.ffn_down_exps.weight", 300_000_000 // 256, 256))
    rest = int(billions * 1e9) - sum(entry.shape[0] * entry.shape[1] for entry in tensors)
    path = empty_model(
        tmp_path / "model.gguf", n_layers, *tensors, table("blk.0.ffn_up.weight", rest // 256, 256), **values
    )
    report = inspect_file(path)
    assert report.member == member
    assert report.quantization == "Q4_K_M"
    assert report.n_parameters / 1e9 == pytest.approx(billions, rel=1e-3)
    assert report.n_effective / 1e9 == pytest.approx(effective, rel=2e-3)
    assert report.bits_per_weight == 4.5
    assert report.context_length == 131072


def test_memory_of_e2b_at_32k(tmp_path: Path) -> None:
    path = empty_model(tmp_path / "e2b.gguf", 35, **{"attention.shared_kv_layers": 20})
    memory = inspect_file(path, 32768).memory
    assert memory is not None
    assert (memory.cache_sliding_bytes, memory.cache_full_bytes) == (12 * 1024 * 1024, 6 * 1024 * 32768)


ALLOCATE = """
import sys
from llama_cpp import llama_cpp as llama
log = llama.llama_log_callback(lambda level, text, data: sys.stdout.write(text.decode()))
llama.llama_log_set(log, None)
model = llama.llama_model_load_from_file(sys.argv[1].encode(), llama.llama_model_default_params())
params = llama.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_ubatch, params.swa_full = int(sys.argv[2]), 512, 512, False
llama.llama_init_from_model(model, params)
"""


@pytest.mark.parametrize(("member", "n_ctx"), [("e2b", 4096), ("e4b", 300), ("26b", 4096)])
def test_cache_is_what_llama_cpp_allocates(converted: Fixture, member: str, n_ctx: int) -> None:
    path = converted(member, "BF16", "BF16")["model"]
    # In a child: the log callback is the process's, and the engine has its own.
    command = [sys.executable, "-c", ALLOCATE, str(path), str(n_ctx)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    full, sliding = (float(mib) for mib in re.findall(r"llama_kv_cache: size = +([\d.]+) MiB", said))
    memory = inspect_file(path, n_ctx).memory
    assert memory is not None
    assert memory.cache_full_bytes / MIB == pytest.approx(full, abs=0.006)
    assert memory.cache_sliding_bytes / MIB == pytest.approx(sliding, abs=0.006)
    assert memory.total_bytes == memory.weights_bytes + memory.cache_full_bytes + memory.cache_sliding_bytes


def test_a_small_model(converted: Fixture) -> None:
    report = inspect_file(converted("e2b", "Q4_K_M", "BF16")["model"])
    assert (report.kind, report.member, report.quantization) == ("model", "custom", "Q4_K_M")
    assert (report.width, report.n_vocab, report.n_experts) == (256, 1000, 0)
    assert report.attention is not None
    assert report.attention.pattern == "ssfssf"
    assert (report.attention.n_sliding, report.attention.n_full, report.attention.window) == (4, 2, 32)
    assert (report.attention.n_shared_kv, report.attention.n_heads) == (3, 4)
    assert (report.attention.head_dim_sliding, report.attention.head_dim_full) == (32, 64)
    assert report.n_parameters - report.n_effective == 1000 * 192
    groups = {group.name: group for group in report.groups}
    assert groups["token embeddings"].types == {"Q6_K": 1000 * 210}
    # Rows of 192 do not fit blocks of 256.
    assert groups["per-layer embeddings"].types == {"Q8_0": 1000 * 192 // 32 * 34}
    assert groups["norms and scales"].types.keys() == {"F32"}
    assert set(groups) == {
        "attention",
        "feed-forward",
        "norms and scales",
        "per-layer embeddings",
        "per-layer projections",
        "token embeddings",
    }
    assert report.memory is not None
    assert report.memory.on_demand_bytes == groups["per-layer embeddings"].n_bytes
    assert sum(report.types.values()) == sum(group.n_bytes for group in report.groups)
    assert sum(group.n_parameters for group in report.groups) == report.n_parameters


def test_experts_and_suppressed_tokens(converted: Fixture) -> None:
    report = inspect_file(converted("26b", "BF16", "BF16")["model"])
    assert (report.n_experts, report.n_experts_used) == (4, 2)
    experts = next(group for group in report.groups if group.name == "experts")
    assert report.n_parameters - report.n_effective == experts.n_parameters // 2
    assert report.attention is not None
    assert (report.attention.n_kv_heads_sliding, report.attention.n_kv_heads_full) == (2, 1)
    assert report.suppress_tokens == ()
    assert inspect_file(converted("12b", "BF16", "BF16")["model"]).suppress_tokens == (19, 22, 23)


def test_projectors(converted: Fixture) -> None:
    senses = {}
    for member in ("e2b", "31b", "12b"):
        report = inspect_file(converted(member, "BF16", "BF16")["projector"])
        assert report.kind == "projector"
        assert report.projector is not None
        senses[member] = (report.projector.vision, report.projector.audio, report.projector.width)
        assert report.attention is report.memory is report.template is None
    assert senses == {
        "e2b": ("gemma4v", "gemma4a", 256),
        "31b": ("gemma4v", None, 320),
        "12b": ("gemma4uv", "gemma4ua", 128),
    }


def test_drafters(converted: Fixture, tmp_path: Path) -> None:
    report = inspect_file(converted("assistant", "BF16", "BF16")["model"])
    assert (report.kind, report.member) == ("drafter", "custom")
    assert report.memory is not None
    assert report.memory.cache_full_bytes == report.memory.cache_sliding_bytes == 0
    path = empty_model(tmp_path / "d.gguf", 4, arch="gemma4-assistant", embedding_length_out=2816)
    assert (inspect_file(path).kind, inspect_file(path).member) == ("drafter", "26B-A4B")


def test_templates() -> None:
    for size in ("large", "small"):
        found = describe_template(templates.load(size))
        assert (found.family, found.outdated) == (size, False)
    old = templates.load("large").replace("{#- OpenAI Chat Completions:", "{#-")
    assert (describe_template(old).family, describe_template(old).outdated) == ("large", True)
    assert describe_template("{{ messages }}").family == "other"
    assert describe_template("").family == "none"


def test_json(converted: Fixture) -> None:
    for path in converted("e2b", "Q4_K_M", "BF16").values():
        report = inspect_file(path)
        read = json.loads(json.dumps(report.to_dict()))
        assert read["path"] == str(path)
        assert read["n_bytes"] == path.stat().st_size
        assert read["types"] == report.types
        assert read["groups"][0]["types"] == report.groups[0].types


def test_other_files_are_refused(tmp_path: Path) -> None:
    other = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    other.write_header_to_file()
    other.write_kv_data_to_file()
    other.write_tensors_to_file()
    other.close()
    with pytest.raises(GGUFError, match="holds llama"):
        inspect_file(tmp_path / "other.gguf")
    path = empty_model(tmp_path / "bare.gguf", 4, arch="gemma4-assistant")
    path.write_bytes(path.read_bytes().replace(b"sliding_window_pattern", b"sliding_window_pattexx"))
    with pytest.raises(GGUFError, match=r"gemma4-assistant\.attention\.sliding_window_pattern is missing"):
        inspect_file(path)
