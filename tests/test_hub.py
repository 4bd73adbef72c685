"""Names of the hub: loaded from its cache as it lies on disk, and errors that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HfHubHTTPError, RepositoryNotFoundError
from support.tokenizers import words
from support.zoo import hf_model, small_model

import mechinterp as mi
from mechinterp import MechinterpError, UsageError
from mechinterp.models.checkpoints import read_checkpoint
from mechinterp.models.footprint import footprint

HASH = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def snapshot(cache: Path) -> Path:
    """A model in it, laid out as the hub's client does."""
    repository = cache / "models--somebody--small"
    folder = repository / "snapshots" / HASH
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(HASH)
    hf_model("llama").save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


def answering(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Switch the hub on and let it answer with an error; the addresses that were asked for are noted."""
    asked: list[str] = []

    def metadata(url: str, *, timeout: float) -> None:
        assert timeout <= 30
        asked.append(url)
        raise error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("mechinterp.models.checkpoints.get_hf_file_metadata", metadata)
    return asked


def http(kind: Callable[..., HfHubHTTPError], status: int) -> HfHubHTTPError:
    return kind("no", response=httpx.Response(status, request=httpx.Request("HEAD", "https://huggingface.co")))


def test_a_name_is_loaded_from_the_cache_without_a_network(snapshot: Path) -> None:
    assert constants.HF_HUB_OFFLINE
    model = mi.load("somebody/small")
    assert model.name == "small"
    assert model.fingerprint() == small_model("llama").fingerprint()
    assert model.encode("ada bo") == words()("ada bo").input_ids
    assert footprint("somebody/small") == footprint(snapshot)


def test_a_name_without_its_weights_is_one_sentence(snapshot: Path) -> None:
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="the model in 'somebody/small' cannot be read: "):
        mi.load("somebody/small")


def test_a_name_that_is_not_there_while_the_hub_is_switched_off(cache: Path) -> None:
    sentence = "no model 'EleutherAI/gpt-j-6c' on this machine, and the hub is switched off here; did you mean Eleuther"
    with pytest.raises(UsageError, match=sentence):
        mi.load("EleutherAI/gpt-j-6c")


def test_a_gated_model_says_how_to_get_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, http(GatedRepoError, 403))
    sentence = (
        r"only to those it knows: accept its terms on huggingface.co/meta-llama/Llama-9, then run `hf auth login`"
    )
    with pytest.raises(MechinterpError, match=sentence) as error:
        mi.load("meta-llama/Llama-9")
    assert error.value.exit_code == 1
    assert asked == ["https://huggingface.co/meta-llama/Llama-9/resolve/main/config.json"]


def test_a_gated_model_of_which_only_the_configuration_is_here(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*given: object, **named: object) -> None:
        raise OSError("You are trying to access a gated repo.") from http(GatedRepoError, 403)

    monkeypatch.setattr("mechinterp.models.checkpoints.AutoModelForCausalLM.from_pretrained", gated)
    with pytest.raises(
        MechinterpError, match="the hub gives 'somebody/small' only to those it knows: accept its terms"
    ):
        read_checkpoint("somebody/small", None)


def test_a_name_that_the_hub_does_not_know(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, http(RepositoryNotFoundError, 401))
    sentence = (
        r"no model 'gpt2-xll', here or on the hub \(if it is private, run `hf auth login` first\); did you mean gpt2"
    )
    with pytest.raises(UsageError, match=sentence) as error:
        mi.load("gpt2-xll")
    assert error.value.exit_code == 2


def test_a_repository_that_is_no_model(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, EntryNotFoundError("no"))
    with pytest.raises(UsageError, match="'somebody/pictures' on the hub holds no config.json, so it is no model"):
        mi.load("somebody/pictures")


@pytest.mark.parametrize("error", [httpx.ConnectError("no route"), TimeoutError(), http(HfHubHTTPError, 503)])
def test_a_hub_that_does_not_answer(cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    answering(monkeypatch, error)
    with pytest.raises(
        MechinterpError, match=r"'gpt2-xl' is not on this machine, and the hub cannot be reached \("
    ) as said:
        mi.load("gpt2-xl")
    assert said.value.exit_code == 1


@pytest.mark.parametrize("name", ["some body/small", "somebody/-small-", "a..b"])
def test_a_name_that_cannot_be_one(cache: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UsageError, match=f"there is no model {name!r}, nor can there be: "):
        mi.load(name)
