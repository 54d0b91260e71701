"""What the job requires, installed beside what the image has: pip runs for real, on wheels made here."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from wheels import offline, wheel

from trainkit.code import codeartifact, environment, requirements
from trainkit.code.environment import Environment
from trainkit.code.install import install, requirements_file
from trainkit.errors import CodeError, StorageError, TrainkitError

TORCH = version("torch")


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip finds packages."""
    for name, value in offline(tmp_path / "links", tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    return tmp_path / "links"


@pytest.fixture
def installs(tmp_path: Path) -> Callable[..., tuple[Environment, list[str]]]:
    def run(text: str, *, allow: tuple[str, ...] = (), package: bool = False) -> tuple[Environment, list[str]]:
        source, said = tmp_path / "source", list[str]()
        source.mkdir(exist_ok=True)
        (source / "requirements.txt").write_text(text, errors="surrogateescape")
        file = source / "requirements.txt"
        made = install(source, root=tmp_path, file=file, package=package, allow_replace=allow, say=said.append)
        assert made is not None
        return made, said

    return run


Installs = Callable[..., tuple[Environment, list[str]]]


def test_a_requirement_that_would_replace_torch_is_refused_with_both_versions_and_the_way_round(
    links: Path, installs: Installs
) -> None:
    wheel(links, "torch", "2.0.0")
    wheel(links, "wantsold", "1.0", requires=["torch<2.1"])
    with pytest.raises(CodeError) as caught:
        installs("wantsold\n")
    first, remedy, *_ = str(caught.value).splitlines()
    assert first.startswith(
        f"requirements.txt: wantsold 1.0 depends on torch<2.1; this image has torch {TORCH}, which "
    )
    assert "TRAINKIT_ALLOW_REPLACE=torch" in remedy
    made, said = installs("wantsold\n", allow=("torch",))
    assert f"installed torch 2.0.0 in place of {TORCH}, wantsold 1.0 in " in said[-1]
    assert (made.site / "torch.py").is_file()


def test_what_must_match_a_hash_is_refused_where_it_does_not(links: Path, installs: Installs) -> None:
    packed = wheel(links, "tiny", "2.0")
    right = hashlib.sha256(packed.read_bytes()).hexdigest()
    made, _ = installs(f"--require-hashes\ntiny==2.0 --hash=sha256:{right}\n")
    assert (made.site / "tiny.py").is_file()
    with pytest.raises(CodeError, match=r"requirements.txt: THESE PACKAGES DO NOT MATCH THE HASHES"):
        installs(f"tiny==2.0 --hash=sha256:{'0' * 64}\n")


def test_an_index_that_cannot_be_reached_is_said_at_once_and_its_token_is_not(
    links: Path, installs: Installs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    with pytest.raises(StorageError) as caught:
        installs("--index-url http://user:s3cr3t-t0ken@127.0.0.1:9/simple\nnosuch\n")
    assert str(caught.value).startswith("requirements.txt: nosuch is not installed, and 127.0.0.1:9 cannot be reached")
    assert "EnableNetworkIsolation" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_an_index_whose_password_is_not_quoted_is_told_how_and_none_of_it_is_shown(
    links: Path, installs: Installs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:s3cr/t-t0ken@127.0.0.1/simple")
    with pytest.raises(CodeError, match=r"PIP_INDEX_URL is no address: .* write each / as %2F") as caught:
        installs("nosuch\n")
    assert "s3cr" not in str(caught.value)


def test_requirements_that_are_not_utf_8_are_the_cause_and_not_the_index(
    links: Path, installs: Installs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(CodeError, match=r"requirements\.txt is not UTF-8 text"):
        installs("caf\udce9==1\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nosuch==3\n", "requirements.txt: there is no nosuch==3 for this Python in the indexes that were asked"),
        ("-r more.txt\n", "more.txt, which requirements.txt names, for the job's requirements: No such file"),
        ("./\n", "requirements.txt: its build needs no-such-backend, which is neither in the image nor in the indexes"),
        ("tiny ===== 3\n", "requirements.txt: pip failed: Invalid requirement: 'tiny ===== 3'"),
    ],
)
def test_what_cannot_be_installed_is_named_and_nothing_half_done_is_kept(
    links: Path, installs: Installs, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/pyproject.toml").write_text('[build-system]\nrequires = ["no-such-backend"]\n')
    with pytest.raises(TrainkitError) as caught:
        installs(text)
    assert said in str(caught.value).splitlines()[0]
    assert [path for path in (tmp_path / "cache").glob("trainkit/requirements/*") if path.is_dir()] == []


def test_the_constraints_keep_what_was_built_together(tmp_path: Path) -> None:
    there = {
        "torch": "2.6.0+cu124",
        "nvidia-nccl-cu12": "2.21.5",
        "numpy": "1.26.4",
        "boto3": "1.43.1",
        "trainkit": "0.1",
    }
    kept = requirements.constraints(there, allow_replace=())
    assert kept == ["numpy>=1,<2", "nvidia-nccl-cu12==2.21.5", "torch==2.6.0+cu124", "trainkit==0.1"]
    assert requirements.constraints(there, allow_replace=("torch", "NumPy")) == ["trainkit==0.1"]


@pytest.mark.parametrize(
    ("line", "there"),
    [
        ("numpy", True), ("NumPy>=1.26,<3  # why not", True), ("numpy<1.26", False), ("# numpy<1", True),
        ("tiny", False), ("tiny; python_version < '3'", True), ("ruamel_yaml==0.18", True), ("numpy[all]", False),
        ("numpy @ file:///n.whl", False), ("-r more.txt", False), ("--no-index", False), ("numpy==2.0.0rc1", False),
    ],
)  # fmt: skip
def test_pip_is_not_asked_for_what_is_there(line: str, there: bool) -> None:
    image = {"numpy": "2.4.6", "ruamel-yaml": "0.18"}
    assert requirements.all_there({"requirements.txt": f"\n{line}\n"}, image) is there


def test_what_is_installed_is_found_again_by_all_that_it_depends_on(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("-r more.txt\n-e .\n")
    (tmp_path / "more.txt").write_text("tiny\n")

    def key(**facts: object) -> str:
        listed = requirements.texts(tmp_path / "requirements.txt")
        assert requirements.needs_folder(listed)
        return requirements.key(texts=listed, built=requirements.digest(tmp_path), **facts)

    keys = [key(), key(installed={"torch": "2"})]
    (tmp_path / "more.txt").write_text("tiny==2\n")
    keys.append(key())
    (tmp_path / "module.py").touch()
    keys.append(key())
    assert len(set(keys)) == 4
    assert key() == keys[-1]


def test_a_file_that_is_none_of_pips_is_refused_and_one_with_comments_only_is_none(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("\n# torch\n")
    assert requirements_file(tmp_path, None) is None
    assert requirements_file(tmp_path, "") is None
    with pytest.raises(CodeError, match=r"environment.yml is no file of pip's requirements"):
        requirements_file(tmp_path, "environment.yml")


@contextmanager
def service(token: str) -> Iterator[str]:
    """The two answers of CodeArtifact that are asked for."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            told = {"authorizationToken": token} if "token" in self.path else {"repositoryEndpoint": f"{url}/pypi/r/"}
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield url
        finally:
            server.shutdown()
            thread.join()


def test_an_index_of_codeartifact_is_named_by_its_arn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}.items():
        monkeypatch.setenv(name, value)
    with service("a/b+c=") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_CODEARTIFACT", url)
        index = codeartifact.index_url("arn:aws:codeartifact:eu-west-1:123456789012:repository/our/own")
    assert index == url.replace("http://", "http://aws:a%2Fb%2Bc%3D@") + "/pypi/r/simple/"
    with pytest.raises(CodeError, match="CA_REPOSITORY_ARN is 'arn:aws:s3:::b'"):
        codeartifact.index_url("arn:aws:s3:::b")


def test_a_cache_that_is_not_ours_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainkit.code.environment import cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file/in/the/way"))
    (tmp_path / "file").touch()
    assert cache(tmp_path) == tmp_path / ".trainkit/requirements"
    (tmp_path / "sagemaker/warmpoolcache").mkdir(parents=True)
    assert cache(tmp_path) == tmp_path / "sagemaker/warmpoolcache/trainkit/requirements"
    assert cache(tmp_path).stat().st_mode & 0o077 == 0


def test_what_nobody_has_used_for_a_month_goes_and_what_is_used_or_being_made_stays(
    links: Path, installs: Installs
) -> None:
    wheel(links, "one", "1.0")
    wheel(links, "two", "1.0")
    old, _ = installs("one\n")
    kept = old.folder.parent
    month = time.time() - environment.UNUSED - 60
    for name in ("half", "busy", "recent"):
        (kept / name).mkdir()
    for path in (old.folder / "whole.json", kept / "half", kept / "busy"):
        os.utime(path, (month, month))

    again, _ = installs("one\n")
    assert again == old, "it is used, and so it is young"
    with environment.locked(kept, "busy"):
        installs("two\n")
    assert sorted(path.name for path in kept.iterdir() if path.is_dir() and len(path.name) < 32) == ["busy", "recent"]
    assert old.whole

    os.utime(old.folder / "whole.json", (month, month))
    assert sorted(environment.prune(kept)) == sorted(["busy", old.folder.name])
    assert not old.folder.exists()
